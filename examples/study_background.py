"""Which tokens draw the attention: patches of plain background beside the others, in the layers that reduce."""

from typing import Any

import torch
from study_data import TensorImages
from torch import Tensor
from torch.nn import functional

from fatr_hf import FATRViTForImageClassification


@torch.inference_mode()
def background_rows(model: FATRViTForImageClassification, images: TensorImages) -> list[dict[str, float]]:
    """For every reduction layer what becomes of plain patches, all of whose pixels are alike.

    Attention and tokens are those of the model with its reduction off, the kept patches those with it on.

    Args:
        model: loaded with eager attention.
        images: to look at.

    Returns:
        By layer: ``plain`` (share of patches that are plain), ``attention`` (column mean of a plain patch over that of
        another one), ``likeness`` (mean cosine between a plain token and the mean of the plain ones) and
        ``likeness_of_others``, ``kept`` (share of plain patches kept) and ``kept_of_others``. Nothing where no image
        has both kinds.
    """
    plain = plain_patches(images.pixels, model.config.patch_grid())
    chosen = plain.any(dim=1) & ~plain.all(dim=1)
    if not chosen.any():
        return []
    plain, pixel_values = plain[chosen], images.as_pixel_values(images.pixels[chosen])
    layers: Any = model.config.reduction_layers
    with model.reduction(False):
        dense: Any = model(pixel_values, output_attentions=True, output_hidden_states=True)
    sources: Any = model(pixel_values, output_token_sources=True).token_sources
    rows = []
    for layer, source, tokens in zip(layers, sources, reducing_layers(model), strict=True):
        column_means = dense.attentions[layer].mean(dim=(1, 2))[:, 1:]
        states = dense.hidden_states[layer + 1][:, 1:]
        kept = source < 1 + tokens
        rows.append(
            {
                "layer": layer,
                "plain": share(plain),
                "attention": float(column_means[plain].mean() / column_means[~plain].mean()),
                "likeness": likeness(states, plain),
                "likeness_of_others": likeness(states, ~plain),
                "kept": share(kept[plain]),
                "kept_of_others": share(kept[~plain]),
            }
        )
    return rows


def plain_patches(pixels: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(images, patches) bool: whether all pixels (images, channels, height, width) of a patch of the grid are alike."""
    rows, columns = grid
    patches = pixels.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).transpose(3, 4).flatten(4)
    return (patches.amax(dim=4) == patches.amin(dim=4)).all(dim=1).flatten(1)


def reducing_layers(model: FATRViTForImageClassification) -> list[int]:
    """Patch tokens that leave each layer which reduces."""
    return [tokens.patches_out for tokens in model.config.plan() if tokens.reduces]


def likeness(states: Tensor, chosen: Tensor) -> float:
    """Mean cosine between the chosen tokens of an image and their mean."""
    weights = chosen[:, :, None].float()
    means = (states * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
    return float(functional.cosine_similarity(states, means, dim=2)[chosen].mean())


def share(chosen: Tensor) -> float:
    """The share of True."""
    return float(chosen.float().mean())
