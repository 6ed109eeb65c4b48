"""From patches of twice the side to those of a model: most of a training from scratch costs a quarter of the tokens."""

import torch
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from fatr_hf.modeling.reduction_config import as_pair


def with_coarse_patches(config: ViTConfig) -> ViTConfig:
    """The same model with patches of twice the side.

    Raises:
        ValueError: the image does not divide into them.
    """
    image, patch = as_pair("image_size", config.image_size)[0], as_pair("patch_size", config.patch_size)[0]
    if image % (2 * patch):
        raise ValueError(
            f"--coarse_epochs wants patches of {2 * patch} pixels, twice the patch size {patch}, "
            f"and the image size {image} is not a multiple of that."
        )
    return ViTConfig.from_dict({**config.to_dict(), "patch_size": 2 * patch})


@torch.no_grad()
def with_halved_patches(coarse: ViTForImageClassification, config: ViTConfig) -> ViTForImageClassification:
    """A model whose patches have half the side, with the weights of another.

    A patch of the new model, magnified to twice its side with equal pixels, had the same embedding in the old one; the
    positions between the old ones are interpolated. What is left to learn is that a patch shows less (the idea of
    FlexiViT, arXiv 2212.08013).

    Args:
        coarse: a model of ``with_coarse_patches(config)``.
        config: of the model to make, whose images are squares.
    """
    model = ViTForImageClassification(config)
    state = coarse.state_dict()
    kernel = "vit.embeddings.patch_embeddings.projection.weight"
    position = "vit.embeddings.position_embeddings"
    state[kernel] = 4 * functional.avg_pool2d(state[kernel], 2)
    prefix, patches = state[position].split([1, state[position].shape[1] - 1], dim=1)
    side = round(patches.shape[1] ** 0.5)
    grid = patches.transpose(1, 2).unflatten(2, (side, side))
    grid = functional.interpolate(grid, scale_factor=2, mode="bicubic", align_corners=False)
    state[position] = torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)
    model.load_state_dict(state)
    return model
