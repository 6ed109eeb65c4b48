import datasets
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import ViTImageProcessor

from fatr_hf.analysis.images import (
    PHOTOGRAPHS,
    Batch,
    NamedImage,
    PictureBatches,
    batches,
    load_images,
    photographs,
    to_batch,
)

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
PIXELS = torch.randn(7, 3, 8, 8)
LABELS = torch.arange(7)


def picture(colour="red", size=(6, 4)):
    return PIL.Image.new("RGB", size, COLOURS[colour])


@pytest.fixture
def folder(tmp_path):
    """Pictures of three colours: one at the top, and two in folders of theirs."""
    for name, colour in (("b.png", "red"), ("cats/c.JPG", "green"), ("animals/dogs/a.webp", "blue")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(colour).save(path, **({"lossless": True} if name.endswith("webp") else {}))
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    (tmp_path / "pictures" / "folder.png").mkdir()
    return tmp_path / "pictures"


# Files


def test_pictures_of_nested_folders_in_the_order_of_their_paths(folder):
    images = load_images(folder)
    assert [(image.name, image.label) for image in images] == [("a", "animals"), ("b", None), ("c", "cats")]
    assert [image.picture.mode for image in images] == ["RGB"] * 3
    assert images[0].picture.getpixel((0, 0)) == COLOURS["blue"]
    assert [image.name for image in load_images(str(folder))] == ["a", "b", "c"]


def test_a_single_file_has_no_label(folder):
    [image] = load_images(folder / "cats" / "c.JPG")
    assert (image.name, image.label) == ("c", None)


def test_a_limit_takes_pictures_from_everywhere(tmp_path):
    for number in range(9):
        picture().save(tmp_path / f"{number}.png")
    names = {limit: [image.name for image in load_images(tmp_path, limit)] for limit in (1, 3, 4, 9, 20)}
    everything = list("012345678")
    assert names == {1: ["0"], 3: ["0", "3", "6"], 4: ["0", "2", "4", "6"], 9: everything, 20: everything}


def test_pictures_of_other_modes_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        suffix = "tiff" if mode == "CMYK" else "png"
        picture().convert(mode).save(tmp_path / f"{mode}.{suffix}")
    assert {image.picture.mode for image in load_images(tmp_path)} == {"RGB"}


def test_pictures_are_turned_as_the_camera_says(tmp_path):
    turned = picture(size=(6, 4))
    turned.putpixel((0, 0), COLOURS["blue"])
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # held upright
    turned.save(tmp_path / "turned.png", exif=exif)
    [image] = load_images(tmp_path)
    assert image.picture.size == (4, 6)
    assert image.picture.getpixel((3, 0)) == COLOURS["blue"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_broken_files_are_named(tmp_path, suffix):
    path = tmp_path / f"broken.{suffix}"
    picture(size=(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"broken\.{suffix} cannot be read as a picture: "):
        load_images(tmp_path)
    path.write_text("no picture")
    with pytest.raises(ValueError, match=rf"broken\.{suffix} cannot be read as a picture: "):
        load_images(path)


def test_pictures_are_opened_when_they_are_asked_for(folder):
    images = load_images(folder)
    assert images[1:3] == [images[1], images[2]]
    for path in folder.rglob("a.webp"):
        path.unlink()
    assert images[-1].name == "c"
    with pytest.raises(ValueError, match=r"a\.webp cannot be read as a picture"):
        images[0]


def test_missing_and_empty_sources_are_refused(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: give a picture, a folder of them, or 'phot"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"folder\.png holds no pictures, nor do the folders in it: no file ends in .*\.bmp"
    ):
        load_images(folder / "folder.png")
    for source in (folder, "photographs"):
        with pytest.raises(ValueError, match="limit=0 must be at least 1"):
            load_images(source, 0)


def test_photographs_are_there_without_a_network():
    pytest.importorskip("skimage")
    images = photographs()
    assert tuple(image.name for image in images) == PHOTOGRAPHS
    assert {image.picture.mode for image in images} == {"RGB"}
    assert [image.name for image in load_images("photographs", 2)] == ["astronaut", "cat"]
    astronaut, cat = (image.picture.size for image in images[:2])
    assert (astronaut, cat) == ((512, 512), (451, 300))


# Pixel values


def named(*colours, labels=None):
    labels = labels or [None] * len(colours)
    return [NamedImage(colour, picture(colour), label) for colour, label in zip(colours, labels, strict=True)]


def test_pixel_values_are_the_processors():
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5, 0.25, 0], image_std=[0.5, 0.25, 1])
    batch = to_batch(named("red", "green"), processor)
    expected = torch.tensor([[1.0, -1, 0], [-1, 3, 0]])[:, :, None, None].expand(-1, -1, 8, 8)
    torch.testing.assert_close(batch.pixel_values, expected)
    assert batch.labels is None


def test_batches_of_pictures_as_often_as_they_are_gone_through():
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    images = named("red", "green", "blue", labels=["cats", "dogs", "cats"])
    data = PictureBatches(images, processor, {"dogs": 0, "cats": 1}, batch_size=2)
    assert len(data) == 2
    for _ in range(2):
        first, last = data
        assert torch.equal(torch.cat([first.pixel_values, last.pixel_values]), to_batch(images, processor).pixel_values)
        assert (first.labels.tolist(), last.labels.tolist()) == ([1, 0], [1])


def test_processors_of_a_single_channel_get_grey_pictures():
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.0], image_std=[1.0])
    batch = to_batch(named("green"), processor)
    luma = round(0.587 * 255) / 255
    torch.testing.assert_close(batch.pixel_values, torch.full((1, 1, 8, 8), luma), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("labels", "label2id", "expected"),
    [
        (["cats", "dogs", "cats"], {"dogs": 0, "cats": 1}, [1, 0, 1]),
        (["cats", "dogs", "mice"], {"dogs": 0, "cats": 1}, [1, 0, -1]),
        (["cats", None, "cats"], {"dogs": 0, "cats": 1}, [1, -1, 1]),
        (["cats", "dogs", "cats"], {"dogs": "0", "cats": "1"}, [1, 0, 1]),
        (["cats", "dogs", "cats"], None, None),
        ([None, None, None], {"dogs": 0, "cats": 1}, None),
    ],
    ids=["known", "unknown", "without", "numbers-as-text", "no-classes", "no-labels"],
)
def test_labels_are_class_numbers_and_minus_one_for_none(labels, label2id, expected):
    images = named("red", "green", "blue", labels=labels)
    batch = to_batch(images, ViTImageProcessor(size={"height": 8, "width": 8}), label2id)
    assert expected == (None if batch.labels is None else batch.labels.tolist())


