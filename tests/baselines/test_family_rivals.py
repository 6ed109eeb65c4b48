"""Rivals of models that are no ViT."""

import pytest
import torch
from rounding import assert_rounded_alike
from transformers import Dinov2Config, Dinov2ForImageClassification, SiglipVisionConfig, SiglipVisionModel

import fatr_hf
from fatr_hf.baselines.macs import count_macs
from fatr_hf.baselines.matched import matched_rivals

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 32, "patch_size": 4}


@pytest.fixture(params=["dinov2", "siglip"])
def stock(request):
    torch.manual_seed(0)
    if request.param == "dinov2":
        model = Dinov2ForImageClassification(Dinov2Config(**SMALL, mlp_ratio=2, layerscale_value=0.5))
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**SMALL, intermediate_size=64))
    return model.double().eval()


@torch.no_grad()
def test_they_are_the_unreduced_model_and_a_random_selection(stock):
    pixel_values = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model = fatr_hf.convert(stock, keep_ratio=0.6)
    for name, parameter in model.named_parameters():
        if "omega" in name or "dc_position" in name:
            parameter.add_(0.3)
    before = model(pixel_values)[0]
    rivals = matched_rivals(model)
    assert list(rivals) == ["unreduced", "random"]
    assert_rounded_alike(rivals["unreduced"](pixel_values)[0], stock(pixel_values)[0])
    assert rivals["random"].config.selection == "random"
    assert [step.tokens_out for step in rivals["random"].config.plan()] == [
        step.tokens_out for step in model.config.plan()
    ]
    assert not any("omega" in name for name, _ in rivals["random"].named_parameters())
    assert count_macs(rivals["random"]) < count_macs(rivals["unreduced"])
    assert_rounded_alike(model(pixel_values)[0], before)


def test_the_others_are_named_as_those_of_a_vit(stock):
    model = fatr_hf.convert(stock)
    with pytest.raises(ValueError, match=r"'tome' is one of a ViT, not of model type 'fatr_.*, which has unre"):
        matched_rivals(model, ["tome"])
