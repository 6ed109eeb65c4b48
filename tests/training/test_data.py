import gzip
import json
import random
import struct
from dataclasses import FrozenInstanceError
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from sklearn.datasets import load_digits

from fatr_hf.training.data import load_image_data

PHOTOGRAPHS = {"astronaut": skimage.data.astronaut(), "cat": skimage.data.chelsea(), "coffee": skimage.data.coffee()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def crop(name, number):
    """A small part of a photograph, another one for each number."""
    return PIL.Image.fromarray(PHOTOGRAPHS[name][8 * number : 8 * number + 24, 40:72])


def write_crops(folder, names=tuple(PHOTOGRAPHS), count=5, suffix="png"):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            crop(name, number).save(folder / name / f"test_{number}.{suffix}")
    return folder


def table(labels, *, image="image", label="label", feature=None, **others):
    """A data set with a part of a photograph for each label."""
    images = [crop("coffee", row) for row in range(len(labels))]
    data = Dataset.from_dict({image: images, label: labels, **others})
    return data.cast_column(label, feature) if feature else data


def save(path, **splits):
    DatasetDict(splits).save_to_disk(path)
    return str(path)


def write_idx(path, array, magic=None):
    header = magic or bytes([0, 0, 8, array.ndim])
    data = header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder, suffix="", prefixes=("train", "t10k")):
    digits = load_digits()
    for start, prefix in zip((0, 50), prefixes, strict=False):
        rows = slice(start, start + 50)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", digits.images[rows, :, 1:])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", digits.target[rows])
    return folder


def listing(folder):
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def assert_columns(data):
    for split in (data.train, data.test):
        assert split.column_names == ["image", "labels"]
        assert split.features["image"] == Image()
        assert split.features["labels"] == data.train.features["labels"]
        assert isinstance(split.features["labels"], ClassLabel)
        assert isinstance(split[0]["image"], PIL.Image.Image)


def labels_of(split):
    return split["labels"][:]


class TestDigits:
    def test_images_and_labels_are_those_of_scikit_learn(self):
        data = load_image_data("digits", test_fraction=0.25)
        assert_columns(data)
        assert data.name == "digits"
        assert data.label_names == [str(digit) for digit in range(10)]
        assert (len(data.train), len(data.test)) == (1347, 450)
        digits = load_digits()
        expected = {(image.tobytes(), label) for image, label in zip(digits.images, digits.target, strict=True)}
        rows = [data.train[row] for row in range(20)] + [data.test[row] for row in range(20)]
        for row in rows:
            pixels = np.asarray(row["image"])
            assert pixels.shape == (8, 8, 3)
            assert pixels.dtype == np.uint8
            assert ((pixels[..., 0] / 255 * 16).round().tobytes(), row["labels"]) in expected
        assert max(np.asarray(row["image"]).max() for row in rows) == 255

    def test_split_keeps_the_mix_of_classes(self):
        data = load_image_data("digits")
        shares = [np.bincount(labels_of(split)) / len(split) for split in (data.train, data.test)]
        np.testing.assert_allclose(*shares, atol=0.003)

    def test_split_follows_the_seed_alone(self):
        first, other = load_image_data("digits", seed=1), load_image_data("digits", seed=2)
        random.seed(3), np.random.seed(3)
        before = random.getstate(), np.random.get_state()[1].tolist()
        again = load_image_data("digits", seed=1)
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before
        assert labels_of(first.test) == labels_of(again.test)
        assert [image.tobytes() for image in first.test["image"]] == [image.tobytes() for image in again.test["image"]]
        assert labels_of(first.test) != labels_of(other.test)

    def test_no_image_is_in_both_parts(self, tmp_path):
        source = save(tmp_path / "saved", train=table([0, 1] * 6, number=list(range(12))))
        data = load_image_data(source, test_fraction=0.5)
        images = [image.tobytes() for split in (data.train, data.test) for image in split["image"]]
        assert len(images) == len(set(images)) == 12

    def test_result_cannot_be_changed(self):
        data = load_image_data("digits")
        with pytest.raises(FrozenInstanceError):
            data.name = "other"

    def test_a_folder_of_that_name_needs_a_path(self, tmp_path, monkeypatch):
        write_crops(tmp_path / "digits")
        monkeypatch.chdir(tmp_path)
        assert load_image_data("./digits").label_names == ["astronaut", "cat", "coffee"]
        assert len(load_image_data("digits").label_names) == 10


