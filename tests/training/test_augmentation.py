import dataclasses
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import v2

from fatr_hf.training.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    PaddedCrop,
    RandAugmentOperation,
    find_augmentation,
    normalised_transforms,
    picture_transforms,
)

GREY = (128.0,)


def picture(mode="RGB", size=(32, 24)):
    """Noise without zeros, so that what was filled can be told."""
    pixels = np.random.default_rng(0).integers(1, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def transforms(augmentation, fill=GREY * 3, size=(16, 24)):
    return picture_transforms(augmentation, size=size, resample=2, fill=fill)


def only(**fields):
    return dataclasses.replace(AUGMENTATIONS["none"], **fields)


def apply(steps, image):
    for step in steps:
        image = step(image)
    return image


def test_defaults_are_deits():
    assert AUGMENTATIONS["deit"] == Augmentation()
    assert Augmentation().mixes
    assert len(transforms(Augmentation())) == 4
    assert len(normalised_transforms(Augmentation())) == 1


@pytest.mark.parametrize("name", ["none", "light", "small"])
def test_lesser_augmentations_neither_mix_nor_repeat(name):
    assert not AUGMENTATIONS[name].mixes
    assert AUGMENTATIONS[name].repeats == 1


def test_none_is_nothing():
    assert transforms(AUGMENTATIONS["none"], size=None) == []
    assert normalised_transforms(AUGMENTATIONS["none"]) == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("crop", "center", "one of none, random_resized, pad"),
        ("crop_scale", (0.0, 1.0), "two ascending numbers above 0"),
        ("crop_scale", (0.8, 0.2), "two ascending numbers"),
        ("crop_scale", (0.5, 1.5), "at most 1"),
        ("crop_scale", 0.5, "two ascending numbers"),
        ("horizontal_flip", 1.1, "a probability, from 0 to 1"),
        ("rand_augment_magnitude", 11, "from 0 .off. to 10"),
        ("rand_augment_magnitude", float("nan"), "from 0 .off. to 10"),
        ("rand_augment_std", -0.5, "not negative"),
        ("rand_augment_ops", 0, "a positive integer"),
        ("rand_augment_probability", -0.1, "a probability"),
        ("random_erasing", "0.25", "a probability"),
        ("mixup_alpha", -1.0, "not negative"),
        ("cutmix_alpha", float("inf"), "a finite number"),
        ("mix_probability", 2, "a probability"),
        ("mix_switch_probability", None, "a probability"),
        ("repeats", 1.5, "a positive integer"),
        ("repeats", True, "a positive integer"),
    ],
)
def test_bad_fields_are_refused_by_name(field, value, words):
    with pytest.raises(ValueError, match=f"^{field}=.*{words}"):
        Augmentation(**{field: value})


def test_find_augmentation_takes_names_and_values():
    own = Augmentation(repeats=1)
    assert find_augmentation(own) is own
    assert find_augmentation("deit") == Augmentation()
    with pytest.raises(ValueError, match="augmentation='heavy' must be one of none, light, small, deit"):
        find_augmentation("heavy")


@pytest.mark.parametrize(
    ("fields", "mixes"),
    [
        ({}, True),
        ({"mixup_alpha": 0.0}, True),
        ({"mixup_alpha": 0.0, "cutmix_alpha": 0.0}, False),
        ({"mix_probability": 0.0}, False),
    ],
)
def test_mixes_where_a_batch_can_be_mixed(fields, mixes):
    assert Augmentation(**fields).mixes is mixes


def test_random_resized_crop_gives_the_models_size_and_the_share_of_the_area(monkeypatch):
    boxes = []
    draw = v2.RandomResizedCrop.make_params
    monkeypatch.setattr(v2.RandomResizedCrop, "make_params", lambda *args: boxes.append(draw(*args)) or boxes[-1])
    steps = transforms(only(crop="random_resized", crop_scale=(0.25, 0.25)))
    image = picture(size=(200, 100))
    assert {apply(steps, image).size for _ in range(10)} == {(24, 16)}
    assert [box["height"] * box["width"] for box in boxes] == pytest.approx([5000] * 10, rel=0.02)
    assert len({(box["top"], box["left"]) for box in boxes}) > 5


def test_random_resized_crop_needs_a_size():
    with pytest.raises(ValueError, match="needs an image processor with a fixed size"):
        transforms(AUGMENTATIONS["light"], size=None)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(28, 28), (32, 24), (8, 8)], ids=str)
