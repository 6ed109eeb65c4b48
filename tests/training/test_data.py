import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from labelled_images import assert_columns, crop, labels_of, save, table, write_crops, write_idx, write_mnist

from fatr_hf.training.data import load_image_data, read_images


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
            pytest.param([0, 10, 2], [10], Value("int16"), ["0", "2", "10"], [0, 2, 1, 2], id="integers-with-gaps"),
            pytest.param([2, 1], [1], None, ["1", "2"], [1, 0, 0], id="integers-from-1"),
            pytest.param([1000, 2000], [2000], None, ["1000", "2000"], [0, 1, 1], id="large-integers"),
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
        assert str(raised.value).count(".png)") == 5

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


class TestPictures:
    def test_digits_are_the_test_images(self):
        test = load_image_data("digits").test
        pictures = read_images("digits", 3)
        places = [0, len(test) // 3, 2 * len(test) // 3]
        assert [picture.label for picture in pictures] == [str(test[place]["labels"]) for place in places]
        assert pictures[1].picture.tobytes() == test[places[1]]["image"].convert("RGB").tobytes()
        assert len(read_images("digits")) == len(test)

    def test_idx_files_are_read_too(self, tmp_path):
        pictures = read_images(str(write_mnist(tmp_path)), 5)
        assert len(pictures) == 5
        assert {picture.picture.size for picture in pictures} == {(7, 8)}

    def test_other_sources_are_pictures_of_files(self, tmp_path):
        write_crops(tmp_path, ["cat", "coffee"], 2)
        assert [picture.label for picture in read_images(str(tmp_path))] == ["cat"] * 2 + ["coffee"] * 2
        with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
            read_images("nowhere")