class TestIdx:
    @pytest.mark.parametrize("suffix", ["", ".gz"], ids=["plain", "gzipped"])
    def test_both_splits(self, tmp_path, suffix):
        data = load_image_data(str(write_mnist(tmp_path, suffix)))
        assert_columns(data)
        assert data.name == tmp_path.name
        assert data.label_names == [str(digit) for digit in range(10)]
        digits = load_digits()
        for split, rows in ((data.train, slice(0, 50)), (data.test, slice(50, 100))):
            assert labels_of(split) == digits.target[rows].tolist()
            pixels = np.stack([np.asarray(image) for image in split["image"]])
            np.testing.assert_array_equal(pixels, digits.images[rows, :, 1:])

    def test_without_t10k_files_part_of_train_is_the_test_split(self, tmp_path):
        data = load_image_data(str(write_mnist(tmp_path, prefixes=["train"])), test_fraction=0.4)
        assert (len(data.train), len(data.test)) == (30, 20)

    def test_an_uncompressed_file_called_gz_is_read(self, tmp_path):
        write_mnist(tmp_path, ".gz")
        path = tmp_path / "train-labels-idx1-ubyte.gz"
        path.write_bytes(gzip.decompress(path.read_bytes()))
        assert len(load_image_data(str(tmp_path)).train) == 50

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            pytest.param(lambda data: data[:-1], ["truncated", "2800 bytes", "has 2799"], id="pixels-missing"),
            pytest.param(lambda data: data + b"\0", ["damaged", "has 2801"], id="bytes-too-many"),
            pytest.param(lambda data: data[:9], ["no idx file", "3 sizes"], id="header-cut"),
            pytest.param(lambda data: b"", ["no idx file"], id="no-bytes"),
            pytest.param(lambda data: b"\0\0\x0d\3" + data[4:], ["unsigned bytes", "00 00 0d 03"], id="floats"),
            pytest.param(lambda data: b"\0\0\x08\1" + data[4:], ["3 dimensions"], id="labels-for-images"),
            pytest.param(lambda data: gzip.compress(data)[:-9], ["truncated gzip"], id="gzip-cut"),
            pytest.param(lambda data: b"\x1f\x8b" + data, ["damaged", "gzip"], id="gzip-wrong"),
        ],
    )
    def test_damaged_files_are_refused(self, tmp_path, change, words):
        path = write_mnist(tmp_path) / "train-images-idx3-ubyte"
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(ValueError, match="source=") as raised:
            load_image_data(str(tmp_path))
        assert all(word in str(raised.value) for word in [path.name, *words])

    def test_numbers_of_images_and_labels_must_agree(self, tmp_path):
        write_idx(write_mnist(tmp_path) / "t10k-labels-idx1-ubyte", np.zeros(49))
        with pytest.raises(ValueError, match=r"t10k-images.* holds 50 images, but .*t10k-labels.* holds 49 labels"):
            load_image_data(str(tmp_path))

    @pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
    def test_missing_files_are_named(self, tmp_path, name):
        (write_mnist(tmp_path) / name).unlink()
        with pytest.raises(ValueError, match=rf"neither {name} nor {name}\.gz"):
            load_image_data(str(tmp_path))