def test_padded_crop_shifts_by_up_to_an_eighth_and_fills_with_zeros(mode, size):
    image, most = picture(mode, size), [-(-side // 8) for side in size]
    seen = set()
    for _ in range(60):
        shifted = apply(transforms(only(crop="pad")), image)
        assert shifted.size == image.size
        assert shifted.mode == mode
        box = shifted.point(lambda value: 255 * (value > 0)).getbbox()
        shift = [box[0] or box[2] - size[0], box[1] or box[3] - size[1]]
        assert all(abs(step) <= limit for step, limit in zip(shift, most, strict=True))
        expected = PIL.Image.new(mode, size)
        expected.paste(image, tuple(shift))
        assert np.array_equal(np.asarray(shifted), np.asarray(expected))
        seen.add(tuple(shift))
    assert {step for step, _ in seen} == set(range(-most[0], most[0] + 1))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flip_has_its_probability(probability):
    image = picture()
    expected = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if probability else image
    assert apply(transforms(only(horizontal_flip=probability)), image).tobytes() == expected.tobytes()


def operations(monkeypatch, augmentation, draws=40):
    """Names and magnitudes of the operations that RandAugment applies to so many pictures."""
    applied = []
    method = v2.RandAugment._apply_image_or_video_transform

    def record(self, image, name, magnitude, **options):
        applied.append((name, magnitude))
        return method(self, image, name, magnitude, **options)

    monkeypatch.setattr(v2.RandAugment, "_apply_image_or_video_transform", record)
    image = picture()
    for _ in range(draws):
        apply(transforms(augmentation), image)
    return applied


def test_magnitude_zero_is_off():
    assert transforms(only(rand_augment_magnitude=0.0, rand_augment_std=0.5)) == []


def test_operations_and_their_probability(monkeypatch):
    always = {"rand_augment_magnitude": 9.0, "rand_augment_ops": 3, "rand_augment_probability": 1.0}
    assert len(operations(monkeypatch, only(**always))) == 120
    assert len({name for name, _ in operations(monkeypatch, only(**always))}) == 14
    assert operations(monkeypatch, only(**always | {"rand_augment_probability": 0.0})) == []
    half = operations(monkeypatch, only(**always | {"rand_augment_probability": 0.5}))
    assert 40 < len(half) < 80


@pytest.mark.parametrize(("level", "degrees"), [(10.0, 30.0), (9.0, 27.0), (1.0, 3.0)])
def test_level_ten_is_the_end_of_the_range(monkeypatch, level, degrees):
    fields = {"rand_augment_magnitude": level, "rand_augment_std": 0.0, "rand_augment_probability": 1.0}
    angles = {magnitude for name, magnitude in operations(monkeypatch, only(**fields), 80) if name == "Rotate"}
    assert sorted(angles) == pytest.approx([-degrees, degrees])


def test_level_is_drawn_from_a_normal_distribution_cut_to_its_range():
    levels = torch.tensor([RandAugmentOperation(5.0, 0.5, GREY).draw_level() for _ in range(2000)])
    assert levels.mean().item() == pytest.approx(5.0, abs=0.05)
    assert levels.std().item() == pytest.approx(0.5, abs=0.05)
    assert {RandAugmentOperation(5.0, 0.0, GREY).draw_level() for _ in range(10)} == {5.0}
    cut = [RandAugmentOperation(9.0, 20.0, GREY).draw_level() for _ in range(100)]
    assert min(cut) == 0.0
    assert max(cut) == 10.0


def test_levels_differ_between_operations_of_one_picture(monkeypatch):
    fields = {"rand_augment_magnitude": 9.0, "rand_augment_probability": 1.0, "rand_augment_ops": 2}
    levels = [abs(value) / 3 for name, value in operations(monkeypatch, only(**fields), 200) if name == "Rotate"]
    assert len(set(levels)) > len(levels) / 2
    assert np.std(levels) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(("mode", "fill"), [("L", (7.0,)), ("RGB", (7.0, 8.0, 9.0))])
def test_what_rotation_uncovers_gets_the_fill_colour(monkeypatch, mode, fill):
    space = {"Rotate": v2.RandAugment._AUGMENTATION_SPACE["Rotate"]}
    monkeypatch.setattr(v2.RandAugment, "_AUGMENTATION_SPACE", space)
    rotated = RandAugmentOperation(10.0, 0.0, fill)(PIL.Image.new(mode, (32, 32), 200 if mode == "L" else (200,) * 3))
    assert rotated.getpixel((0, 0)) == (int(fill[0]) if mode == "L" else tuple(int(value) for value in fill))
    assert rotated.getpixel((16, 16)) == (200 if mode == "L" else (200,) * 3)


def test_every_operation_takes_grey_pictures(monkeypatch):
    space = v2.RandAugment._AUGMENTATION_SPACE
    for name, operation in space.items():
        monkeypatch.setattr(v2.RandAugment, "_AUGMENTATION_SPACE", {name: operation})
        result = RandAugmentOperation(9.0, 0.5, GREY)(picture("L"))
        assert (result.mode, result.size) == ("L", (32, 24)), name


def test_erasing_leaves_a_rectangle_of_normal_noise():
    steps = normalised_transforms(only(random_erasing=1.0))
    areas, noise = [], []
    for _ in range(50):
        erased = apply(steps, torch.full((3, 40, 30), 100.0))
        changed = (erased != 100).all(dim=0)
        rows, columns = changed.any(dim=1), changed.any(dim=0)
        assert torch.equal(changed, rows[:, None] & columns[None, :])
        areas.append(changed.float().mean().item())
        noise.append(erased[:, changed].flatten())
    assert min(areas) > 0.01
    assert max(areas) < 0.35
    assert torch.cat(noise).mean().item() == pytest.approx(0.0, abs=0.05)
    assert torch.cat(noise).std().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["light", "small", "deit"])
def test_seed_decides(name):
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        image = apply(transforms(AUGMENTATIONS[name]), picture())
        noise = apply(normalised_transforms(only(random_erasing=1.0)), torch.zeros(3, 8, 8))
        draws.append((image.tobytes(), noise.tolist()))
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[2][0]
    assert draws[0][1] != draws[2][1]


def test_transforms_can_be_pickled():
    steps = [*transforms(Augmentation()), *transforms(only(crop="pad")), *normalised_transforms(Augmentation())]
    assert len(pickle.loads(pickle.dumps(steps))) == 6
    assert isinstance(pickle.loads(pickle.dumps(PaddedCrop())), PaddedCrop)
