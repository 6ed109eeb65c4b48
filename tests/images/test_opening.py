"""Pictures of every depth and mode, broken metadata and broken files."""

import io
import pickle
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from fatr_hf.images import PictureError, TooManyPixels, open_picture, opening, printable

RAMP = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.fixture
def warned(monkeypatch):
    """What is warned of while a test runs."""
    messages = []
    monkeypatch.setattr(opening.logger, "warning_once", messages.append)
    return messages


def pixels(picture):
    return np.asarray(picture)


def bits_12(path):
    """A TIFF of 12 bits a sample, two samples in three bytes, whose values are a ramp."""
    values = np.rint(RAMP * 4095).astype(int).ravel()
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(values[::2], values[1::2], strict=True)
    )
    entries = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 122), (277, 3, 1, 1), (278, 3, 1, 16), (279, 4, 1, len(packed))]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0) + packed)


DEEP = {
    "16-bit-png": ("a.png", lambda: np.rint(RAMP * 65535).astype(np.uint16)),
    "16-bit-tiff": ("a.tif", lambda: np.rint(RAMP * 65535).astype(np.uint16)),
    "16-bit-pgm": ("a.pgm", lambda: np.rint(RAMP * 65535).astype(np.int32)),
    "int32-of-16-bits": ("a.tif", lambda: np.rint(RAMP * 65535).astype(np.int32)),
    "int32-of-8-bits": ("a.tif", lambda: np.rint(RAMP * 255).astype(np.int32)),
    "float-to-1": ("a.tif", lambda: RAMP.astype(np.float32)),
    "float-to-255": ("a.tif", lambda: (RAMP * 255).astype(np.float32)),
    "float-to-65535": ("a.tif", lambda: (RAMP * 65535).astype(np.float32)),
}


@pytest.mark.parametrize("mode", ["RGB", "L", None], ids=str)
@pytest.mark.parametrize("case", DEEP, ids=str)
def test_deep_grey_has_the_same_256_levels_as_8_bits(tmp_path, case, mode, warned):
    name, values = DEEP[case]
    PIL.Image.fromarray(values()).save(tmp_path / name)
    picture = open_picture(tmp_path / name, mode)
    assert picture.mode == (mode or "L")
    grey = pixels(picture)[..., 0] if mode == "RGB" else pixels(picture)
    assert np.array_equal(grey, np.arange(256).reshape(16, 16))
    assert warned == []


def test_12_bits_are_scaled_by_their_own_range(tmp_path, warned):
    bits_12(tmp_path / "a.tif")
    grey = pixels(open_picture(tmp_path / "a.tif", "L"))
    assert np.array_equal(grey, np.rint(np.rint(RAMP * 4095) * 255 / 4095))
    assert warned == []


def test_a_deep_picture_that_becomes_nearly_black_is_warned_of(tmp_path, warned):
    PIL.Image.fromarray(np.rint(RAMP * 4095).astype(np.uint16)).save(tmp_path / "a.png")
    assert pixels(open_picture(tmp_path / "a.png")).max() == 16
    [message] = warned
    assert "a.png is nearly black: its highest value is 4095, and white is 65535" in message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((4, 4), np.nan, np.float32), "NaN or infinite"),
        (np.full((4, 4), np.inf, np.float32), "NaN or infinite"),
        (
            np.full((4, 4), -0.5, np.float32),
            "from -0.5 to -0.5, .* must have them from 0 to 1 or 255",
        ),
        (np.full((4, 4), 1e6, np.float32), r"to 1e\+06, .* from 0 to 1 or 255 or 65535"),
        (np.full((4, 4), 70000, np.int32), "to 70000, .* from 0 to 255 or 65535"),
    ],
    ids=["nan", "infinite", "negative", "huge", "int32"],
)
def test_values_that_do_not_tell_their_range_are_refused(tmp_path, values, words):
    PIL.Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(PictureError, match=rf"a\.tif cannot be read as a picture: .*{words}"):
        open_picture(tmp_path / "a.tif", "RGB")


def test_an_open_image_is_scaled_too_and_stays_as_it_is():
    deep = PIL.Image.fromarray(np.rint(RAMP * 65535).astype(np.uint16))
    assert np.array_equal(pixels(open_picture(deep, "L")), np.arange(256).reshape(16, 16))
    assert deep.mode == "I;16"
    assert pixels(deep).max() == 65535


@pytest.mark.parametrize("source", ["path", "text", "bytes", "stored-path", "stored-bytes", "image"])
def test_every_kind_of_source(tmp_path, source):
    PIL.Image.new("RGB", (5, 3), (9, 8, 7)).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    sources = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "stored-path": {"path": str(path), "bytes": None},
        "stored-bytes": {"path": "elsewhere.png", "bytes": path.read_bytes()},
        "image": PIL.Image.new("RGB", (5, 3), (9, 8, 7)),
    }
    picture = open_picture(sources[source], "RGB")
    assert (picture.size, picture.getpixel((4, 2))) == ((5, 3), (9, 8, 7))


