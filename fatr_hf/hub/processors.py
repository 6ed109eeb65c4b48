"""The processor beside a vision-language model whose tower hands fewer tokens on."""

import copy
from typing import Any

from ..modeling.composite_config import CompositeConfig


def fit_processor(processor: Any, model: Any) -> Any:
    """A copy of a processor that makes as many places in the text as the model's tower gives tokens for an image.

    A LLaVA or PaliGemma with ``dense_outputs=False`` hands its language model the reduced sequence. Save the processor
    that this gives beside the model; with ``dense_outputs=True`` it makes the places that it made before.

    Args:
        processor: of the stock model, from ``AutoProcessor``.
        model: a FATR LLaVA or PaliGemma.

    Raises:
        ValueError: a processor or a model of another kind.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, CompositeConfig) or set(config.dense_choices) != {True, False} or not talks(config):
        raise ValueError(f"fit_processor takes a FATR LLaVA or PaliGemma, not {type(model).__name__}.")
    fitted, tokens = copy.deepcopy(processor), image_tokens(config)
    if hasattr(fitted, "num_additional_image_tokens"):  # LLaVA's, which adds to the patches and then takes CLS off
        rows, columns = config.tower.patch_grid()
        skips_cls = fitted.vision_feature_select_strategy == "default"
        fitted.num_additional_image_tokens = tokens - rows * columns + skips_cls
    elif hasattr(fitted, "image_processor") and hasattr(fitted, "image_seq_length"):  # PaliGemma's
        fitted.image_seq_length = fitted.image_processor.image_seq_length = tokens
    else:
        raise ValueError(
            f"processor must be a LlavaProcessor or PaliGemmaProcessor, not {type(processor).__name__}, which has no "
            "number of tokens for an image."
        )
    return fitted


def talks(config: Any) -> bool:
    """Whether a composite gives what its tower sees to a language model."""
    return hasattr(config, "text_config") and hasattr(config, "image_token_index")


def image_tokens(config: Any) -> int:
    """How many tokens a LLaVA's or PaliGemma's tower gives for an image of its configured size.

    Raises:
        ValueError: layers to be read together whose numbers of tokens differ.
    """
    tower = config.tower
    plan = tower.plan(reduce=not tower.dense_outputs)
    counts = [plan[0].tokens_in, *(step.tokens_out for step in plan)]
    read = getattr(config, "vision_feature_layer", -1)
    layers = [read] if isinstance(read, int) else list(read)
    found = {counts[layer] for layer in layers}
    if len(found) > 1:
        raise ValueError(
            f"vision_feature_layer={layers} reads layers of {sorted(found)} tokens, which cannot be put together: give "
            "dense_outputs=True, or reduction_layers before the first of them."
        )
    skips_cls = getattr(config, "vision_feature_select_strategy", "full") == "default"
    return found.pop() - skips_cls
