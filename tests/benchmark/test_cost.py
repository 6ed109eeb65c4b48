import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.benchmark import ModelCost, compare_throughput, count_macs, results_table

TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}


@pytest.mark.parametrize(
    ("fields", "unreduced", "reduced"),
    [
        pytest.param({**TINY}, 1.25, 0.81, id="DeiT-T-16-224"),
        pytest.param({**SMALL}, 4.6, 3.0, id="DeiT-S-16-224"),
        pytest.param({}, 17.6, 11.5, id="ViT-B-16-224"),
        pytest.param({"image_size": 384}, 55.5, 35.7, id="ViT-B-16-384"),
        pytest.param({"patch_size": 8}, 78.2, 49.8, id="ViT-B-8-224"),
        pytest.param({"patch_size": 32, "image_size": 384}, 13.0, 8.7, id="ViT-B-32-384"),
        pytest.param({**SMALL, "image_size": 384}, 15.5, 9.8, id="ViT-S-16-384"),
    ],
)
def test_multiply_accumulates_are_the_papers(fields, unreduced, reduced):
    with torch.device("meta"):
        stock = ViTForImageClassification(ViTConfig(**fields, num_labels=1000))
        fatr = FATRViTForImageClassification(FATRViTConfig(**fields, num_labels=1000))
    assert count_macs(stock) / 1e9 == pytest.approx(unreduced, rel=0.006)
    assert count_macs(fatr) / 1e9 == pytest.approx(reduced, rel=0.012)


def test_multiply_accumulates_of_another_image_size():
    with torch.device("meta"):
        model = FATRViTForImageClassification(FATRViTConfig(**TINY))
        larger = FATRViTForImageClassification(FATRViTConfig(**TINY, image_size=[224, 320]))
    assert count_macs(model, (224, 320)) == count_macs(larger)
    assert count_macs(model, 224) == count_macs(model)


def test_throughput_of_every_model_on_the_same_images(make_fatr, pixel_values):
    calls = []

    class Counted(torch.nn.Module):
        def forward(self, pixel_values):
            calls.append((self.training, torch.is_inference_mode_enabled(), len(pixel_values)))

    speeds = compare_throughput({"a": Counted(), "b": make_fatr()}, pixel_values, repeats=3, warmup=2)
    assert set(speeds) == {"a", "b"}
    assert min(speeds.values()) > 0
    assert calls == [(False, True, 3)] * 5


def test_table_compares_with_the_first():
    costs = [ModelCost("ViT", 0.5, 2_000_000_000, 10.0), ModelCost("FATR", 0.4975, 1_300_000_000, 15.0)]
    table = results_table(costs, FATRViTConfig().plan())
    assert "| FATR | 49.75% | 1.30 G (0.65) | 15 | 1.50x |" in table
    assert "Tokens after each layer: 197 197 197 142" in table
