"""ViTPose: no CLS, experts that an image's data set chooses, and heat maps off the full grid."""

import pytest
import torch
from family_cases import built
from family_reference import encode_image
from reference import Weights, plan
from rounding import assert_rounded_alike
from transformers import (
    AutoBackbone,
    AutoModel,
    VitPoseBackbone,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VitPoseImageProcessor,
)
from without_package import outputs_without_package

import fatr_hf
from fatr_hf.baselines.macs import count_macs
from fatr_hf.baselines.matched import matched_rivals
from fatr_hf.modeling import schedule_macs

REDUCTION = {"reduction_layers": [1, 2], "keep_ratio": [0.6, 0.5], "dc_windows": [2, 1]}
SIMILAR = {"reduction_layers": [1, 2], "keep_ratio": 0.7, "fold": "similar"}
EXPERTS = {"num_experts": 3, "part_features": 8}
folds = pytest.mark.parametrize("reduction", [REDUCTION, SIMILAR], ids=["windows", "similar"])


def backbone(**fields):
    size = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "mlp_ratio": 2}
    return VitPoseBackboneConfig(**size, image_size=[64, 48], patch_size=[8, 8], out_indices=[1, 4], **fields)


def pose(decoder="simple", **fields):
    return VitPoseConfig(backbone_config=backbone(**fields), num_labels=5, use_simple_decoder=decoder == "simple")


MODELS = {
    "backbone": lambda: VitPoseBackbone(backbone()),
    "backbone-experts": lambda: VitPoseBackbone(backbone(**EXPERTS)),
    "pose-simple": lambda: VitPoseForPoseEstimation(pose()),
    "pose-classic-experts": lambda: VitPoseForPoseEstimation(pose("classic", **EXPERTS)),
}
models = pytest.mark.parametrize("name", MODELS)


def inputs_of(name):
    generator = torch.Generator().manual_seed(1)
    given = {"pixel_values": torch.randn(2, 3, 64, 48, generator=generator, dtype=torch.float64)}
    return {**given, "dataset_index": torch.tensor([2, 0])} if "experts" in name else given


def given_by(model, name, **options):
    """The tensors that a model gives, heat maps or feature maps first."""
    outputs = model(**inputs_of(name), **options)
    return [outputs.heatmaps] if "pose" in name else list(outputs.feature_maps)


def reduced_part(model):
    return getattr(model, "backbone", model)


@models
@torch.no_grad()
def test_unreduced_it_is_stock_from_memory_and_files(name, tmp_path):
    stock = built(MODELS[name])
    expected = given_by(stock, name)
    model = fatr_hf.convert(stock, **REDUCTION)
    assert isinstance(model, type(stock))
    found = [model]
    for names in ("old", "new"):
        stock.save_pretrained(tmp_path / names, save_original_format=names == "old")
        found.append(type(model).from_pretrained(tmp_path / names, **REDUCTION).double().eval())
        found.append(fatr_hf.convert(tmp_path / names, **REDUCTION).double())
    for each in found:
        assert type(each) is type(model)
        with reduced_part(each).reduction(False):
            assert_rounded_alike(given_by(each, name), expected)
        assert [tensor.shape for tensor in given_by(each, name)] == [tensor.shape for tensor in expected]
        assert reduced_part(each).config.plan()[-1].tokens_out < 48


@models
@torch.no_grad()
def test_a_saved_model_comes_back_and_a_renamed_weight_is_refused(name, tmp_path):
    model = fatr_hf.convert(built(MODELS[name]), **REDUCTION)
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved").double().eval()
    assert_rounded_alike(given_by(again, name), given_by(model, name))
    weights = model.state_dict()
    key = next(key for key in weights if "fc1.weight" in key)
    weights[key.replace("weight", "wait")] = weights.pop(key)
    model.save_pretrained(tmp_path / "renamed", state_dict=weights)
    with pytest.raises(ValueError, match="lacks 1 of the model's weights"):
        type(model).from_pretrained(tmp_path / "renamed")


@folds
@torch.no_grad()
def test_reduced_it_is_the_method(reduction):
    model = fatr_hf.convert(built(MODELS["backbone"]), **reduction)
    generator = torch.Generator().manual_seed(2)
    for key, parameter in model.named_parameters():
        if "omega" in key or "dc_position" in key:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    pixel_values = inputs_of("backbone")["pixel_values"]
    ratios = reduction["keep_ratio"] if "fold" not in reduction else [0.7, 0.7]
    steps = plan((8, 6), [1, 2], ratios, reduction.get("dc_windows", [0, 0]), prefix=0)
    weights, embedded = Weights(model), model.embed(pixel_values)
    expected = [encode_image(model, weights, image, None, steps, (8, 6)) for image in embedded]
    states = []
    model.layers[-1].register_forward_hook(lambda module, given, output: states.append(output[0]))
    last = model(pixel_values).feature_maps[-1]
    assert_rounded_alike(states[0], torch.stack([hidden for hidden, _ in expected]))
    # A window's patches differ from each other, and their mean is what stands for them.
    for image, (hidden, members) in zip(last, expected, strict=True):
        normed = weights.norm("layernorm", hidden, model.config.layer_norm_eps)
        kept = (members > 0).sum(dim=1) == 1
        assert_rounded_alike(image[members[kept].argmax(dim=1)], normed[kept])


