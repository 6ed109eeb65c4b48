# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Feature maps of reduced sequences: every stage comes back on the full grid of patches."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .encoder import FATRAttention, run_layers
from .fused_inference import FusedAttention
from .reduction_model import ReductionEncoder, check_no_mask, check_no_training
from .token_plan import LayerPlan


class ReductionBackbone(BackboneMixin, ReductionEncoder):
    """A backbone for ``AutoBackbone``: what it gives has the shapes of the stock backbone's."""

    _can_record_outputs = {"attentions": [FATRAttention, FusedAttention]}
    norms_last_stage = False
    """Whether the last stage is normed whatever ``apply_layernorm`` says."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        plan: Sequence[LayerPlan] | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput:
        """Feature maps of images.

        Args:
            pixel_values: (batch, channels, height, width).
            plan: what every layer does, for this call only; by default the configuration's plan.
            output_hidden_states: return the hidden states too, (batch, prefix + patches, hidden), on the full grid.

        Returns:
            For each of ``config.out_features`` a map (batch, hidden, rows, columns), or with
            ``reshape_hidden_states=False`` a sequence (batch, prefix + patches, hidden).
        """
        plan = self.plan_for(pixel_values, plan)
        check_no_training(self)
        check_no_mask(kwargs.pop("attention_mask", None))
        wanted = [place for place, name in enumerate(self.stage_names) if name in self.out_features]
        stages = range(len(self.stage_names)) if output_hidden_states else wanted
        hidden_states, layout, positions = self.start(pixel_values)
        encoded = run_layers(self.layers, hidden_states, layout, plan, positions, dense_stages=stages, **kwargs)
        dense = dict(zip(stages, encoded.dense, strict=True))
        maps: Any = tuple(self.feature_map(dense[place], place, layout.grid) for place in wanted)
        states: Any = tuple(dense.values()) if output_hidden_states else None
        return BackboneOutput(feature_maps=maps, hidden_states=states)

    def feature_map(self, sequence: Tensor, stage: int, grid: Sequence[int]) -> Tensor:
        """A stage's dense sequence (batch, prefix + patches, hidden) as it is given back."""
        config: Any = self.config
        if config.apply_layernorm or (self.norms_last_stage and stage == config.num_hidden_layers):
            sequence = self.layernorm(sequence)
        if not config.reshape_hidden_states:
            return sequence
        patches = sequence[:, config.num_prefix_tokens :]
        return patches.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()