def test_transparent_palettes_open_without_a_warning(tmp_path):
    picture = PIL.Image.new("P", (4, 4))
    picture.putpalette([200, 100, 50] * 256)
    picture.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert open_picture(tmp_path / "a.png", "RGB").getpixel((0, 0)) == (200, 100, 50)
    assert open_picture(tmp_path / "a.png", "L").mode == "L"


# Metadata


def with_exif_chunk(path):
    """A PNG with metadata that are none."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 6), "red").save(file, "png")
    data, chunk = file.getvalue(), b"eXIfbroken!!"
    checked = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(data[:33] + checked + data[33:])


def with_exif_block(path):
    PIL.Image.new("RGB", (8, 6), "red").save(path, exif=b"Exif\0\0broken!!", dpi=(72, 72))


@pytest.mark.parametrize(
    ("name", "write"), [("a.png", with_exif_chunk), ("a.jpg", with_exif_block)], ids=["png", "jpeg"]
)
def test_broken_metadata_leave_the_pixels_with_a_warning(tmp_path, name, write, warned):
    write(tmp_path / name)
    picture = open_picture(tmp_path / name, "RGB")
    assert picture.size == (8, 6)
    assert picture.getpixel((0, 0))[0] > 250
    [message] = warned
    assert f"{name} is used as it lies: its EXIF metadata cannot be read (not a TIFF file" in message


def test_pictures_are_turned_as_the_camera_says(tmp_path):
    picture, exif = PIL.Image.new("I;16", (6, 4)), PIL.Image.Exif()
    picture.putpixel((0, 0), 65535)
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    turned = open_picture(tmp_path / "a.png", "L")
    assert (turned.size, turned.getpixel((3, 0))) == ((4, 6), 255)


# Broken files


def huge(path):
    """A PNG that says it has 400 million pixels."""
    PIL.Image.new("RGB", (32, 32)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 20000, 20000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def test_huge_pictures_are_refused_with_the_limit(tmp_path):
    huge(tmp_path / "big.png")
    with pytest.raises(TooManyPixels, match=r"big\.png has more than the 179 megapixels .*178956970 pixels.*smaller"):
        open_picture(tmp_path / "big.png")


def test_a_limit_of_ones_own_holds_before_pixels_are_decoded(tmp_path):
    PIL.Image.new("1", (10, 21)).save(tmp_path / "wall.png")
    with pytest.raises(TooManyPixels, match=r"wall\.png has more than .*\(209 pixels\)"):
        open_picture(tmp_path / "wall.png", max_pixels=209)
    assert open_picture(tmp_path / "wall.png", max_pixels=210).size == (10, 21)


def test_pillows_warning_is_an_error_where_warnings_are(tmp_path, monkeypatch):
    PIL.Image.new("1", (10, 21)).save(tmp_path / "wall.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(TooManyPixels, match=r"wall\.png has more than .*\(150 pixels\)"):
        open_picture(tmp_path / "wall.png")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is no picture of a known format"),
        (b"text", "it is no picture of a known format"),
        # Pillow would start a program to read it.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "it is no picture of a known format"),
        (None, "No such file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, ""),
        (b"BM" + b"\xff" * 60, ""),
    ],
    ids=["empty", "text", "postscript", "missing", "png-of-zeros", "bmp-of-ones"],
)
def test_files_that_are_no_pictures_are_named(tmp_path, content, words):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PictureError, match=rf"a\.png cannot be read as a picture: .*{words}"):
        open_picture(tmp_path / "a.png")


def test_an_empty_row_is_no_picture():
    with pytest.raises(PictureError, match="an empty row cannot be read as a picture: it has neither a path nor bytes"):
        open_picture({"path": None, "bytes": None})


@pytest.mark.parametrize(
    "error", [PictureError("a.png", "it is none"), TooManyPixels("a.png", "it has more")], ids=repr
)
def test_errors_come_back_from_another_process(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.reason) == (type(error), str(error), error.reason)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat.png", "cat.png"),
        ("größe ☃.png", "größe ☃.png"),
        (b"caf\xe9.png".decode(errors="surrogateescape"), r"caf\xe9.png"),
        ("a\nb.png", r"a\nb.png"),
        ("\x1b[31m.png", r"\x1b[31m.png"),
    ],
    ids=["ascii", "letters", "latin-1", "newline", "escape"],
)
def test_names_can_be_printed(name, shown):
    assert printable(name) == shown
    assert printable(name).encode()
