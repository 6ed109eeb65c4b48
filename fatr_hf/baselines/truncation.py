"""Plain truncation: the first tokens go on, the others are cut off, with neither scores nor pooling.

No method with the same token counts can be faster: it bounds the speed of every token reduction from above.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..modeling.reduction_config import ReductionConfig
from ..modeling.token_plan import LayerPlan
from ..modeling.token_reduction import TokenLayout
from .arguments import is_integer
from .methods import Method, plan_of_counts


@dataclass(frozen=True)
class Truncation(Method):
    """The first tokens alone.

    Args:
        tokens_out: tokens that leave each layer, those before the patches included, never more than entered it; one for
            each layer. Those of a FATR model are ``[step.tokens_out for step in config.plan()]``.
    """

    tokens_out: Sequence[int] = ()

    def check(self) -> None:
        """Raises a ValueError for counts that are none or grow."""
        counts = self.tokens_out
        if not isinstance(counts, Sequence) or not all(is_integer(count) and count >= 1 for count in counts):
            raise ValueError(f"tokens_out={counts!r} must be integers of at least 1.")
        if list(counts) != sorted(counts, reverse=True):
            raise ValueError(f"tokens_out={list(counts)} must not grow from layer to layer.")

    def plan(self, config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[LayerPlan]:
        """See ``Method.plan``; an image with fewer tokens than that keeps all it has.

        Raises:
            ValueError: another number of counts than layers, or one that leaves no patch.
        """
        depth, prefix = config.num_hidden_layers, config.num_prefix_tokens
        if len(self.tokens_out) != depth:
            raise ValueError(
                f"tokens_out={list(self.tokens_out)} has {len(self.tokens_out)} entries: give one for each of the "
                f"{depth} layers."
            )
        patches = math.prod(config.patch_grid(image_size))
        counts = [min(count - prefix, patches) for count in self.tokens_out]
        if counts[-1] < 1:
            raise ValueError(
                f"tokens_out={list(self.tokens_out)} must be above the {prefix} tokens before the patches."
            )
        return plan_of_counts(config, image_size, counts, [keep_first] * depth)


def keep_first(
    hidden_states: Tensor, evidence: Any, layout: TokenLayout, step: LayerPlan
) -> tuple[Tensor, TokenLayout]:
    """The first tokens; see ``LayerPlan.rule``."""
    kept = layout.positions[:, : step.patches_out]
    return hidden_states[:, : step.tokens_out], layout._replace(positions=kept)