class TestImageFolder:
    def test_one_folder_per_class(self, tmp_path):
        # The files are called test_0.png and so on, which does not make them a test split.
        data = load_image_data(str(write_crops(tmp_path / "photographs")), test_fraction=0.2)
        assert_columns(data)
        assert data.name == "photographs"
        assert data.label_names == ["astronaut", "cat", "coffee"]
        assert (len(data.train), len(data.test)) == (12, 3)
        assert sorted(labels_of(data.test)) == [0, 1, 2]
        row = data.train[0]
        expected = [crop(data.label_names[row["labels"]], number).tobytes() for number in range(5)]
        assert row["image"].tobytes() in expected

    @pytest.mark.parametrize("test_split", ["test", "validation", "val", "valid"])
    def test_splits_above_the_classes(self, tmp_path, test_split):
        write_crops(tmp_path / "train", count=3)
        write_crops(tmp_path / test_split, names=["cat", "coffee"], count=2)
        data = load_image_data(str(tmp_path))
        assert_columns(data)
        assert (len(data.train), len(data.test)) == (9, 4)
        assert {data.label_names[label] for label in labels_of(data.test)} == {"cat", "coffee"}

    def test_splits_of_any_name(self, tmp_path):
        write_crops(tmp_path / "Training", count=3)
        write_crops(tmp_path / "Testing", count=1)
        data = load_image_data(str(tmp_path), train_split="Training", test_split="Testing")
        assert (len(data.train), len(data.test)) == (9, 3)

    def test_splits_with_a_table_of_labels(self, tmp_path):
        for split in ("train", "test"):
            (tmp_path / split).mkdir()
            for number, name in enumerate(PHOTOGRAPHS):
                crop(name, number).save(tmp_path / split / f"{name}.png")
            rows = [json.dumps({"file_name": f"{name}.png", "label": name}) for name in PHOTOGRAPHS]
            (tmp_path / split / "metadata.jsonl").write_text("\n".join(rows))
        data = load_image_data(str(tmp_path))
        assert data.label_names == ["astronaut", "cat", "coffee"]
        assert (len(data.train), len(data.test)) == (3, 3)

    def test_a_class_called_train_is_no_split(self, tmp_path):
        write_crops(tmp_path)
        (tmp_path / "cat").rename(tmp_path / "train")
        assert load_image_data(str(tmp_path)).label_names == ["astronaut", "coffee", "train"]

    def test_path_with_special_characters(self, tmp_path):
        assert len(load_image_data(str(write_crops(tmp_path / "a [1]* b"))).train) == 12

    def test_links_to_folders_are_followed(self, tmp_path):
        write_crops(tmp_path / "originals")
        (tmp_path / "subset" / "coffee").mkdir(parents=True)
        (tmp_path / "subset" / "cat").symlink_to(tmp_path / "originals" / "cat")
        for path in (tmp_path / "originals" / "coffee").iterdir():
            (tmp_path / "subset" / "coffee" / path.name).symlink_to(path)
        data = load_image_data(str(tmp_path / "subset"))
        assert data.label_names == ["cat", "coffee"]
        assert len(data.train) + len(data.test) == 10

    def test_home_directory(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        write_crops(tmp_path / "photographs")
        assert load_image_data("~/photographs").name == "photographs"

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
    def test_images_keep_their_mode(self, tmp_path, mode):
        write_crops(tmp_path)
        for path in tmp_path.rglob("*.png"):
            with PIL.Image.open(path) as image:
                converted = image.convert(mode)
            converted.save(path)
        assert load_image_data(str(tmp_path)).train[0]["image"].mode == mode

    def test_one_class_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="one folder per class, for two or more classes"):
            load_image_data(str(write_crops(tmp_path, names=["cat"])))

    def test_images_at_different_depths_are_refused(self, tmp_path):
        crop("cat", 0).save(write_crops(tmp_path) / "stray.png")
        with pytest.raises(ValueError, match=r"one folder per class.*at one depth"):
            load_image_data(str(tmp_path))

    def test_a_folder_without_images_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").write_text("nothing to see")
        with pytest.raises(ValueError, match=r"source=.*holds no images.*digits.*idx.*parquet.*Hub"):
            load_image_data(str(tmp_path))

    def test_an_empty_split_folder_is_refused(self, tmp_path):
        write_crops(tmp_path / "train", count=2)
        (tmp_path / "test" / "cat").mkdir(parents=True)
        with pytest.raises(ValueError, match=r"test holds no images"):
            load_image_data(str(tmp_path))


