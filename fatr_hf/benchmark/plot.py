"""Throughput over batch size as a picture, a panel for each setting; needs the extra ``benchmark``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .contestants import KINDS
from .results import Comparison
from .settings import Setting

COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#999999", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's, which people with any colour vision tell apart; grey for their yellow, too pale for lines."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
FORMATS = (".png", ".svg", ".pdf")


def require_plot(path: Path) -> None:
    """Checks, before anything is measured, that a plot can be written.

    Raises:
        ValueError: a format that is not known.
        ImportError: matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"A plot is written as one of {', '.join(FORMATS)}, which {path.name!r} is not.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'fatr-hf[benchmark]'.") from error


def plot_throughput(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draws images per second over the batch size, a line for each contestant.

    Raises:
        ValueError, ImportError: see ``require_plot``.
    """
    require_plot(path)
    from matplotlib.figure import Figure

    panels: dict[Setting, list[Comparison]] = {}
    for comparison in comparisons:
        panels.setdefault(replace(comparison.setting, batch_size=1), []).append(comparison)
    figure = Figure(figsize=(5.5 * len(panels), 4.5), layout="constrained")
    for number, (setting, members) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1)
        axes.set_title(setting.label.replace("batch 1, ", ""), fontsize="medium")
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
    figure.savefig(path, dpi=150)
