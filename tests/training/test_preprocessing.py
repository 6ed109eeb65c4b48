import dataclasses
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from rounding import assert_rounded_alike
from transformers import ViTImageProcessor

from fatr_hf.training.augmentation import AUGMENTATIONS, Augmentation
from fatr_hf.training.preprocessing import MixingCollator, ReproducibleImages, collate, image_transform


@pytest.fixture
def processor():
    return ViTImageProcessor(size={"height": 16, "width": 24})


def image(mode="RGB", size=(40, 30)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def examples(count, channels=3, size=8, classes=5):
    """Pictures of one value each, their own number, with labels in turn."""
    return [
        {"pixel_values": torch.full((channels, size, size), float(number)), "labels": number % classes}
        for number in range(count)
    ]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_transform_gives_what_the_processor_gives(processor, mode):
    batch = image_transform(processor)({"image": [image(mode), image(mode, (16, 16))], "labels": [1, 0]})
    expected = processor([image(mode).convert("RGB")], return_tensors="pt")["pixel_values"]
    assert batch["pixel_values"].shape == (2, 3, 16, 24)
    assert torch.equal(batch["pixel_values"][:1], expected)
    assert batch["labels"] == [1, 0]


@pytest.mark.parametrize("augmentation", ["none", "deit"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_processor_of_one_channel_gets_grey_images(mode, augmentation):
    processor = ViTImageProcessor(size={"height": 28, "width": 28}, image_mean=[0.3], image_std=[0.4])
    batch = image_transform(processor, augmentation)({"image": [image(mode, (28, 28))] * 8, "labels": [1] * 8})
    assert batch["pixel_values"].shape == (8, 1, 28, 28)
    if augmentation == "none":
        expected = (torch.tensor(np.asarray(image(mode, (28, 28)).convert("L"))) / 255 - 0.3) / 0.4
        assert_rounded_alike(batch["pixel_values"][0, 0], expected)


@pytest.mark.parametrize("augmentation", ["light", "small", "deit"])
def test_augmentation_is_random_and_seeded(processor, augmentation):
    transform = image_transform(processor, augmentation)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(transform({"image": [image()], "labels": [0]})["pixel_values"])
    assert draws[0].shape == (1, 3, 16, 24)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_images_of_a_batch_are_augmented_apart_and_erased_after_normalisation(processor):
    augmentation = dataclasses.replace(AUGMENTATIONS["none"], random_erasing=1.0)
    pixel_values = image_transform(processor, augmentation)({"image": [image()] * 6, "labels": [0] * 6})["pixel_values"]
    plain = image_transform(processor)({"image": [image()], "labels": [0]})["pixel_values"]
    places = {tuple((picture != plain[0]).all(0).nonzero()[0].tolist()) for picture in pixel_values}
    assert len(places) > 1
    # Normalised pixels reach from -1 to 1, noise further.
    assert pixel_values.abs().amax() > 1.5 > 1 >= plain.abs().amax()


@pytest.mark.parametrize(("resample", "invents_greys"), [(0, False), (2, True), (3, True)], ids=str)
def test_crop_is_resized_as_the_processor_resizes(resample, invents_greys):
    processor = ViTImageProcessor(size={"height": 64, "width": 64}, resample=resample)
    black_and_white = image("1")
    pixel_values = image_transform(processor, "light")({"image": [black_and_white], "labels": [0]})["pixel_values"]
    assert (len(pixel_values.unique()) > 2) is invents_greys


def test_processor_without_a_size_serves_unless_pictures_are_to_be_resized():
    processor = ViTImageProcessor(do_resize=False, size=None)
    processor.size = None
    assert image_transform(processor, "small")({"image": [image()], "labels": [0]})["pixel_values"].shape[2:] == (
        30,
        40,
    )
    with pytest.raises(ValueError, match="needs an image processor with a fixed size"):
        image_transform(processor, "deit")


def test_unknown_augmentation_is_refused(processor):
    with pytest.raises(ValueError, match="augmentation='heavy' must be one of none, light, small, deit"):
        image_transform(processor, "heavy")


def test_transform_and_collator_can_be_pickled(processor):
    transform = pickle.loads(pickle.dumps(image_transform(processor, "deit")))
    collator = pickle.loads(pickle.dumps(MixingCollator(5, "deit")))
    batch = transform({"image": [image(), image()], "labels": [1, 0]})
    mixed = collator([{"pixel_values": batch["pixel_values"][i], "labels": batch["labels"][i]} for i in range(2)])
    assert mixed["pixel_values"].shape == (2, 3, 16, 24)
    assert mixed["labels"].shape == (2, 5)


def test_collate_stacks():
    batch = collate([{"pixel_values": torch.full((3, 2, 2), float(i)), "labels": i} for i in range(3)])
    assert batch["pixel_values"].shape == (3, 3, 2, 2)
    assert torch.equal(batch["labels"], torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("name", ["none", "light", "small"])
def test_nothing_is_mixed_where_nothing_is_to_be_mixed(name):
    batch = MixingCollator(5, name)(examples(7))
    assert torch.equal(batch["pixel_values"], collate(examples(7))["pixel_values"])
    assert torch.equal(batch["labels"], torch.tensor([0, 1, 2, 3, 4, 0, 1]))


def test_mixup_mixes_pictures_and_labels_by_the_same_weight():
    collator = MixingCollator(16, Augmentation(cutmix_alpha=0.0, mixup_alpha=5.0))
    weights = set()
    for _ in range(5):
        batch = collator(examples(16, classes=16))
        assert batch["labels"].dtype == torch.float32
        assert_rounded_alike(batch["labels"].sum(dim=1), torch.ones(16))
        assert ((batch["labels"] > 0).sum(dim=1) == 2).all()
        # A picture's value is its class, so a mixed one has the mean of its classes by their shares.
        means = batch["labels"] @ torch.arange(16.0)
        assert_rounded_alike(batch["pixel_values"], means[:, None, None, None].expand(16, 3, 8, 8))
        weights.add(round(batch["labels"].amax().item(), 4))
    assert len(weights) == 5


def test_cutmix_labels_are_areas():
    collator = MixingCollator(16, Augmentation(mixup_alpha=0.0))
    has_box = False
    for _ in range(5):
        batch = collator(examples(16, classes=16))
        areas = torch.stack(
            [(batch["pixel_values"][:, 0] == number).flatten(1).float().mean(1) for number in range(16)]
        )
        assert_rounded_alike(batch["labels"], areas.T)
        has_box |= bool(((areas > 0).sum(dim=0) == 2).all())
    assert has_box


def is_cutmix(batch):
    """Pictures of whole numbers stay so in CutMix."""
    return bool((batch["pixel_values"] == batch["pixel_values"].round()).all())


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_switch_probability_chooses_between_mixup_and_cutmix(probability):
    collator = MixingCollator(5, Augmentation(mix_switch_probability=probability))
    assert {is_cutmix(collator(examples(8))) for _ in range(8)} == {probability == 1}


def test_mix_probability_leaves_batches_unmixed_with_labels_of_the_same_kind():
    collator = MixingCollator(16, Augmentation(mix_probability=0.5, cutmix_alpha=0.0))
    batches = [collator(examples(16, classes=16)) for _ in range(40)]
    unmixed = [batch for batch in batches if is_cutmix(batch)]
    assert 10 < len(unmixed) < 30
    assert {batch["labels"].dtype for batch in batches} == {torch.float32}
    for batch in unmixed:
        assert torch.equal(batch["labels"].argmax(dim=1).float(), batch["pixel_values"][:, 0, 0, 0])


def test_copies_of_repeated_augmentation_are_seldom_mixed_with_each_other():
    # Classes are pictures here, three copies of each in a row.
    copies = [{"pixel_values": torch.zeros(3, 2, 2), "labels": number // 3} for number in range(48)]
    labels = MixingCollator(16, Augmentation(cutmix_alpha=0.0, mixup_alpha=5.0))(copies)["labels"]
    assert ((labels > 0).sum(dim=1) == 1).sum() < 12


def test_single_picture_stays_as_it_is():
    batch = MixingCollator(5)(examples(4)[3:])
    assert torch.equal(batch["pixel_values"], torch.full((1, 3, 8, 8), 3.0))
    assert torch.equal(batch["labels"], torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0]]))


def test_mixing_is_seeded():
    batches = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        batches.append(MixingCollator(5)(examples(8)))
    assert torch.equal(batches[0]["pixel_values"], batches[1]["pixel_values"])
    assert torch.equal(batches[0]["labels"], batches[1]["labels"])
    assert not torch.equal(batches[0]["labels"], batches[2]["labels"])


@pytest.mark.parametrize("label", [-1, 5])
def test_label_outside_the_classes_is_refused(label):
    with pytest.raises(ValueError, match="must be class numbers from 0 to 4"):
        MixingCollator(5)([*examples(3), {"pixel_values": torch.zeros(3, 8, 8), "labels": label}])


def test_bad_arguments_of_the_collator_are_refused():
    with pytest.raises(ValueError, match="num_classes=0 must be a positive integer"):
        MixingCollator(0)
    with pytest.raises(ValueError, match="augmentation='heavy' must be one of"):
        MixingCollator(5, "heavy")


class NoisyImages:
    """Every access draws from torch's global generator, as random transforms do."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"pixel_values": index + torch.rand(3, 8, 8), "labels": index % 5}


def test_draws_depend_on_seed_and_batch_alone():
    images = ReproducibleImages(NoisyImages(), seed=1)
    first = collate(images.__getitems__([3, 4]))["pixel_values"]
    torch.manual_seed(99)
    assert torch.equal(collate(images.__getitems__([3, 4]))["pixel_values"], first)
    assert not torch.equal(first[0] - 3, first[1] - 4)
    for others in ([4, 3], [3, 5], [3]):
        assert not torch.equal(images.__getitems__(others)[0]["pixel_values"] - others[0], first[0] - 3)
    assert not torch.equal(ReproducibleImages(NoisyImages(), seed=2)[3]["pixel_values"], images[3]["pixel_values"])


def test_draws_leave_the_global_generator_alone():
    images, collator = ReproducibleImages(NoisyImages(), seed=1), MixingCollator(5, "deit")
    state = torch.get_rng_state()
    batch = collator(images.__getitems__([3, 4, 5, 6]))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = collator(images.__getitems__([3, 4, 5, 6]))
    assert torch.equal(batch["pixel_values"], again["pixel_values"])
    assert torch.equal(batch["labels"], again["labels"])
