"""What models cost and reach, as one table."""

from collections.abc import Sequence
from typing import NamedTuple

from ..modeling import LayerTokens


class ModelCost(NamedTuple):
    """What one model reaches, and at what cost."""

    name: str
    accuracy: float
    """Top-1, in [0, 1]."""
    macs: int
    """Multiply-accumulates per image."""
    images_per_second: float


def results_table(costs: Sequence[ModelCost], schedule: Sequence[LayerTokens]) -> str:
    """A Markdown table of models, the first being what the others are compared with, and the tokens of each layer."""
    first = costs[0]
    lines = ["| model | top-1 | multiply-accumulates | images/s | speed |", "|---|---|---|---|---|"]
    lines += [
        f"| {cost.name} | {100 * cost.accuracy:.2f}% | {format_macs(cost.macs)} ({cost.macs / first.macs:.2f}) "
        f"| {cost.images_per_second:.0f} | {cost.images_per_second / first.images_per_second:.2f}x |"
        for cost in costs
    ]
    tokens = " ".join(str(layer.tokens_out) for layer in schedule)
    return "\n".join([*lines, "", f"Tokens after each layer: {tokens} (of {schedule[0].tokens_in}).", ""])


def format_macs(macs: int) -> str:
    """Multiply-accumulates in millions or, from a thousand million on, in G."""
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"