@models
@folds
@torch.no_grad()
def test_a_fused_copy_computes_the_same(name, reduction):
    model = fatr_hf.convert(built(MODELS[name]), **reduction)
    expected = given_by(model, name)
    if "pose" in name:
        model.backbone = model.backbone.fuse()
        assert_rounded_alike(given_by(model, name), expected)
    else:
        assert_rounded_alike(given_by(model.fuse(), name), expected)


@models
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_none(name):
    model, gradients = fatr_hf.convert(built(MODELS[name]), **REDUCTION), []
    if "experts" in name:  # one expert has no image here
        unused = {key for key, _ in model.named_parameters() if "experts.1." in key}
    for checkpointed in (False, True):
        if checkpointed:
            model.train().gradient_checkpointing_enable()
        model.zero_grad()
        sum(each.square().sum() for each in given_by(model, name)).backward()
        gradients.append({key: each.grad for key, each in model.named_parameters() if each.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == dict(model.named_parameters()).keys()
    if "experts" in name:
        assert not any(gradients[0][key].any() for key in unused)
    if "classic" not in name:  # whose norm takes the batch's own statistics in training
        for key, gradient in gradients[0].items():
            assert_rounded_alike(gradients[1][key], gradient)


@pytest.mark.parametrize("name", ["backbone", "backbone-experts"])
@torch.no_grad()
def test_it_compiles_whole(name):
    model = fatr_hf.convert(built(MODELS[name]), **REDUCTION)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_rounded_alike(given_by(compiled, name), given_by(model, name))


@torch.no_grad()
def test_rivals_run_and_cost_about_the_same():
    model = fatr_hf.convert(built(MODELS["backbone"]), **REDUCTION)
    assert schedule_macs(model.config) == count_macs(model)
    for name, rival in matched_rivals(model).items():
        maps = rival(inputs_of("backbone")["pixel_values"]).feature_maps
        assert [each.shape for each in maps] == [(2, 48, 32)] * 2
        if name != "unreduced":
            assert count_macs(rival) == pytest.approx(count_macs(model), rel=0.08)


def test_what_it_cannot_take_is_refused_in_words():
    model = fatr_hf.convert(built(MODELS["backbone-experts"]))
    with pytest.raises(ValueError, match="dataset_index must name one of 3 experts for each image"):
        model(inputs_of("backbone")["pixel_values"])
    with pytest.raises(ValueError, match="attention_mask is not supported"):
        model(**inputs_of("backbone-experts"), attention_mask=torch.ones(2, 48))
    with pytest.raises(ValueError, match="doesn't match model"):
        fatr_hf.convert(built(MODELS["backbone"]))(torch.zeros(2, 3, 80, 48, dtype=torch.float64))


@torch.no_grad()
def test_post_processing_of_stock_takes_its_heat_maps():
    model = fatr_hf.convert(built(MODELS["pose-simple"]), **REDUCTION)
    processor = VitPoseImageProcessor(size={"height": 64, "width": 48})
    boxes = [[[4.0, 6.0, 30.0, 40.0], [0.0, 0.0, 20.0, 50.0]]]
    given = processor([torch.randint(256, (3, 60, 70), dtype=torch.uint8)], boxes=boxes, return_tensors="pt")
    outputs = model(given["pixel_values"].double())
    outputs.heatmaps = outputs.heatmaps.float()
    people = processor.post_process_pose_estimation(outputs, boxes=boxes)[0]
    assert [person["keypoints"].shape for person in people] == [(5, 2), (5, 2)]


def test_auto_classes_build_it():
    config = fatr_hf.convert(built(MODELS["backbone"])).config
    assert type(AutoBackbone.from_config(config)) is fatr_hf.FATRVitPoseBackbone
    whole = fatr_hf.convert(built(MODELS["pose-simple"])).config
    assert type(AutoModel.from_config(whole)) is fatr_hf.FATRVitPoseForPoseEstimation
    assert VitPoseForPoseEstimation(VitPoseConfig(backbone_config=config, num_labels=5)).backbone.config is config


@torch.no_grad()
def test_a_folder_works_without_the_package(tmp_path):
    name = "pose-classic-experts"
    model = fatr_hf.convert(built(MODELS[name]), **REDUCTION)
    found = outputs_without_package(model, "AutoModel", inputs_of(name), tmp_path)
    assert_rounded_alike(found["heatmaps"], given_by(model, name)[0])