class TestParquetAndArrow:
    def write(self, path, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            data.to_parquet(path)
        else:
            with pa.ipc.new_stream(str(path), data.data.schema) as writer:
                writer.write_table(data.data.table)
        return str(path)

    @pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
    def test_one_file(self, tmp_path, suffix):
        source = self.write(tmp_path / f"coffee{suffix}", table([0, 1, 2] * 4))
        data = load_image_data(source, test_fraction=0.25)
        assert_columns(data)
        assert data.name == "coffee"
        assert data.label_names == ["0", "1", "2"]
        assert (len(data.train), len(data.test)) == (9, 3)
        assert data.train[0]["image"].tobytes() in [crop("coffee", row).tobytes() for row in range(12)]

    @pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
    def test_folder_of_files(self, tmp_path, suffix):
        for split, labels in (("train", [0, 1, 2]), ("test", [2, 0])):
            self.write(tmp_path / "data" / f"{split}-00000-of-00001{suffix}", table(labels))
        (tmp_path / "LICENSE.txt").write_text("free")
        data = load_image_data(str(tmp_path))
        assert_columns(data)
        assert (labels_of(data.train), labels_of(data.test)) == ([0, 1, 2], [2, 0])

    def test_saved_dataset(self, tmp_path):
        table([0, 1] * 5).with_format("numpy").save_to_disk(tmp_path / "saved")
        data = load_image_data(str(tmp_path / "saved"), test_fraction=0.4)
        assert_columns(data)
        assert (len(data.train), len(data.test)) == (6, 4)

    def test_saved_splits(self, tmp_path):
        source = save(tmp_path / "saved", train=table([1, 0]), validation=table([1, 1, 0]))
        data = load_image_data(source)
        assert_columns(data)
        assert (labels_of(data.train), labels_of(data.test)) == ([1, 0], [1, 1, 0])
        assert data.test[2]["image"].tobytes() == crop("coffee", 2).tobytes()

    @pytest.mark.parametrize("kind", ["image-folder", "parquet", "saved", "saved-strings"])
    def test_nothing_is_written_beside_the_data(self, tmp_path, kind):
        if kind == "image-folder":
            source = str(write_crops(tmp_path / "photographs"))
        elif kind == "parquet":
            source = self.write(tmp_path / "coffee.parquet", table([0, 1] * 5))
        else:
            source = save(tmp_path / "saved", train=table([0, 1] * 5 if kind == "saved" else ["a", "b"] * 5))
        before = listing(tmp_path)
        data = load_image_data(source)
        data.train[0], data.test[0]
        assert listing(tmp_path) == before

    @pytest.mark.parametrize("row_groups", [0, 1])
    def test_a_file_without_rows_is_refused(self, tmp_path, row_groups):
        source = str(tmp_path / "none.parquet")
        rows = table([0, 1]).data.table
        with pq.ParquetWriter(source, rows.schema) as writer:
            for _ in range(row_groups):
                writer.write_table(rows.slice(0, 0))
        with pytest.raises(ValueError, match=r"source=.*none\.parquet.*cannot be read.*empty split"):
            load_image_data(source)

    @pytest.mark.parametrize("name", ["broken.parquet", "broken.arrow"])
    def test_broken_files_are_refused(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"not what the name says")
        with pytest.raises(ValueError, match=rf"source=.*{name}.* cannot be read"):
            load_image_data(str(tmp_path / name))

    def test_other_files_are_refused(self, tmp_path):
        (tmp_path / "labels.csv").write_text("image,label\na.png,1\n")
        with pytest.raises(ValueError, match=r"source=.*labels\.csv.*must end in \.parquet or \.arrow.*digits.*Hub"):
            load_image_data(str(tmp_path / "labels.csv"))


class TestHub:
    def test_arguments_reach_datasets(self, monkeypatch):
        calls = []

        def load_dataset(*args, **kwargs):
            calls.append((args, kwargs))
            return DatasetDict(train=table([0, 1]), test=table([1]))

        monkeypatch.setattr("fatr_hf.training.data.load_dataset", load_dataset)
        data = load_image_data("someone/photographs", config_name="small", revision="v1")
        assert calls == [(("someone/photographs",), {"name": "small", "revision": "v1"})]
        assert data.name == "someone/photographs"
        assert_columns(data)

    def test_without_a_network(self, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(ConnectionError, match=r"someone/photographs.*not a local path.*digits.*idx.*parquet.*Hub"):
            load_image_data("someone/photographs")

    def test_what_the_hub_cannot_have(self, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match=r"a/b/c.*not a local path"):
            load_image_data("a/b/c")

    @pytest.mark.parametrize("source", ["./nothing", "/no/thing", "~/no/thing", "../nothing", ""])
    def test_missing_paths_are_not_looked_up(self, source):
        with pytest.raises(FileNotFoundError, match=r"does not exist.*digits.*idx.*images.*parquet.*Hub") as raised:
            load_image_data(source)
        assert repr(source) in str(raised.value)

    @pytest.mark.parametrize("argument", ["config_name", "revision"])
    @pytest.mark.parametrize("kind", ["digits", "folder"])
    def test_its_arguments_are_refused_elsewhere(self, tmp_path, argument, kind):
        source = "digits" if kind == "digits" else str(tmp_path)
        with pytest.raises(ValueError, match=f"{argument}='x' is for data sets on the Hub only"):
            load_image_data(source, **{argument: "x"})


class TestSplits:
    @pytest.mark.parametrize(
        ("names", "arguments", "expected"),
        [
            pytest.param("train val", {}, "train val", id="train-val"),
            pytest.param("train valid validation", {}, "train validation", id="validation-before-valid"),
            pytest.param("train test validation", {}, "train test", id="test-first"),
            pytest.param("train test extra", {"train_split": "extra"}, "extra test", id="named-train"),
            pytest.param("train test extra", {"test_split": "extra"}, "train extra", id="named-test"),
            pytest.param("test validation", {"train_split": "test"}, "test validation", id="test-to-train-on"),
        ],
    )
    def test_choice(self, tmp_path, names, arguments, expected):
        sizes = {name: 2 + number for number, name in enumerate(names.split())}
        source = save(tmp_path / "saved", **{name: table(([0, 1] * size)[:size]) for name, size in sizes.items()})
        data = load_image_data(source, **arguments)
        assert [len(data.train), len(data.test)] == [sizes[name] for name in expected.split()]

    def test_the_only_split_may_have_any_name(self, tmp_path):
        assert len(load_image_data(save(tmp_path / "saved", everything=table([0, 1] * 5))).train) == 8

    @pytest.mark.parametrize(
        ("names", "arguments", "words"),
        [
            pytest.param("train test", {"train_split": "x"}, r"train_split='x'.*'train', 'test'", id="unknown-train"),
            pytest.param("train test", {"test_split": "x"}, r"test_split='x'.*'train', 'test'", id="unknown-test"),
            pytest.param("a b", {}, r"train_split must name.*'a', 'b'", id="no-train"),
            pytest.param("train b", {}, r"test_split must name.*'train', 'b'", id="no-test"),
            pytest.param("train test", {"train_split": "test", "test_split": "test"}, "must differ", id="same"),
        ],
    )
    def test_refusals(self, tmp_path, names, arguments, words):
        source = save(tmp_path / "saved", **{name: table([0, 1]) for name in names.split()})
        with pytest.raises(ValueError, match=words):
            load_image_data(source, **arguments)

    def test_empty_data_are_refused(self, tmp_path):
        write_idx(write_mnist(tmp_path) / "t10k-images-idx3-ubyte", np.zeros((0, 28, 28)))
        write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(0))
        with pytest.raises(ValueError, match=r"source=.* holds no images: its split 'test' is empty"):
            load_image_data(str(tmp_path))

    @pytest.mark.parametrize("empty", ["train", "test"])
    def test_empty_saved_splits_are_refused(self, tmp_path, empty):
        source = save(tmp_path / "saved", train=table([0, 1]), test=table([0, 1]))
        state = tmp_path / "saved" / empty / "state.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"_data_files": []}))
        with pytest.raises(ValueError, match=r"source=.*saved.* cannot be read.*empty split"):
            load_image_data(source)

    @pytest.mark.parametrize("test_fraction", [0, 1, -0.1, 1.5, float("nan")])
    def test_fraction_must_be_a_share(self, test_fraction):
        with pytest.raises(ValueError, match=rf"test_fraction={test_fraction!r} must lie between 0 and 1"):
            load_image_data("digits", test_fraction=test_fraction)

    @pytest.mark.parametrize("seed", [-1, 2**32])
    def test_seed_must_be_in_range(self, seed):
        with pytest.raises(ValueError, match=rf"seed={seed} must lie between 0 and"):
            load_image_data("digits", seed=seed)

    @pytest.mark.parametrize(
        ("labels", "test_fraction", "rarest"),
        [
            pytest.param([0, 0, 0, 0, 1], 0.4, "'1', has 1", id="one-image-of-a-class"),
            pytest.param([0, 0, 1, 1, 2, 2], 0.2, "has 2", id="fewer-test-images-than-classes"),
            pytest.param([0, 0, 1, 1, 2, 2], 0.8, "has 2", id="fewer-train-images-than-classes"),
            pytest.param([0] * 40 + [1, 1], 0.9, "'1', has 2", id="no-image-left-to-train-on"),
        ],
    )
    def test_too_few_images_to_split(self, tmp_path, labels, test_fraction, rarest):
        source = save(tmp_path / "saved", train=table(labels))
        with pytest.raises(ValueError, match=rf"too few images per class.*test_fraction={test_fraction}.*{rarest}"):
            load_image_data(source, test_fraction=test_fraction)


class TestColumns:
    @pytest.mark.parametrize("label", ["label", "labels", "fine_label"])
    def test_found_by_name(self, tmp_path, label):
        data = table([1, 0], label=label, image="img", coarse=[5, 5])
        data = load_image_data(save(tmp_path / "saved", train=data, test=data))
        assert_columns(data)
        assert labels_of(data.train) == [1, 0]

    def test_label_found_by_type(self, tmp_path):
        data = table([1, 0], label="species", feature=ClassLabel(names=["cat", "dog"]), other=[5, 5])
        data = load_image_data(save(tmp_path / "saved", train=data, test=data))
        assert data.label_names == ["cat", "dog"]

    def test_named(self, tmp_path):
        data = table([1, 0], image="photo", mask=[crop("cat", 0)] * 2, group=[0, 1])
        data = load_image_data(
            save(tmp_path / "saved", train=data, test=data), image_column="photo", label_column="group"
        )
        assert_columns(data)
        assert labels_of(data.train) == [0, 1]

    def test_named_column_of_encoded_images(self, tmp_path):
        path = tmp_path / "cat.png"
        crop("cat", 0).save(path)
        data = Dataset.from_dict({"png": [path.read_bytes()] * 4, "label": [0, 1] * 2})
        data = load_image_data(save(tmp_path / "saved", train=data), image_column="png", test_fraction=0.5)
        assert data.test[0]["image"].tobytes() == crop("cat", 0).tobytes()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            pytest.param({"image_column": "x"}, r"image_column='x'.*'image', 'label', 'size'", id="unknown-image"),
            pytest.param({"label_column": "x"}, r"label_column='x'.*'image', 'label', 'size'", id="unknown-label"),
            pytest.param({"image_column": "size"}, r"image_column='size' must hold images.*int64", id="no-images"),
        ],
    )
    def test_named_columns_must_fit(self, tmp_path, arguments, words):
        source = save(tmp_path / "saved", train=table([0, 1] * 3, size=list(range(6))))
        with pytest.raises(ValueError, match=words):
            load_image_data(source, **arguments)

    def test_no_image_column(self, tmp_path):
        source = save(tmp_path / "saved", train=Dataset.from_dict({"label": [0, 1], "size": [3, 4]}))
        with pytest.raises(ValueError, match=r"image_column must name.*'label', 'size'.*0 of them"):
            load_image_data(source)

    def test_two_image_columns(self, tmp_path):
        data = table([0, 1], mask=[crop("cat", 0)] * 2)
        with pytest.raises(ValueError, match=r"image_column must name.*'mask'.*2 of them"):
            load_image_data(save(tmp_path / "saved", train=data))

    def test_no_label_column(self, tmp_path):
        source = save(tmp_path / "saved", train=table([0, 1], label="species"))
        with pytest.raises(ValueError, match=r"label_column must name.*'image', 'species'.*0 are a ClassLabel"):
            load_image_data(source)

    def test_column_missing_from_the_test_split(self, tmp_path):
        source = save(tmp_path / "saved", train=table([0, 1]), test=table([0, 1]).remove_columns("label"))
        with pytest.raises(ValueError, match=r"label_column='label' must be one of.*\['image'\] of split 'test'"):
            load_image_data(source)


