"""Checked by mypy against the installed package: its types are there, and they are what a reader expects."""

from typing import assert_type

import torch

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.baselines.macs import count_macs

config = FATRViTConfig(keep_ratio=0.5)
assert_type([layer.tokens_out for layer in config.plan()], list[int])

model = FATRViTForImageClassification(config)
assert_type(model.config, FATRViTConfig)
assert_type(count_macs(model), int)
model.set_reduction(keep_ratio=0.7, dc_windows=[2, 1, 1])
logits = model(torch.zeros(1, 3, 224, 224)).logits


config.plan("224")  # type: ignore[arg-type]