def test_no_images_make_no_batch():
    with pytest.raises(ValueError, match="There are no images"):
        to_batch([], ViTImageProcessor())


# Batches


class WithoutEnd(Dataset):
    """As many of PyTorch's data sets, tells where it ends by its length alone."""

    def __len__(self):
        return 7

    def __getitem__(self, place):
        assert place < 7, "read past the end"
        return {"pixel_values": PIXELS[place], "labels": int(LABELS[place])}


def as_dataset():
    table = datasets.Dataset.from_dict({"place": list(range(7))})

    def transform(rows):
        places = rows["place"]
        return {"pixel_values": [PIXELS[place] for place in places], "labels": [int(LABELS[place]) for place in places]}

    return table.with_transform(transform)


def examples():
    return [{"pixel_values": image, "labels": label} for image, label in zip(PIXELS, LABELS, strict=True)]


LABELLED = {
    "batch": Batch(PIXELS, LABELS),
    "list-of-examples": examples(),
    "generator": (example for example in examples()),
    "arrays": [
        {"pixel_values": image.numpy(), "labels": int(label)} for image, label in zip(PIXELS, LABELS, strict=True)
    ],
    "data-set": WithoutEnd(),
    "datasets": as_dataset(),
    "data-loader": DataLoader(WithoutEnd(), batch_size=3),
    "list-of-batches": [Batch(PIXELS[:3], LABELS[:3]), Batch(PIXELS[3:6], LABELS[3:6]), Batch(PIXELS[6:], LABELS[6:])],
}


@pytest.mark.parametrize("data", LABELLED.values(), ids=LABELLED)
def test_labelled_data(data):
    parts = list(batches(data, batch_size=3))
    assert [len(part.pixel_values) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.pixel_values for part in parts]), PIXELS)
    assert torch.equal(torch.cat([part.labels for part in parts]), LABELS)
    assert {part.labels.dtype for part in parts} == {torch.int64}


def test_data_without_labels():
    for data in (PIXELS, Batch(PIXELS), [{"pixel_values": image} for image in PIXELS]):
        parts = list(batches(data, batch_size=4))
        assert [len(part.pixel_values) for part in parts] == [4, 3]
        assert [part.labels for part in parts] == [None, None]
    mixed = [*examples()[:2], {"pixel_values": PIXELS[2]}]
    assert [part.labels is None for part in batches(mixed, batch_size=2)] == [False, True]
    [whole] = batches(mixed, batch_size=3)
    assert whole.labels.tolist() == [0, 1, -1]


def test_batches_of_an_iterable_stay_as_they_are():
    parts = list(batches(DataLoader(WithoutEnd(), batch_size=5), batch_size=2))
    assert [len(part.pixel_values) for part in parts] == [5, 2]


def test_batches_are_made_one_at_a_time():
    taken = []

    def stream():
        for place, example in enumerate(examples()):
            taken.append(place)
            yield example

    parts = batches(stream(), batch_size=2)
    assert taken == []
    next(parts)
    assert taken == [0, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "There are no images: the data hold none"),
        (PIXELS[:0], "There are no images: the data hold none"),
        (PIXELS[0], r"pixel_values of the shape \(3, 8, 8\) must be \(images, channels, height, width\)"),
        ([{"pixel_values": PIXELS[None]}], r"pixel_values of the shape \(1, 7, 3, 8, 8\) must be"),
        (5, "Data must be a tensor of pixel values, a data set or another iterable, not 5"),
        (["cat.png"], "or give mappings with pixel_values, not str"),
        ([{"image": PIXELS}], "or give mappings with pixel_values, not dict"),
        (TensorDataset(PIXELS), "or give mappings with pixel_values, not tuple"),
    ],
    ids=["empty", "empty-tensor", "one-image", "videos", "number", "names", "other-keys", "tuples"],
)
def test_other_data_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        list(batches(data))


def test_batch_size_is_at_least_one():
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        list(batches(PIXELS, batch_size=0))