class TestLabels:
    @pytest.mark.parametrize(
        ("train", "test", "feature", "names", "encoded"),
        [
            pytest.param([0, 10, 2], [10], Value("int16"), [str(i) for i in range(11)], [0, 10, 2, 10], id="integers"),
            pytest.param(["dog", "cat"], ["cat"], None, ["cat", "dog"], [1, 0, 0], id="strings"),
            pytest.param(["10", "9"], ["10"], None, ["10", "9"], [0, 1, 0], id="digits-as-strings"),
            pytest.param(
                [2, 0], [2], ClassLabel(names=["b", "unused", "a"]), ["b", "unused", "a"], [2, 0, 2], id="ClassLabel"
            ),
        ],
    )
    def test_become_class_numbers(self, tmp_path, train, test, feature, names, encoded):
        splits = {"train": table(train, feature=feature), "test": table(test, feature=feature)}
        data = load_image_data(save(tmp_path / "saved", **splits))
        assert data.label_names == names
        assert labels_of(data.train) + labels_of(data.test) == encoded

    def test_class_numbers_of_the_test_split_are_those_of_train(self, tmp_path):
        train = table([0, 1], feature=ClassLabel(names=["cat", "dog"]))
        test = table([0, 1], feature=ClassLabel(names=["dog", "cat"]))
        data = load_image_data(save(tmp_path / "saved", train=train, test=test))
        assert labels_of(data.test) == [1, 0]
        assert_columns(data)

    @pytest.mark.parametrize(
        ("labels", "feature", "words"),
        [
            pytest.param(
                [0, None, 1], Value("int64"), "1 of the labels in split 'train' are missing: row 1", id="None"
            ),
            pytest.param(["a", "b", None], None, "1 of the labels in split 'train' are missing: row 2", id="no-string"),
            pytest.param([0, -1, 1], None, "out of range, which is 0 to 99999 .*-1 in row 1", id="negative"),
            pytest.param([0, 1, 10**12], None, "out of range.*1000000000000 in row 2", id="identifier"),
            pytest.param([0, -1, 1], ClassLabel(3), "out of range, which is 0 to 2 .*-1 in row 1", id="no-class"),
            pytest.param(
                [0.0, 1.0, 1.0], None, "label_column='label' must hold integers, strings.*float64", id="float"
            ),
            pytest.param([True, False, True], None, "label_column='label' must hold integers.*bool", id="bool"),
            pytest.param([[0], [1], [1]], None, "label_column='label' must hold integers.*List", id="lists"),
            pytest.param([1, 1, 1], None, "two or more classes, but all 3 are '1'", id="one-class"),
            pytest.param(["cat"] * 3, None, "two or more classes, but all 3 are 'cat'", id="one-name"),
            pytest.param([1, 1, 1], ClassLabel(3), "two or more classes, but all 3 are '1'", id="one-ClassLabel"),
        ],
    )
    def test_refusals(self, tmp_path, labels, feature, words):
        source = save(tmp_path / "saved", train=table(labels, feature=feature))
        with pytest.raises(ValueError, match=words):
            load_image_data(source)

    def test_numbers_beyond_the_names_of_a_class_label(self, tmp_path):
        data = table([0, 1, 2])
        data.info.features["label"] = ClassLabel(names=["cat", "dog"])
        with pytest.raises(ValueError, match=r"out of range, which is 0 to 1 .*: 2 in row 2"):
            load_image_data(save(tmp_path / "saved", train=data))

    @pytest.mark.parametrize(
        ("train", "test", "feature"),
        [
            pytest.param([0, 1, 3], [0, 2], None, id="integer-between"),
            pytest.param([0, 1], [0, 2], None, id="integer-above"),
            pytest.param(["0", "1"], ["0", "2"], None, id="string"),
            pytest.param([0, 1], [0, 2], ClassLabel(3), id="ClassLabel"),
        ],
    )
    def test_classes_to_test_on_must_be_trained_on(self, tmp_path, train, test, feature):
        splits = {"train": table(train, feature=feature), "test": table(test, feature=feature)}
        with pytest.raises(ValueError, match="1 of the classes to test on have no image to train on: 2"):
            load_image_data(save(tmp_path / "saved", **splits))


