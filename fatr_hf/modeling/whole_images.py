# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Towers whose stock counterparts leave out the padding of images: here every image fills its pixel values."""

from typing import Any

import torch
from torch import Tensor, nn

from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_model import FATRModelOutput, ReductionEncoder, sides_of
from .token_reduction import TokenLayout


class WholeImageEncoder(ReductionEncoder):
    """The tower of an Idefics3 or a SmolVLM: a SigLIP whose positions stretch to every grid by themselves."""

    post_layernorm: nn.LayerNorm

    def build(self, embeddings: nn.Module) -> None:
        """Puts the parts together, of stock's new embeddings and our layers."""
        config = self.config
        self.embeddings = embeddings
        use_products(self.embeddings)
        self.layers = build_layers(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.encoder_spec.layer_norm_eps)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, patch_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> FATRModelOutput:
        """Encodes images; further arguments as for ``ReductionEncoder.forward``.

        Args:
            pixel_values: (batch, channels, height, width), of any size.
            patch_attention_mask: (batch, rows, columns) bool, True everywhere, or None.

        Raises:
            ValueError: patches that are padding, beside what is raised there.
        """
        if patch_attention_mask is not None:
            check_no_padding(patch_attention_mask)
        return super().forward(pixel_values, **kwargs)

    def embed(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        """The sequence (batch, patches, hidden) that enters the first layer."""
        grid = self.config.patch_grid(sides_of(pixel_values))
        whole = torch.ones(pixel_values.shape[0], *grid, dtype=torch.bool, device=pixel_values.device)
        embedded: Tensor = self.embeddings(pixel_values, whole)
        return embedded

    def normed(self, hidden_states: Tensor) -> Tensor:
        """The norm of all tokens."""
        return self.post_layernorm(hidden_states)

    def pool(self, sequence: Tensor, layout: TokenLayout) -> None:
        """Nothing is pooled, as in stock."""


def check_no_padding(patch_attention_mask: Tensor) -> None:
    """Raises a ValueError for a mask (batch, rows, columns) that leaves patches of an image out."""
    padding = int((~patch_attention_mask.bool()).sum())
    if padding:
        raise ValueError(
            f"patch_attention_mask leaves out {padding} of {patch_attention_mask.numel()} patches: images padded to a "
            "common size are not taken. Make the pixel values with the model's image processor, which brings every "
            "image or tile to the square of its max_image_size (do_image_splitting=True or False), or give images of "
            "one size and no pixel_attention_mask."
        )
