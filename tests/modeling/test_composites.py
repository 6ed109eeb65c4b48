"""Composites: stock's where nothing is reduced, through files and Auto classes, with the reduced tower in them."""

import pytest
import torch
import transformers
from composite_cases import BACKBONED, COMPOSITES, TALKING, answer_of, arguments_of, dinov2, dpt, llava, siglip
from family_cases import TOWER, built
from rounding import assert_rounded_alike
from transformers import AutoConfig, CLIPVisionConfig, DPTConfig, ResNetConfig, UperNetConfig

import fatr_hf
from fatr_hf.families import COMPOSITES as CLASSES

REDUCTION = {"reduction_layers": [1, 2], "keep_ratio": 0.6}
SIMILAR = {**REDUCTION, "fold": "similar", "selection": "high_frequency_energy"}

composites = pytest.mark.parametrize("name", COMPOSITES)


@composites
@torch.no_grad()
def test_unreduced_it_is_the_stock_model(name):
    stock, given = built(COMPOSITES[name]), arguments_of(name)
    model = fatr_hf.convert(stock, **REDUCTION)
    assert isinstance(model, type(stock))
    expected = answer_of(stock(**given))
    with model.tower.reduction(False):
        assert_rounded_alike(answer_of(model(**given)), expected)
    reduced = answer_of(model(**given))
    assert reduced.shape == expected.shape
    assert not torch.allclose(reduced, expected)


@composites
@torch.no_grad()
def test_what_is_not_the_tower_reads_the_dense_grid(name):
    """A stock composite that is handed the reduced tower's dense outputs says the same."""
    stock, given = built(COMPOSITES[name]), arguments_of(name)
    model = fatr_hf.convert(stock, **SIMILAR)
    found = answer_of(model(**given))
    stock.set_submodule(model.tower_name, model.tower)
    assert_rounded_alike(answer_of(stock(**given)), found)


@composites
@pytest.mark.parametrize("names", ["old", "new"])
@torch.no_grad()
def test_stock_checkpoints_load_by_name(name, names, tmp_path):
    stock, given = built(COMPOSITES[name]), arguments_of(name)
    stock.save_pretrained(tmp_path, save_original_format=names == "old")
    loaded = type(stock).from_pretrained(tmp_path).eval()
    model = fatr_hf.convert(tmp_path, **REDUCTION)
    assert model.config.tower.keep_ratio == 0.6
    with model.tower.reduction(False):
        assert_rounded_alike(answer_of(model(**given)), answer_of(loaded(**given)))


@composites
@torch.no_grad()
def test_a_saved_model_comes_back_through_its_auto_class(name, tmp_path):
    given = arguments_of(name)
    built(COMPOSITES[name]).save_pretrained(tmp_path / "stock")
    model = fatr_hf.convert(tmp_path / "stock", **SIMILAR)
    model.save_pretrained(tmp_path / "reduced")
    auto = getattr(transformers, model._auto_class)
    again = auto.from_pretrained(tmp_path / "reduced").eval()
    assert type(again) is type(model)
    assert_rounded_alike(answer_of(again(**given)), answer_of(model(**given)))


@composites
@torch.no_grad()
def test_a_fused_copy_says_the_same(name):
    model, given = fatr_hf.convert(built(COMPOSITES[name]), **REDUCTION), arguments_of(name)
    assert_rounded_alike(answer_of(model.fuse()(**given)), answer_of(model(**given)))


@composites
def test_a_weight_of_another_name_is_refused(name, tmp_path):
    stock = built(COMPOSITES[name])
    weights = stock.state_dict()
    renamed = next(each for each in weights if "fc1.weight" in each or "up_proj.weight" in each)
    weights[renamed.replace("weight", "wait")] = weights.pop(renamed)
    stock.save_pretrained(tmp_path, state_dict=weights, save_original_format=False)
    with pytest.raises(ValueError, match=r"lacks 1 of the model's weights.*random layers is never returned"):
        fatr_hf.convert(tmp_path)


@composites
def test_its_tower_attends_as_stocks_does(name, tmp_path):
    stock = built(COMPOSITES[name])
    model = fatr_hf.convert(stock)
    expected = stock.get_submodule(model.tower_name).config._attn_implementation
    assert model.tower.config._attn_implementation == expected == "sdpa"
    stock.save_pretrained(tmp_path)
    assert fatr_hf.convert(tmp_path).tower.config._attn_implementation == expected


def test_every_composite_has_a_case():
    elsewhere = ("CLIP", "Siglip", "Owl", "VitPose")  # in test_families.py, test_owl.py, test_vitpose.py, ...
    cases = {type(fatr_hf.convert(build())) for build in COMPOSITES.values()}
    others = {each for each in CLASSES if each.__name__.removeprefix("FATR").startswith(elsewhere)}
    assert cases | others == set(CLASSES)
    assert not cases & others


