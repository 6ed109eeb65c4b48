"""Where a folder's classes and splits are."""

import json
from pathlib import Path

import PIL.Image
import pytest

from fatr_hf.images import read_class_folder
from fatr_hf.images.class_folders import odd_places


def make(root, *folders, count=2):
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            PIL.Image.new("RGB", (8, 8)).save(root / folder / f"{number}.png")
    return root


def labels(root, **arguments):
    return {name: split.labels() for name, split in read_class_folder(root, **arguments).splits.items()}


PAIR = ["cat", "cat", "dog", "dog"]


def test_folders_are_classes(tmp_path):
    assert labels(make(tmp_path, "cat", "dog")) == {"train": PAIR}


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "VAL"), ("training", "evaluation")], ids=str)
def test_folders_with_a_splits_name_are_splits(tmp_path, names):
    make(tmp_path, *(f"{split}/{label}" for split in names for label in ("cat", "dog")))
    assert labels(tmp_path) == dict.fromkeys(sorted(names), PAIR)


def test_folders_below_a_class_are_of_that_class(tmp_path):
    make(
        tmp_path,
        *(f"{split}/{label}/{year}" for split in ("train", "test") for label in ("cat", "dog") for year in "12"),
    )
    assert labels(tmp_path) == {split: [each for each in PAIR for _ in range(2)] for split in ("test", "train")}
    [note, _] = read_class_folder(tmp_path).notes
    assert "pictures below a class's folder are of that class: cat/1" in note


def test_named_folders_are_splits(tmp_path):
    make(tmp_path, *(f"{split}/{label}" for split in ("fold1", "fold2") for label in ("cat", "dog")))
    assert labels(tmp_path, named=("fold1", "fold2")) == {"fold1": PAIR, "fold2": PAIR}


def test_a_class_may_have_a_splits_name(tmp_path):
    assert labels(make(tmp_path, "bus", "train")) == {"train": ["bus", "bus", "train", "train"]}


def test_splits_without_classes_have_no_labels(tmp_path):
    assert labels(make(tmp_path, "train", "test")) == {"test": [None] * 2, "train": [None] * 2}


def test_a_single_folder_around_everything_is_looked_into(tmp_path):
    assert labels(make(tmp_path, "archive/cat", "archive/dog")) == {"train": PAIR}
    assert set(labels(make(tmp_path / "deep", "archive/train/cat", "archive/test/cat"))) == {"train", "test"}


def test_folders_and_files_beside_the_splits_are_named(tmp_path):
    make(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", "extra/a")
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "stray.png")
    (tmp_path / "docs").mkdir()
    found = read_class_folder(tmp_path)
    assert {name: split.labels() for name, split in found.splits.items()} == {"test": PAIR, "train": PAIR}
    [note] = found.notes
    assert "3 pictures outside of the splits test, train left out: extra/a/0.png, extra/a/1.png, stray.png" in note


def test_empty_folders_and_other_files_change_nothing(tmp_path):
    make(tmp_path, "cat", "dog")
    (tmp_path / "dog" / "empty").mkdir()
    (tmp_path / "cat" / "metadata.txt").write_text("")
    (tmp_path / "cat" / "metadata.json").write_text("{}")
    assert labels(tmp_path) == {"train": PAIR}
    assert "2 of other kinds (.json 1, .txt 1)" in " ".join(read_class_folder(tmp_path).notes)


def test_a_folder_with_no_picture_that_opens_here_is_named(tmp_path):
    make(tmp_path, "cat", "dog")
    (tmp_path / "bird").mkdir()
    for number in range(3):
        (tmp_path / "bird" / f"{number}.heic").write_bytes(b"photograph of a telephone")
    left_out, empty = read_class_folder(tmp_path).notes
    assert "3 of other kinds (.heic 3)" in left_out
    assert empty.endswith("bird holds files and no picture that opens here.")


def test_an_empty_split_is_refused(tmp_path):
    make(tmp_path, "train/cat", "train/dog")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"test holds no images, and its name is that of a split"):
        read_class_folder(tmp_path)


@pytest.mark.parametrize(
    ("folders", "stray", "odd"),
    [
        (("cat", "dog"), "stray.png", ["stray.png"]),
        (("cat", "dog"), "dog/more/1.png", ["dog/more"]),
        (("cat/2023", "dog/2023"), "dog/1.png", ["dog/1.png"]),
        (("cat/2023", "dog/2023"), None, []),
    ],
    ids=["beside-the-classes", "below-a-class", "above-the-others", "none"],
)
def test_pictures_at_another_depth_are_found(tmp_path, folders, stray, odd):
    make(tmp_path, *folders)
    if stray is not None:
        (tmp_path / stray).parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / stray)
    [split] = read_class_folder(tmp_path).splits.values()
    assert odd_places(split) == [Path(name) for name in odd]


# Tables


def test_a_table_gives_the_labels_and_names_what_it_does_not_list(tmp_path):
    make(tmp_path, ".", count=4)
    (tmp_path / "metadata.csv").write_text("file_name,label,weight\n2.png,dog,1\n0.png,cat,\n")
    found = read_class_folder(tmp_path)
    [split] = found.splits.values()
    assert (split.files, split.labels()) == ([Path("2.png"), Path("0.png")], ["dog", "cat"])
    assert split.columns["weight"] == [1, None]
    assert "metadata.csv does not list 2 pictures: 1.png, 3.png" in " ".join(found.notes)


def test_tables_of_every_kind_say_the_same(tmp_path):
    rows = [{"file_name": "1.png", "label": 7}, {"file_name": "0.png", "label": 5}]
    texts = {
        "csv": "file_name,label\n1.png,7\n0.png,5\n",
        "jsonl": "\n".join(json.dumps(row) for row in rows),
    }
    for kind, text in texts.items():
        make(tmp_path / kind, "train")
        (tmp_path / kind / "train" / f"metadata.{kind}").write_text(text)
        [split] = read_class_folder(tmp_path / kind).splits.values()
        assert (split.files, split.columns) == ([Path("1.png"), Path("0.png")], {"label": [7, 5]})


def test_the_table_of_another_tool_leaves_the_class_folders(tmp_path):
    make(tmp_path, "cat", "dog")
    (tmp_path / "metadata.csv").write_text("camera,lens\nx,y\n")
    assert labels(tmp_path) == {"train": PAIR}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("camera,lens\nx,y\n", "metadata.csv has no column 'file_name'"),
        ("file_name,label\nx.png,cat\n", "metadata.csv lists 1 files that are not there: x.png"),
        ("file_name,label\n0.png,cat,dog\n", "metadata.csv cannot be read as a table: .* more fields"),
        ('file_name,label\n"0.png,cat\n', "metadata.csv cannot be read as a table"),
        ("file_name,label\n0.png,caf\udce9\n", "metadata.csv cannot be read as a table: UnicodeDecodeError"),
    ],
    ids=["no-names", "missing", "ragged", "quotes", "latin-1"],
)
def test_tables_that_do_not_fit_are_refused_by_name(tmp_path, text, words):
    make(tmp_path, ".")
    (tmp_path / "metadata.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=words):
        read_class_folder(tmp_path)
