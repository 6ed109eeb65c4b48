# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""ViTPose's backbone with frequency-aware token reduction: no CLS, and experts chosen by the data set of an image."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BackboneOutput
from transformers.models.vitpose_backbone.modeling_vitpose_backbone import (
    VitPoseBackbone,
    VitPoseBackboneEmbeddings,
    VitPoseBackbonePreTrainedModel,
)

from .backbone import ReductionBackbone
from .configuration_fatr_vitpose_backbone import FATRVitPoseBackboneConfig
from .encoder import FATRMLP, build_layers
from .reduction_model import ReductionModel
from .stock_names import register_names


class FATRVitPoseMLP(FATRMLP):
    """An MLP whose last channels come from an expert, one for each data set that the model was trained on."""

    def __init__(self, config: Any):
        super().__init__(config)
        spec, part = config.encoder_spec, config.part_features
        self.fc2 = nn.Linear(spec.inner_size, spec.hidden_size - part)
        self.experts = nn.ModuleList([nn.Linear(spec.inner_size, part) for _ in range(config.num_experts)])

    def forward(self, hidden_states: Tensor, dataset_index: Tensor) -> Tensor:
        """Of (batch, tokens, hidden), the same shape; ``dataset_index`` (batch,) int64 names each image's expert."""
        inner = self.activation_fn(self.fc1(hidden_states))
        experts: Any = self.experts
        weights = torch.stack([expert.weight for expert in experts])[dataset_index]
        biases = torch.stack([expert.bias for expert in experts])[dataset_index]
        return torch.cat([self.fc2(inner), inner @ weights.transpose(1, 2) + biases[:, None]], dim=2)


class FATRVitPoseBackbonePreTrainedModel(ReductionModel, VitPoseBackbonePreTrainedModel):
    """What ViTPose's backbone is loaded and saved by."""

    config_class = FATRVitPoseBackboneConfig
    config: FATRVitPoseBackboneConfig
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRVitPoseBackbone",
        "AutoBackbone": "FATRVitPoseBackbone",
    }
    position_table = "embeddings.position_embeddings"
    _no_split_modules = ["VitPoseBackboneEmbeddings", "FATRLayer"]


class FATRVitPoseBackbone(FATRVitPoseBackbonePreTrainedModel, ReductionBackbone, VitPoseBackbone):
    """``VitPoseBackbone`` with token reduction: sequences of the full grid."""

    _auto_class = "AutoBackbone"

    def __init__(self, config: FATRVitPoseBackboneConfig):
        super(VitPoseBackbone, self).__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)
        self.embeddings = VitPoseBackboneEmbeddings(config)
        self.layers = build_layers(config, FATRMLP if config.num_experts == 1 else FATRVitPoseMLP)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def forward(self, pixel_values: Tensor, dataset_index: Tensor | None = None, **kwargs: Any) -> BackboneOutput:
        """Sequences (batch, patches, hidden) of images; further arguments as for ``ReductionBackbone.forward``.

        Args:
            pixel_values: (batch, channels, height, width), of the configured size.
            dataset_index: (batch,) int64, the expert of each image; needed where there are several.

        Raises:
            ValueError: experts without an index, beside what is raised there.
        """
        if self.config.num_experts > 1:
            if dataset_index is None:
                raise ValueError(f"dataset_index must name one of {self.config.num_experts} experts for each image.")
            kwargs["mlp_inputs"] = (dataset_index,)
        return super().forward(pixel_values, **kwargs)


register_names(FATRVitPoseBackbone)