@pytest.mark.parametrize("name", TALKING)
def test_it_generates(name):
    model = fatr_hf.convert(built(COMPOSITES[name]), **SIMILAR)
    given = arguments_of(name)
    written = model.generate(**given, max_new_tokens=3, do_sample=False)
    assert written.shape == (2, given["input_ids"].shape[1] + 3)


def test_new_classes_renew_the_classifiers_of_a_segmentation_model_alone(tmp_path):
    stock = built(COMPOSITES["upernet-dinov2"])
    stock.save_pretrained(tmp_path)
    model = fatr_hf.convert(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert model.decode_head.classifier.out_channels == model.auxiliary_head.classifier.out_channels == 7
    kept = model.decode_head.bottleneck.conv.weight
    assert torch.equal(kept, stock.decode_head.bottleneck.conv.weight.to(kept.dtype))
    with pytest.raises(ValueError, match="For new classes give ignore_mismatched_sizes=True"):
        fatr_hf.convert(tmp_path, num_labels=7)


@pytest.mark.parametrize("name", BACKBONED)
def test_its_backbone_gets_gradients(name):
    model = fatr_hf.convert(built(COMPOSITES[name]), **REDUCTION).train()
    answer_of(model(**arguments_of(name))).square().mean().backward()
    layers = [parameter for each in model.tower.layers for parameter in each.parameters()]
    assert all(parameter.grad is not None for parameter in layers)


@torch.no_grad()
def test_depth_of_images_of_any_size():
    stock = built(COMPOSITES["depth_anything"])
    model, pixel_values = fatr_hf.convert(stock, **REDUCTION), torch.randn(1, 3, 24, 40, dtype=torch.float64)
    assert model(pixel_values).predicted_depth.shape == stock(pixel_values).predicted_depth.shape
    with model.tower.reduction(False):
        assert_rounded_alike(model(pixel_values).predicted_depth, stock(pixel_values).predicted_depth)


def test_a_change_of_the_reduction_is_saved(tmp_path):
    model = fatr_hf.convert(built(COMPOSITES["depth_anything"]), **REDUCTION)
    model.tower.set_reduction(keep_ratio=0.9)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).tower.keep_ratio == 0.9


def test_a_configuration_without_a_tower_takes_stocks_default():
    config = fatr_hf.FATRDepthAnythingConfig()
    assert config.tower.out_indices == [9, 10, 11, 12]
    assert config.tower.image_size == 518


def test_a_tower_of_another_family_is_refused():
    with pytest.raises(ValueError, match="backbone_config of model type 'resnet' cannot be reduced in FATRUperNet"):
        fatr_hf.FATRUperNetConfig.from_dict(
            UperNetConfig(backbone_config=ResNetConfig(out_indices=[1, 2, 3, 4])).to_dict()
        )
    with pytest.raises(ValueError, match="model type 'fatr_dinov2' cannot be reduced in FATRLlavaConfig"):
        fatr_hf.FATRLlavaConfig(vision_config=fatr_hf.FATRDinov2Config())
    with pytest.raises(ValueError, match="backbone_config=None must be the configuration of a vision transformer"):
        fatr_hf.FATRDPTConfig.from_dict(DPTConfig().to_dict())


def test_a_tower_whose_grid_is_read_stays_dense():
    stock = COMPOSITES["gemma3"]()
    with pytest.raises(ValueError, match="dense_outputs=False must be True: 'fatr_gemma3' reads the whole grid"):
        fatr_hf.convert(stock, dense_outputs=False)
    assert fatr_hf.convert(stock).config.vision_config.dense_outputs


def test_a_composite_of_another_type_is_refused():
    with pytest.raises(ValueError, match="'dpt' cannot be loaded as FATRDepthAnythingConfig"):
        fatr_hf.FATRDepthAnythingConfig.from_dict(dpt().config.to_dict())


@torch.no_grad()
def test_a_tower_that_hands_fewer_tokens_on_needs_fewer_places():
    model = fatr_hf.convert(built(COMPOSITES["llava"]), **SIMILAR, dense_outputs=False)
    tokens = model.config.tower.plan()[2].tokens_out - 1
    assert answer_of(model(**arguments_of("llava", tokens))).shape == (2, tokens + 4, 99)
    with pytest.raises(ValueError, match="image tokens do not match, tokens: 128"):
        model(**arguments_of("llava"))


def test_a_stock_composite_with_our_configuration_in_it_has_our_backbone():
    config = transformers.DepthAnythingConfig(
        backbone_config=fatr_hf.FATRDinov2Config.from_dict(dinov2(reshape_hidden_states=False).to_dict()),
        patch_size=4,
        reassemble_hidden_size=32,
    )
    model = transformers.DepthAnythingForDepthEstimation(config)
    assert isinstance(model.backbone, fatr_hf.FATRDinov2Backbone)


def test_our_configurations_leave_stock_towers_alone():
    fatr_hf.convert(llava(CLIPVisionConfig(**TOWER)))
    assert type(llava(CLIPVisionConfig(**TOWER)).model.vision_tower).__name__ == "CLIPVisionModel"
    assert type(llava(siglip()).model.vision_tower).__name__ == "SiglipVisionModel"
