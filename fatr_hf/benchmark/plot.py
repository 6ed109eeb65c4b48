"""Throughput over batch size as a picture, a panel for each setting; needs matplotlib."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..analysis.curves import COLOURS, MARKERS
from ..analysis.figure_files import check_figure_file, save_figure
from ..analysis.names import figure_text
from ..baselines.arguments import check_kind
from .contestants import KINDS
from .results import Comparison
from .settings import Setting


def plot_throughput(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draws images per second over the batch size, a line for each contestant.

    Raises:
        ValueError, ImportError: see ``check_figure_file``; no comparisons.
    """
    check_figure_file(path)
    if not isinstance(comparisons, Sequence) or not comparisons:
        raise ValueError("comparisons must be a list of at least one comparison.")
    for comparison in comparisons:
        check_kind("a comparison", comparison, Comparison, "what fatr_hf.benchmark.compare gave")
    from matplotlib.figure import Figure

    panels: dict[Setting, list[Comparison]] = {}
    for comparison in comparisons:
        panels.setdefault(replace(comparison.setting, batch_size=1), []).append(comparison)
    figure = Figure(figsize=(5.5 * len(panels), 4.5), layout="constrained")
    for number, (setting, members) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1)
        axes.set_title(figure_text(setting.label.replace("batch 1, ", "")), fontsize="medium")
        for place, (name, kind) in enumerate(KINDS.items()):
            points = [(each.setting.batch_size, each.images_per_second(name)) for each in members if each.find(name)]
            if points:
                batch_sizes, speeds = zip(*sorted(points), strict=True)
                axes.plot(batch_sizes, speeds, label=kind.label, color=COLOURS[place], marker=MARKERS[place])
        ticks = sorted({member.setting.batch_size for member in members})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(size) for size in ticks])
        axes.minorticks_off()
        axes.set_xlabel("batch size")
        axes.set_ylabel("images/s")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_figure(figure, path)
