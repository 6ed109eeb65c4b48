"""What a model is given: pixel values and labels, and what is refused before it runs."""

import pytest
import torch

from fatr_hf.analysis import analyze, compare, noise_sensitivity, trace
from fatr_hf.analysis.diagnosis import diagnose
from fatr_hf.analysis.images import Batch
from fatr_hf.analysis.model_inputs import class_numbers, model_batches
from fatr_hf.analysis.outputs import judge, model_output

PIXELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def with_nan():
    pixels = PIXELS.clone()
    pixels[1, 2, 3, 4] = torch.nan
    return pixels


BAD_PIXELS = {
    "channels-last": (PIXELS.movedim(1, -1), r"\(4, 32, 32, 3\) must be .* with 3 channels: give pixel_values.movedim"),
    "grey": (PIXELS[:, :1], r"\(4, 1, 32, 32\) must be .* with 3 channels"),
    "single-picture": (PIXELS[0], r"of the shape \(3, 32, 32\) must be \(images, channels, height, width\)"),
    "raw-bytes": (PIXELS.byte(), r"pixel_values of torch.uint8 must be floating-point numbers, normalised"),
    "integers": (PIXELS.long(), r"pixel_values of torch.int64 must be floating-point"),
    "nan": (with_nan(), "pixel_values hold numbers that are NaN or infinite"),
    "infinite": (PIXELS / 0, "pixel_values hold numbers that are NaN or infinite"),
}
bad_pixels = pytest.mark.parametrize(("pixels", "words"), BAD_PIXELS.values(), ids=BAD_PIXELS)


@pytest.fixture
def model(make_sharp_fatr):
    return make_sharp_fatr()


@bad_pixels
@pytest.mark.parametrize(
    "function", [trace, model_output, analyze, diagnose, noise_sensitivity], ids=lambda f: f.__name__
)
def test_pixels_that_no_processor_gives_are_refused(model, function, pixels, words):
    with pytest.raises(ValueError, match=words):
        function(model, pixels)


@bad_pixels
def test_comparisons_refuse_them_too(model, pixels, words):
    with pytest.raises(ValueError, match=words):
        compare({"FATR": model}, pixels)


@pytest.mark.parametrize(
    "pixels", [None, "photographs", PIXELS.numpy(), [PIXELS[0]]], ids=["none", "str", "numpy", "list"]
)
def test_what_is_no_tensor_is_refused(model, pixels):
    for function in (trace, model_output):
        with pytest.raises(ValueError, match=r"pixel_values must be a tensor \(images, channels, height, width\), not"):
            function(model, pixels)


def test_a_single_picture_and_no_picture_are_refused_by_traces(model):
    with pytest.raises(ValueError, match=r"of a single picture give pixel_values\[None\]"):
        trace(model, PIXELS[0])
    with pytest.raises(ValueError, match=r"\(0, 3, 32, 32\) must be .*, at least one image"):
        model_output(model, PIXELS[:0])


def test_images_of_several_sizes_are_not_mixed(make_model):
    dinov2 = make_model("dinov2")  # takes any size
    data = [Batch(PIXELS), Batch(PIXELS[..., :24])]
    with pytest.raises(ValueError, match=r"shapes \(3, 32, 32\) and \(3, 32, 24\) cannot be taken together"):
        analyze(dinov2, data)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", True, None])
def test_batch_sizes_are_positive_integers(model, batch_size):
    with pytest.raises(ValueError, match=r"batch_size=.* must be an integer of at least 1"):
        analyze(model, PIXELS, batch_size=batch_size)


def test_images_without_a_class_are_marked_whatever_says_so(model, make_sharp_fatr):
    batch = Batch(PIXELS, torch.tensor([4, -1, -100, 0], dtype=torch.int32))
    assert class_numbers(model, batch).tolist() == [4, -1, -1, 0]
    assert class_numbers(model, batch).dtype == torch.int64
    assert class_numbers(model, Batch(PIXELS)) is None
    assert class_numbers(make_sharp_fatr(num_labels=0), batch) is None
    [given] = model_batches(model, batch, 4)
    assert given.labels.tolist() == [4, -1, -1, 0]


BAD_LABELS = {
    "from-1": (torch.tensor([1, 2, 3, 5]), "labels hold 5, which is no class of the model: its classes are 0 to 4"),
    "negative": (torch.tensor([0, 1, 2, -2]), "labels hold -2, which is no class of the model"),
    "one-hot": (
        torch.eye(4, 5),
        r"labels of the shape \(4, 5\) and torch.float32 must be one integer for each of the 4",
    ),
    "shares": (torch.rand(4), "torch.float32 must be one integer"),
    "bool": (torch.ones(4, dtype=torch.bool), "torch.bool must be one integer"),
    "too-few": (torch.tensor([0, 1, 2]), r"\(3,\) and torch.int64 must be one integer for each of the 4 images"),
    "list": ([0, 1, 2, 3], "labels must be a tensor"),
}


@pytest.mark.parametrize(("labels", "words"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_labels_that_are_no_classes_are_refused(model, labels, words):
    batch = Batch(PIXELS, labels)
    for refuse in (
        lambda: judge(model, batch, torch.zeros(4, 5), torch.zeros(4, 5)),
        lambda: compare({"FATR": model}, [batch]),
        lambda: diagnose(model, [batch]),
    ):
        with pytest.raises(ValueError, match=words):
            refuse()
