"""Writes labelled crops of the photographs that scikit-image brings along, for training without a network.

    python examples/photograph_crops.py outputs/photograph-crops
    make run ARGS="--preset photographs --dataset outputs/photograph-crops"

The folder holds ``train/CLASS/*.png`` and ``test/CLASS/*.png``; the class of a crop is the photograph it is from.
Training crops lie in the left three quarters of a photograph, test crops in the right quarter, so that no pixel is in
both. A crop is a square with a side of a half to the whole of that quarter's shorter side. Half of the crops lose
their colour and all are made darker or brighter by up to 30%, since most of the photographs could else be told by their
colour or brightness alone.

The task is good for a small ViT whose attention and features can be looked at on photographs. It says little about
recognising objects: a class is one scene with its texture, light and camera, and a test crop shows another part of it.
"""

import argparse
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import skimage.data
from numpy.typing import NDArray

from fatr_hf.programs import run_program

Pixels = NDArray[np.uint8]

PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "rocket",
    "stereo_motorcycle",
    "text",
)
"""Functions of ``skimage.data``, each of them a class; their files are in scikit-image's own package."""

GREY_SHARE = 0.5
BRIGHTNESS = (0.7, 1.3)


def main() -> None:
    """Reads the command line and writes the crops."""
    parser = argparse.ArgumentParser(description="Writes labelled crops of scikit-image's photographs.")
    parser.add_argument("output", type=Path, help="folder to write, new or empty")
    parser.add_argument("--train_crops", type=int, default=140, help="training crops of each photograph")
    parser.add_argument("--test_crops", type=int, default=20, help="test crops of each photograph")
    parser.add_argument("--size", type=int, default=112, help="height and width of a crop as it is saved, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    arguments = parser.parse_args()
    write_crops(arguments.output, arguments.train_crops, arguments.test_crops, arguments.size, arguments.seed)


def write_crops(output: Path, train_crops: int, test_crops: int, size: int, seed: int) -> None:
    """Writes an image folder; the same arguments give the same pixels.

    Args:
        output: the folder, new or empty.
        train_crops, test_crops: crops of each photograph.
        size: height and width of the written images, in pixels.
        seed: decides where the crops lie, which of them are grey, and how bright they are.

    Raises:
        ValueError: a number that is not positive, a negative seed, or a folder that holds something.
    """
    for name, value in (("train_crops", train_crops), ("test_crops", test_crops), ("size", size)):
        if value < 1:
            raise ValueError(f"--{name} {value} must be a positive integer.")
    if seed < 0:
        raise ValueError(f"--seed {seed} must not be negative.")
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(
            f"{output} must be a new or an empty folder, since what it holds would be mixed with the crops."
        )
    generator = np.random.default_rng(seed)
    for name in PHOTOGRAPHS:
        train, test = regions(load(name))
        longest = min(test.shape[:2])
        for split, region, count in (("train", train, train_crops), ("test", test, test_crops)):
            folder = output / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                crop = draw_crop(region, longest, generator)
                vary(crop, generator).resize((size, size)).save(folder / f"{index:04d}.png")


def load(name: str) -> Pixels:
    """The photograph of that name, (height, width, 3); a grey one has three equal channels."""
    photograph = getattr(skimage.data, name)()
    pixels = photograph[0] if name == "stereo_motorcycle" else photograph  # left and right view, and their disparity
    return np.asarray(PIL.Image.fromarray(pixels).convert("RGB"))


def regions(photograph: Pixels) -> tuple[Pixels, Pixels]:
    """The left three quarters, to train on, and the right quarter, to test on: (height, width, 3) each."""
    boundary = photograph.shape[1] - photograph.shape[1] // 4
    return photograph[:, :boundary], photograph[:, boundary:]


def draw_crop(region: Pixels, longest: int, generator: np.random.Generator) -> PIL.Image.Image:
    """A random square of a region, with a side of a half to the whole of ``longest`` pixels."""
    side = int(generator.integers(longest // 2, longest + 1))
    top, left = (int(generator.integers(0, length - side + 1)) for length in region.shape[:2])
    return PIL.Image.fromarray(region[top : top + side, left : left + side])


def vary(crop: PIL.Image.Image, generator: np.random.Generator) -> PIL.Image.Image:
    """The crop darker or brighter, and without its colour in half of the cases."""
    brighter = PIL.ImageEnhance.Brightness(crop).enhance(generator.uniform(*BRIGHTNESS))
    return brighter.convert("L").convert("RGB") if generator.random() < GREY_SHARE else brighter


if __name__ == "__main__":
    run_program(main)