class TestUnreadableImages:
    def cut(self, path):
        path.write_bytes(path.read_bytes()[:-40])

    @pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
    def test_truncated_files_are_named(self, tmp_path, suffix):
        broken = write_crops(tmp_path, suffix=suffix) / "cat" / f"test_3.{suffix}"
        self.cut(broken)
        with pytest.raises(ValueError, match="1 of the 15 images of split 'train' cannot be read") as raised:
            load_image_data(str(tmp_path))
        assert str(broken) in str(raised.value)

    def test_five_of_many_are_named(self, tmp_path):
        write_crops(tmp_path)
        for path in [*(tmp_path / "cat").iterdir(), tmp_path / "coffee" / "test_0.png"]:
            path.write_text("no image")
        with pytest.raises(ValueError, match=r"6 of the 15 images.*, \.\.\.") as raised:
            load_image_data(str(tmp_path))
        assert str(raised.value).count(".png") == 5

    def test_rows_are_named_where_there_are_no_files(self, tmp_path):
        images = [{"bytes": b"no image", "path": None}, {"bytes": b"", "path": "b.png"}, None]
        features = Features({"image": Image(), "label": Value("int64")})
        test = Dataset.from_dict({"image": images, "label": [0, 1, 1]}, features=features)
        source = save(tmp_path / "saved", train=table([0, 1]), test=test)
        with pytest.raises(ValueError, match=r"3 of the 3 images of split 'test'.*: row 0, row 1 \(b\.png\), row 2$"):
            load_image_data(source)

    def test_check_can_be_left_out(self, tmp_path):
        self.cut(write_crops(tmp_path) / "cat" / "test_3.png")
        assert len(load_image_data(str(tmp_path), check_images=False).train) == 12


def test_sources_agree_on_one_set_of_images(tmp_path):
    folder = write_crops(tmp_path / "folder")
    whole = datasets.load_dataset("imagefolder", data_files={"train": f"{folder}/**"}, split="train")
    Path(tmp_path / "parquet").mkdir()
    whole.to_parquet(tmp_path / "parquet" / "photographs.parquet")
    whole.save_to_disk(tmp_path / "saved")
    loaded = [load_image_data(str(tmp_path / kind)) for kind in ("folder", "parquet", "saved")]
    contents = [[(row["image"].tobytes(), row["labels"]) for row in data.test] for data in loaded]
    assert contents[0] == contents[1] == contents[2]
