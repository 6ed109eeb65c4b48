"""Writes the photographs of solar cells of elpv-dataset as folders of classes, for training and testing.

    pip install elpv-dataset
    python examples/solar_cells.py outputs/solar-cells

The package (CC BY-NC-SA 4.0) holds 2,624 photographs of cells in electroluminescence, 300 x 300 pixels in grey, each
with the probability that it is defective and whether the cell is mono- or polycrystalline. The folder holds
``train/CLASS/*.png`` and ``test/CLASS/*.png``; a cell is ``defective`` from a probability of a half on. Every fourth
cell of each kind and probability, in the order of the package, is for testing.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import PIL.Image

from fatr_hf.hub.convert import check_free
from fatr_hf.programs import run_program
from fatr_hf.training.run_folder import write_folder

TEST_EVERY = 4

DEFECTIVE = 0.5
"""The probability from which a cell counts as defective."""


def main() -> None:
    """Reads the command line and writes the pictures."""
    parser = argparse.ArgumentParser(description="Writes elpv-dataset's photographs of solar cells.")
    parser.add_argument("output", type=Path, help="folder to write, new or empty")
    output = parser.parse_args().output
    check_free(output)
    cells = load_cells()
    write_folder(output, lambda folder: write_cells(folder, cells))
    print(f"Wrote {output}: {len(cells)} cells.")


def load_cells() -> list[tuple[Any, float, str]]:
    """Pixels, probability of a defect and kind of every cell.

    Raises:
        ImportError: elpv-dataset is not installed.
    """
    try:
        from elpv_dataset.utils import load_dataset
    except ImportError as error:
        raise ImportError("The photographs come from a package: pip install elpv-dataset") from error
    return list(zip(*load_dataset(), strict=True))


def write_cells(folder: Path, cells: Iterable[tuple[Any, float, str]]) -> None:
    """Writes every cell into the folder of its part and class."""
    seen: Counter[tuple[str, float]] = Counter()
    for number, (pixels, probability, kind) in enumerate(cells):
        group = (str(kind), float(probability))
        part = "test" if seen[group] % TEST_EVERY == TEST_EVERY - 1 else "train"
        seen[group] += 1
        place = folder / part / ("defective" if probability >= DEFECTIVE else "functional")
        place.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(place / f"{number:04}-{kind}.png")


if __name__ == "__main__":
    run_program(main)
