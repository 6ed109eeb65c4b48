import gzip
import json
import os
import random
from dataclasses import FrozenInstanceError

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict
from labelled_images import (
    PHOTOGRAPHS,
    assert_columns,
    crop,
    labels_of,
    listing,
    save,
    table,
    write_crops,
    write_idx,
    write_mnist,
)
from sklearn.datasets import load_digits

from fatr_hf.training.data import load_image_data


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

    @pytest.mark.parametrize(
        ("folders", "expected"),
        [
            (["train/cat/2023", "train/cat/2024", "train/dog/2023", "test/cat/2023", "test/dog/2024"], ["cat", "dog"]),
            (["data/cat", "data/dog"], ["cat", "dog"]),
            (["Train/cat", "Train/dog", "Val/cat", "Val/dog"], ["cat", "dog"]),
            (["train", "bus"], ["bus", "train"]),
        ],
        ids=["years-below-classes", "one-folder-around", "capital-letters", "class-called-train"],
    )
    def test_classes_are_the_folders_below_a_split(self, tmp_path, folders, expected):
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True)
            for number in range(5):
                crop("cat", number).save(tmp_path / folder / f"{number}.png")
        assert load_image_data(str(tmp_path)).label_names == expected

    @pytest.mark.parametrize(
        ("folders", "words"),
        [
            (["train", "test"], "'test' has no folder of a class, such as CLASS/PICTURE"),
            (["train/cat", "train/dog", "train/dog/2023", "test/cat"], r"move or remove .*train/dog/2023$"),
        ],
        ids=["no-classes", "deeper-folder"],
    )
    def test_odd_folders_are_named(self, tmp_path, folders, words):
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for number in range(5):
                crop("cat", number).save(tmp_path / folder / f"{number}.png")
        with pytest.raises(ValueError, match=words):
            load_image_data(str(tmp_path))

    @pytest.mark.parametrize("name", [b"caf\xe9.png", b"a::b.png", b"a$_^$b.png", b"a\nb.png"], ids=repr)
    def test_names_of_files_do_not_matter(self, tmp_path, name):
        write_crops(tmp_path)
        os.rename(tmp_path / "cat" / "test_3.png", os.fsencode(tmp_path / "cat") + b"/" + name)
        data = load_image_data(str(tmp_path))
        images = [image.tobytes() for split in (data.train, data.test) for image in split["image"]]
        assert len(images) == 15
        assert crop("cat", 3).tobytes() in images

    def test_what_is_left_out_is_noted(self, tmp_path):
        write_crops(tmp_path)
        (tmp_path / "cat" / "test_0.png.json").write_text("{}")
        (tmp_path / "cat" / "._test_0.png").write_bytes(b"resource fork")
        [note] = load_image_data(str(tmp_path)).notes
        assert "15 pictures; files left out: 1 hidden (cat/._test_0.png), 1 of other kinds (.json 1)" in note

    def test_sixteen_bits_are_scaled(self, tmp_path):
        ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
        for name, values in (("up", ramp), ("down", ramp[::-1])):
            (tmp_path / name).mkdir()
            for number in range(5):
                PIL.Image.fromarray(np.ascontiguousarray(values)).save(tmp_path / name / f"{number}.png")
        data = load_image_data(str(tmp_path))
        assert {len(np.unique(np.asarray(image))) for image in data.train["image"]} == {256}

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
