"""Which files count as pictures."""

import os
from pathlib import Path

import PIL.features
import PIL.Image
import pytest

from fatr_hf.images import list_folder, picture_endings


def write(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (8, 8)).save(path, **options)


def names(folder):
    return [path.as_posix() for path in list_folder(folder).pictures]


def test_every_format_that_pillow_opens_is_found(tmp_path):
    kinds = ["png", "jfif", "jpe", "JPG", "webp", "tiff", "gif", "bmp", "apng", "jp2", "ppm", "tga", "qoi", "ico"]
    kinds = [kind for kind in kinds if f".{kind.lower()}" in picture_endings()]
    assert len(kinds) >= 12
    for kind in kinds:
        write(tmp_path / f"a.{kind}")
    assert names(tmp_path) == sorted(f"a.{kind}" for kind in kinds)


@pytest.mark.skipif(not PIL.features.check("avif"), reason="this pillow was built without AVIF")
def test_avif_is_found(tmp_path):
    write(tmp_path / "a.avif")
    assert names(tmp_path) == ["a.avif"]


@pytest.mark.parametrize("ending", [".pdf", ".eps", ".h5", ".mpg", ".json", ".heic", ".part", ".txt", ""], ids=str)
def test_what_pillow_does_not_decode_is_no_picture(ending):
    assert ending not in picture_endings()


def test_hidden_and_sidecar_files_are_left_out_and_counted(tmp_path):
    for name in ("cat/0.png", "cat/._0.png", "__MACOSX/cat/0.png", "cat/.ipynb_checkpoints/0.png", ".git/a.png"):
        write(tmp_path / name)
    for name in ("cat/0.png.json", "cat/0.png.xmp", "Thumbs.db", "README", "0.jpg.part", "1.jpg.part"):
        (tmp_path / name).write_text("{}")
    folder = list_folder(tmp_path)
    assert folder.pictures == [Path("cat/0.png")]
    assert len(folder.hidden) == 4
    words = folder.left_out()
    assert "1 picture; files left out: 4 hidden (.git, __MACOSX, cat/._0.png, cat/.ipynb_checkpoints)" in words
    assert "6 of other kinds (" in words
    assert ".part 2" in words
    assert "no ending 1" in words


def test_nothing_is_said_where_nothing_is_left_out(tmp_path):
    write(tmp_path / "0.png")
    assert list_folder(tmp_path).left_out() is None


def test_links_are_followed_and_never_in_circles(tmp_path):
    write(tmp_path / "originals" / "0.png")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "originals")
    (folder / "file.png").symlink_to(tmp_path / "originals" / "0.png")
    (folder / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (folder / "circle").symlink_to(folder)
    assert names(folder) == ["file.png", "linked/0.png", "nowhere.png"]


def test_names_that_are_no_utf_8_are_pictures_as_others(tmp_path):
    write(tmp_path / "0.png")
    os.rename(tmp_path / "0.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    [picture] = list_folder(tmp_path).pictures
    assert os.fsencode(picture) == b"caf\xe9.png"


def test_a_folder_called_like_a_picture_is_none(tmp_path):
    (tmp_path / "folder.png").mkdir()
    assert list_folder(tmp_path) == (tmp_path, [], [], [])
