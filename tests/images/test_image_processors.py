"""Image processors beside models."""

import pytest
from transformers import BitImageProcessor, ViTConfig, ViTImageProcessor

from fatr_hf.images import check_processor, picture_mode, resize_processor
from fatr_hf.images.processors import processed_shape


def sized(height, width, **options):
    return ViTImageProcessor(size={"height": height, "width": width}, **options)


GREY = {"image_mean": [0.5], "image_std": [0.5]}


@pytest.mark.parametrize(("options", "mode"), [({}, "RGB"), (GREY, "L")], ids=["three", "one"])
def test_mode_is_that_of_the_normalised_channels(options, mode):
    assert picture_mode(sized(8, 8, **options)) == mode


@pytest.mark.parametrize(
    ("processor", "fields"),
    [
        (sized(32, 32), {"image_size": 32}),
        (sized(16, 64), {"image_size": [16, 64]}),
        (sized(32, 32, **GREY), {"image_size": 32, "num_channels": 1}),
        (BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}), {"image_size": 32}),
    ],
    ids=["square", "oblong", "grey", "cropped"],
)
def test_processors_that_fit(processor, fields):
    check_processor(processor, ViTConfig(patch_size=8, **fields))


@pytest.mark.parametrize(
    ("processor", "fields", "words"),
    [
        (
            sized(96, 96),
            {"image_size": 32},
            "pictures of 96 x 96 pixels, and the model takes 32 x 32: load",
        ),
        (sized(64, 16), {"image_size": [16, 64]}, "64 x 16 pixels, and the model takes 16 x 64"),
        (
            sized(32, 32),
            {"image_size": 32, "num_channels": 1},
            "3 channels, and the model takes 1: save one whose",
        ),
        (sized(32, 32, **GREY), {"image_size": 32}, "gives 1 channels, and the model takes 3"),
        (sized(32, 32), {"image_size": 32, "num_channels": 4}, "num_channels=4 must be one of 1, 3"),
        (
            BitImageProcessor(size={"shortest_edge": 32}, do_center_crop=False),
            {"image_size": 32},
            "a size that depends on the picture, and the model takes 32 x 32 pixels: set its size to {'height': 32",
        ),
    ],
    ids=["size", "sides", "grey-model", "grey-processor", "four-channels", "any-shape"],
)
def test_processors_that_do_not_fit_are_refused(processor, fields, words):
    with pytest.raises(ValueError, match=words):
        check_processor(processor, ViTConfig(patch_size=8, **fields))


@pytest.mark.parametrize(
    "processor",
    [sized(32, 32), BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32})],
    ids=["resized", "cropped"],
)
@pytest.mark.parametrize("size", [(64, 64), (64, 96)], ids=str)
def test_resized_processors_give_the_size_and_leave_the_first_alone(processor, size, tmp_path):
    resized = resize_processor(processor, size)
    resized.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    for each, expected in ((processor, (32, 32)), (resized, size), (again, size)):
        assert processed_shape(each, (48, 64))[1:] == expected


def test_a_cropped_share_is_kept():
    processor = BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32})
    assert resize_processor(processor, (64, 64)).size["shortest_edge"] == 96


def test_a_processor_that_gives_no_size_is_refused():
    with pytest.raises(ValueError, match="cannot give pictures of 64 x 64 pixels: it gives 48 x 64"):
        resize_processor(sized(32, 32, do_resize=False), (64, 64))
