# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""What the encoders of videos share."""

from typing import Any

from torch import Tensor

from .reduction_model import FATRModelOutput, ReductionEncoder


class VideoEncoder(ReductionEncoder):
    """An encoder of videos (batch, frames, channels, height, width) of the size that its configuration allows."""

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> FATRModelOutput:
        """Encodes videos (batch, frames, channels, height, width); arguments as for ``ReductionEncoder.forward``.

        Raises:
            ValueError: masked patches, a video that the configuration does not allow, and as there.
        """
        return super().forward(pixel_values, **kwargs)

    def embed(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The sequence (batch, prefix + patches, hidden) that enters the first layer.

        Raises:
            ValueError: masked patches, which belong to pretraining.
        """
        if bool_masked_pos is not None:
            raise ValueError("bool_masked_pos is for pretraining, which takes the stock model: leave it out.")
        embedded: Tensor = self.embeddings(pixel_values)
        return embedded
