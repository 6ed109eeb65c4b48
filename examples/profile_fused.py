"""Where the time of a fused FATR ViT-S/16-224 goes on one CPU core: torch.profiler's table (docs/speed.md)."""

import torch

from fatr_hf import FATRViTConfig, FATRViTForImageClassification

torch.set_num_threads(1)
config = FATRViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
model = FATRViTForImageClassification(config)
for name, parameter in model.named_parameters():
    if "omega" in name:
        torch.nn.init.trunc_normal_(parameter, std=0.3, a=-0.6, b=0.6)
fast, pixel_values = model.fuse(), torch.randn(8, 3, 224, 224)
with torch.inference_mode():
    fast(pixel_values)
    with torch.profiler.profile() as profile:
        fast(pixel_values)
print(profile.key_averages().table(sort_by="cpu_time_total", row_limit=40))
