"""What each part of the preset ``faithful`` is good for: selections, folds and layers at one cost, without training.

    python examples/untrained_ablation.py outputs/probe path/to/images --limit 200

Prints, for a classifier, the share of predictions that stay, and the cosines of the pooled output and of the patch
features to those of the unreduced model. Layers are named as those of a model of 12 and scaled to the depth.
"""

import argparse

from fatr_hf.analysis.images import PictureBatches, class_numbers
from fatr_hf.baselines.matched import matched_plan
from fatr_hf.baselines.rival import unreduced_copy
from fatr_hf.benchmark import choose_device
from fatr_hf.benchmark.frontier import judge_plans, means, preset_within
from fatr_hf.hub.load import check_has_processor, load_reduced
from fatr_hf.modeling import LayerPlan, schedule_macs
from fatr_hf.modeling.reduction_model import ReductionModel
from fatr_hf.programs import run_program
from fatr_hf.training.data import read_images

ENERGY = "high_frequency_energy"

ARMS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("high_frequency", "windows", (3, 6, 9)),
    ("high_frequency", "similar", (3, 6, 9)),
    (ENERGY, "windows", (3, 6, 9)),
    (ENERGY, "similar", (3, 6, 9)),
    (ENERGY, "similar", (3, 5, 7, 9)),
    (ENERGY, "similar", (4, 6, 8)),
    (ENERGY, "similar", (4, 5, 6, 7)),
    ("high_frequency", "similar", (4, 5, 6, 7)),
    ("random", "similar", (4, 5, 6, 7)),
    (ENERGY, "similar", tuple(range(3, 10))),
    (ENERGY, "similar", tuple(range(2, 12))),
    (ENERGY, "similar", tuple(range(12))),
)
"""Selection, fold and layers; the seventh is ``faithful``."""


def main() -> None:
    """Reads the command line, judges the arms and prints the table."""
    parser = argparse.ArgumentParser(description="Selections, folds and layers at one cost, without training.")
    parser.add_argument("model", help="folder or Hub name of a model of one of the families")
    parser.add_argument("images", help="a picture, a folder of them, of idx files, photographs or digits")
    parser.add_argument("--budget", type=float, default=0.65, help="share of the unreduced multiply-accumulates")
    parser.add_argument("--limit", type=int, help="take no more images than so many")
    arguments = parser.parse_args()
    if not 0 < arguments.budget < 1:
        parser.error(f"--budget {arguments.budget} must lie between 0 and 1.")
    model, processor = load_reduced(arguments.model, device=choose_device(None))
    pictures = read_images(arguments.images, arguments.limit)
    data = PictureBatches(pictures, check_has_processor(processor), class_numbers(model.config), 32)
    twin = unreduced_copy(model)
    answers, _ = judge_plans(twin, data, plans_of(twin, arguments.budget))
    questions = list(next(iter(answers.values())))
    print(f"| selection | fold | layers | {' | '.join(questions)} |\n|---|---|---|{'---|' * len(questions)}")
    for name, values in answers.items():
        print(f"| {name} | {' | '.join(f'{value:.4f}' for value in means(values).values())} |")


def plans_of(twin: ReductionModel, budget: float) -> dict[str, list[LayerPlan]]:
    """The plans of all arms and of ToMe at a share of the unreduced multiply-accumulates, by a table's cells."""
    macs, depth = budget * schedule_macs(twin.config), twin.config.num_hidden_layers
    plans = {}
    for selection, fold, twelfths in ARMS:
        layers = sorted({depth * each // 12 for each in twelfths})
        fields = {"selection": selection, "fold": fold, "reduction_layers": layers}
        cells = f"{selection} | {fold} | {', '.join(map(str, layers))}"
        plans[cells] = preset_within(twin.config, "paper", macs, **fields).plan()
    plans["ToMe | | all"] = matched_plan(twin, "tome", preset_within(twin.config, "paper", macs))
    return plans


if __name__ == "__main__":
    run_program(main)
