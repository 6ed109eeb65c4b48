"""Which files the demo takes as pictures, and what it reads from them."""

import numpy as np
import PIL.Image
import pytest

SIZE = (40, 20)


def save_rotated(path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    PIL.Image.new("RGB", SIZE[::-1]).save(path, "jpeg", exif=exif)


def save_transparent(path):
    PIL.Image.new("RGBA", SIZE, (200, 0, 0, 10)).save(path, "png")


def save_animation(path):
    frames = [PIL.Image.new("RGB", SIZE, colour) for colour in ("red", "lime", "blue")]
    frames[0].save(path, "gif", save_all=True, append_images=frames[1:])


def save_for_print(path):
    PIL.Image.new("CMYK", SIZE).save(path, "jpeg")


def save_grey(path):
    PIL.Image.new("L", SIZE, 128).save(path, "tiff")


KINDS = {
    save_rotated: (0, 0, 0),
    save_transparent: (200, 0, 0),
    save_animation: (255, 0, 0),
    save_for_print: (255, 255, 255),
    save_grey: (128, 128, 128),
}


@pytest.mark.parametrize(("save", "colour"), KINDS.items(), ids=[save.__name__.removeprefix("save_") for save in KINDS])
def test_pictures_of_all_kinds_become_rgb(demo, tmp_path, save, colour):
    save(tmp_path / "picture")
    picture = demo.comparison.open_picture(tmp_path / "picture")
    assert (picture.mode, picture.size) == ("RGB", SIZE)
    np.testing.assert_allclose(np.asarray(picture).mean(axis=(0, 1)), colour, atol=2)


def cut(path):
    PIL.Image.effect_noise((90, 90), 50).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    "write",
    [lambda path: path.write_text("text"), lambda path: path.touch(), cut],
    ids=["text", "empty", "cut off"],
)
def test_files_that_are_no_pictures_are_refused_by_name(demo, tmp_path, write):
    write(tmp_path / "cat.png")
    with pytest.raises(ValueError, match=r"^cat.png cannot be read as a picture"):
        demo.comparison.open_picture(tmp_path / "cat.png")


@pytest.mark.parametrize("limit", ["MAX_PIXELS", "MAX_IMAGE_PIXELS"])
def test_huge_pictures_are_refused_before_they_are_read(demo, tmp_path, monkeypatch, limit):
    module = demo.comparison if limit == "MAX_PIXELS" else PIL.Image
    monkeypatch.setattr(module, limit, 100)
    PIL.Image.new("1", (10, 21)).save(tmp_path / "wall.png")
    with pytest.raises(ValueError, match=r"^wall.png has more than the \d+ megapixels that are taken"):
        demo.comparison.open_picture(tmp_path / "wall.png")
