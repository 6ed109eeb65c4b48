"""Every family: stock's model where nothing is reduced, and the method, exactly, where something is."""

import threading

import pytest
import torch
import transformers
from family_cases import (
    BACKBONES,
    CLASSIFIERS,
    DETECTORS,
    ENCODERS,
    IMAGE_ENCODERS,
    KINDS,
    TEXT,
    VIDEO_ENCODERS,
    built,
    fitting,
    images,
    inputs_of,
    samples,
    tensors_of,
    tower_of,
)
from family_reference import reference_encode
from huggingface_hub.errors import StrictDataclassError
from rounding import assert_rounded_alike
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, VisionTextDualEncoderModel
from transformers.modeling_utils import PreTrainedModel

import fatr_hf
from fatr_hf.families import FAMILIES, family_of

REDUCTION = {"reduction_layers": [1, 2], "keep_ratio": [0.6, 0.5], "dc_windows": [4, 2]}
SIMILAR = {"reduction_layers": [1, 2, 3], "keep_ratio": 0.7, "fold": "similar", "selection": "high_frequency_energy"}
REDUCTIONS = {
    "default": {},
    "nested": REDUCTION,
    "sized": {**REDUCTION, "size_exponent": 0.5},
    "dropped": {"keep_ratio": 0.5, "dc_windows": 0},
    "similar": SIMILAR,
    "similar-unsized": {**SIMILAR, "selection": "high_frequency", "size_exponent": 0.0},
    "energy": {**REDUCTION, "selection": "high_frequency_energy"},
}

PATCH_READERS = [
    name
    for name in ("ijepa", "dinov2", "dinov2-registers", "clip", "siglip", "videomae", "vjepa2")
    if name in CLASSIFIERS
]

folds = pytest.mark.parametrize("reduction", [REDUCTION, SIMILAR], ids=["windows", "similar"])
kinds = pytest.mark.parametrize("kind", KINDS)
encoders = pytest.mark.parametrize("name", ENCODERS)


@torch.no_grad()
def converted(name, builders=ENCODERS, **reduction):
    """A FATR model whose own parameters are not zero."""
    stock = built(builders[name])
    model = fatr_hf.convert(stock, **(fitting(stock, reduction) or {"preset": "paper"}))
    generator = torch.Generator().manual_seed(2)
    for key, parameter in model.named_parameters():
        if "omega" in key or "dc_position" in key:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


@kinds
@torch.no_grad()
def test_unreduced_it_is_the_stock_model(kind):
    stock = built(KINDS[kind])
    expected = tensors_of(stock(**inputs_of(stock)))
    model = fatr_hf.convert(stock)
    assert isinstance(model, type(stock)) or kind.startswith("backbone")
    with tower_of(model).reduction(False):
        assert_rounded_alike(tensors_of(model(**inputs_of(stock))), expected)
    assert expected.keys() == tensors_of(model(**inputs_of(stock))).keys()


@kinds
@pytest.mark.parametrize("shards", [False, True], ids=["whole", "shards"])
@torch.no_grad()
def test_stock_checkpoints_load_under_old_and_new_names(kind, shards, tmp_path):
    stock = built(KINDS[kind])
    expected = tensors_of(stock(**inputs_of(stock)))
    target = type(fatr_hf.convert(stock))
    for names in ("old", "new"):
        size = "20KB" if shards else "1GB"
        stock.save_pretrained(tmp_path / names, save_original_format=names == "old", max_shard_size=size)
        model = target.from_pretrained(tmp_path / names).double().eval()
        with tower_of(model).reduction(False):
            assert_rounded_alike(tensors_of(model(**inputs_of(stock))), expected)


@kinds
@torch.no_grad()
def test_a_saved_model_comes_back(kind, tmp_path):
    stock = built(KINDS[kind])
    model = fatr_hf.convert(stock, **fitting(stock, REDUCTION))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).double().eval()
    assert_rounded_alike(
        tensors_of(again(**inputs_of(stock))),
        tensors_of(model(**inputs_of(stock))),
    )


@kinds
def test_a_checkpoint_with_a_weight_of_another_name_is_refused(kind, tmp_path):
    stock = built(KINDS[kind])
    target = type(fatr_hf.convert(stock))
    weights = stock.state_dict()
    kinds_of_weight = ("fc1.weight", "up_proj.weight", "intermediate.dense.weight")
    name = next(name for name in weights if name.endswith(kinds_of_weight))
    name = name.replace("text_model", "vision_model")
    weights[name.replace("weight", "wait")] = weights.pop(name)
    stock.save_pretrained(tmp_path, state_dict=weights, save_original_format=False)
    with pytest.raises(ValueError, match=r"lacks 1 of the model's weights.*random layers is never returned"):
        target.from_pretrained(tmp_path)


@encoders
@pytest.mark.parametrize("reduction", REDUCTIONS.values(), ids=REDUCTIONS.keys())
@torch.no_grad()
def test_reduced_it_is_the_method(name, reduction):
    model = converted(name, **reduction)
    pixel_values = samples(model, 2)
    expected, _ = reference_encode(model, pixel_values)
    found = model(pixel_values, output_hidden_states=True)
    assert found.hidden_states[-1].shape == expected.shape
    assert_rounded_alike(found.hidden_states[-1], expected)


@pytest.mark.parametrize("name", PATCH_READERS)
@folds
@torch.no_grad()
def test_means_are_those_of_the_restored_grid(name, reduction):
    model = converted(name, CLASSIFIERS, **reduction)
    pixel_values = samples(model, 2)
    encoder = model.base_model
    outputs = encoder(pixel_values, output_token_sources=True)
    prefix = outputs.last_hidden_state[:, : model.config.num_prefix_tokens]
    dense = fatr_hf.restore_tokens(outputs.last_hidden_state, outputs.token_sources[-1])
    outputs.last_hidden_state = torch.cat([prefix, dense], dim=1)
    assert_rounded_alike(model(pixel_values).logits, model.classify(outputs))


@folds
@torch.no_grad()
def test_pooling_by_attention_is_that_of_the_restored_grid(reduction):
    model = converted("siglip", **reduction)
    pixel_values = samples(model, 2)
    outputs = model(pixel_values, output_token_sources=True)
    dense = fatr_hf.restore_tokens(outputs.last_hidden_state, outputs.token_sources[-1])
    assert_rounded_alike(outputs.pooler_output, model.head(dense))


@encoders
@folds
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_none(name, reduction):
    model = converted(name, **reduction).train()
    pixel_values = samples(model, 2)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        outputs = model(pixel_values)
        pooled = outputs.pooler_output
        (outputs.last_hidden_state.square().sum() + (0 if pooled is None else pooled.square().sum())).backward()
        gradients.append({key: each.grad for key, each in model.named_parameters() if each.grad is not None})
    unused = {key for key, _ in model.named_parameters()} - gradients[0].keys()
    assert all("mask_token" in key for key in unused), unused
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        assert_rounded_alike(gradients[1][key], gradient)


@encoders
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@folds
@torch.no_grad()
def test_a_fused_copy_computes_the_same(name, attention, reduction):
    model = converted(name, **reduction)
    pixel_values = samples(model, 2)
    model.set_attn_implementation(attention)
    dtype = {"sdpa": torch.float64, "eager": torch.float64}[attention]
    fused = model.fuse()
    assert_rounded_alike(tensors_of(fused(pixel_values)), tensors_of(model(pixel_values)), dtype)


@pytest.mark.parametrize("name", CLASSIFIERS)
@torch.no_grad()
def test_a_fused_classifier_gives_the_same_logits(name):
    model = converted(name, CLASSIFIERS, **REDUCTION)
    pixel_values = samples(model, 2)
    fused, lengths = model.fuse(), []
    fused.base_model.layers[-1].mlp.register_forward_hook(lambda module, given, output: lengths.append(output.shape[1]))
    assert_rounded_alike(fused(pixel_values).logits, model(pixel_values).logits)
    whole = model.config.plan()[-1].tokens_out
    assert lengths == [model.config.num_prefix_tokens if (model.config.classifier_reads == "cls") else whole]


@pytest.mark.parametrize("name", DETECTORS)
@torch.no_grad()
def test_a_fused_detector_gives_the_same(name):
    model, pixel_values = converted(name, DETECTORS, **REDUCTION), images(2)
    fused, lengths = model.fuse(), []
    fused.base_model.layers[-1].mlp.register_forward_hook(lambda module, given, output: lengths.append(output.shape[1]))
    found, expected = fused(pixel_values), model(pixel_values)
    assert_rounded_alike((found.logits, found.pred_boxes), (expected.logits, expected.pred_boxes))
    first, detection = expected.last_hidden_state[:, :1], expected.last_hidden_state[:, -5:]
    assert_rounded_alike(found.last_hidden_state, torch.cat([first, detection], dim=1))
    sources = fused(pixel_values, output_token_sources=True).token_sources
    assert all(map(torch.equal, sources, model(pixel_values, output_token_sources=True).token_sources))
    assert lengths == [6, model.config.plan()[-1].tokens_out]


@pytest.mark.parametrize("name", ["dinov3", "siglip", "dinov2-gated", "yolos", *VIDEO_ENCODERS])
@folds
@torch.no_grad()
def test_it_compiles_whole(name, reduction):
    model = converted(name, **reduction)
    pixel_values = samples(model, 2)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_rounded_alike(compiled(pixel_values).last_hidden_state, model(pixel_values).last_hidden_state)


@pytest.mark.parametrize(
    ("name", "reduction"),
    [*((name, SIMILAR) for name in ENCODERS), ("vit", REDUCTION), ("dinov3", REDUCTION)],
    ids=[*(f"{name}-similar" for name in ENCODERS), "vit-windows", "dinov3-windows"],
)
@torch.no_grad()
def test_it_exports_with_a_dynamic_batch(name, reduction):
    model = converted(name, **reduction)
    program = torch.export.export(
        model,
        (samples(model),),
        dynamic_shapes={model.main_input_name: {0: torch.export.Dim("batch", min=1, max=64)}},
        strict=False,
    )
    for count in (1, 5):
        found = program.module()(samples(model, count))
        assert_rounded_alike(found["last_hidden_state"], model(samples(model, count)).last_hidden_state)


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
@torch.no_grad()
def test_pixels_beyond_the_last_patch_and_other_sizes(name):
    stock = built(ENCODERS[name])
    model = fatr_hf.convert(stock)
    asks = {} if model.config.takes_any_size else {"interpolate_pos_encoding": True}
    for height, width in ((48, 48), (42, 51)):
        pixel_values = images(2, height, width)
        with model.reduction(False):
            found = tensors_of(model(pixel_values, **asks))
        assert_rounded_alike(found, tensors_of(stock(pixel_values, **asks)))
        grid = (height // 4) * (width // 4)
        assert model(pixel_values, **asks).last_hidden_state.shape[1] < model.config.num_prefix_tokens + grid


@pytest.mark.parametrize("name", ["vit", "deit", "ijepa", "dinov2", "dinov2-registers", "clip", "siglip", "internvl"])
@torch.no_grad()
def test_positions_stretch_while_loading_as_at_run_time(name, tmp_path):
    stock = built(ENCODERS[name])
    stock.save_pretrained(tmp_path)
    family = family_of(stock.config.model_type)
    model = family.model.from_pretrained(tmp_path, image_size=48).eval()
    asks = {} if "dino" in name else {"interpolate_pos_encoding": True}
    with model.reduction(False):
        found = tensors_of(model(images(2, 48, 48)))
    # Stock's DINO stretches in float32.
    dtype = torch.float32 if "dino" in name else None
    assert_rounded_alike(found, tensors_of(stock(images(2, 48, 48), **asks)), dtype)


@pytest.mark.parametrize("name", ["clip", "siglip"])
@torch.no_grad()
def test_positions_of_a_whole_model_stretch_too(name, tmp_path):
    stock = built(KINDS[f"other-{name}-whole"])
    stock.save_pretrained(tmp_path)
    expected = stock.vision_model(images(2, 48, 48), interpolate_pos_encoding=True)
    for target in (family_of(stock.config.model_type).model, type(fatr_hf.convert(stock))):
        model = tower_of(target.from_pretrained(tmp_path, image_size=48).double().eval())
        with model.reduction(False):
            assert_rounded_alike(tensors_of(model(images(2, 48, 48))), tensors_of(expected))
    whole = fatr_hf.convert(tmp_path, image_size=48, keep_ratio=0.5)
    assert (whole.vision_model.config.image_size, whole.vision_model.config.keep_ratio) == (48, 0.5)


@kinds
def test_misspelt_fields_are_refused(kind):
    with pytest.raises(ValueError, match="has no field 'keep_ratios': did you mean 'keep_ratio'"):
        fatr_hf.convert(built(KINDS[kind]), keep_ratios=0.5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SamVisionModel", "attend within windows"),
        ("SwinModel", "stages shrink the grid"),
        ("HieraModel", "stages shrink the grid"),
        ("TimesformerModel", "space and over time runs apart"),
        ("Siglip2VisionModel", "packed or masked"),
    ],
)
def test_what_cannot_be_reduced_is_refused_with_the_reason(name, reason, tmp_path):
    stock = getattr(transformers, name)
    with torch.device("meta"):
        model = stock(stock.config_class())
    with pytest.raises(ValueError, match=f"^{name} cannot be reduced: its .*{reason}"):
        fatr_hf.convert(model)
    model.config.architectures = [name]
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^{name} cannot be reduced: its .*{reason}"):
        fatr_hf.convert(tmp_path)


def test_what_is_no_family_is_refused_by_its_name():
    text = {**TEXT, "vocab_size": 99}
    with pytest.raises(ValueError, match=r"CLIPTextModel cannot be reduced as a whole\. These can: CLIPForImage"):
        fatr_hf.convert(CLIPTextModel(CLIPTextConfig(**text)))
    both = VisionTextDualEncoderModel(vision_model=built(ENCODERS["vit"]), text_model=BertModel(BertConfig(**text)))
    with pytest.raises(ValueError, match=r"VisionTextDualEncoderModel cannot be reduced.*that encoder and put it back"):
        fatr_hf.convert(both)
    with pytest.raises(ValueError, match="FATRViTModel is reduced already"):
        fatr_hf.convert(fatr_hf.convert(built(ENCODERS["vit"])))
    with pytest.raises(ValueError, match="must be a model of transformers or its name, not a Linear"):
        fatr_hf.convert(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="image_size is for a name: a loaded model keeps its own"):
        fatr_hf.convert(built(ENCODERS["vit"]), image_size=48)
    extended = built(ENCODERS["dinov2"])
    extended.encoder.layer[0].register_parameter("gate", torch.nn.Parameter(torch.ones(32)))
    with pytest.raises(ValueError, match=r"Dinov2Model has layers\.0\.gate, which its class does not have"):
        fatr_hf.convert(extended)
    changed = built(ENCODERS["dinov2"])
    changed.encoder.layer[0].attention.q_proj = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"Dinov2Model lacks layers\.0\.attention\.q_proj\.weight"):
        fatr_hf.convert(changed)


@encoders
@torch.no_grad()
def test_a_plan_is_of_one_call(name):
    model = converted(name, keep_ratio=0.7)
    pixel_values = samples(model, 2)
    own = model(pixel_values).last_hidden_state
    unreduced = model.config.plan(reduce=False)
    with model.reduction(False):
        expected = model(pixel_values).last_hidden_state
    found, halves = {}, threading.Barrier(2)

    def run(key, plan):
        for _ in range(3):
            halves.wait()
            with torch.no_grad():
                found.setdefault(key, []).append(model(pixel_values, plan=plan).last_hidden_state)

    threads = [threading.Thread(target=run, args=arguments) for arguments in (("own", None), ("whole", unreduced))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for state in found["own"]:
        assert_rounded_alike(state, own)
    for state in found["whole"]:
        assert_rounded_alike(state, expected)


def test_weights_are_shared_and_stay_frozen():
    stock = built(ENCODERS["dinov2"])
    stock.embeddings.requires_grad_(False)
    model = fatr_hf.convert(stock)
    assert model.layers[0].mlp.fc1.weight.data_ptr() == stock.encoder.layer[0].mlp.fc1.weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in model.embeddings.parameters())
    assert all(parameter.requires_grad for parameter in model.layers.parameters())


def test_plans_of_other_models_and_sizes_are_refused():
    model = converted("vit")
    pixel_values = samples(model, 2)
    with pytest.raises(ValueError, match="begins with 1 prefix tokens and 144 patches"):
        model(pixel_values, plan=model.config.plan(48))
    with pytest.raises(ValueError, match="begins with 2 prefix tokens"):
        model(pixel_values, plan=converted("deit").config.plan())
    with pytest.raises(ValueError, match="plan has 2 layers, and the model 4"):
        model(pixel_values, plan=model.config.plan()[:2])
    for plan, kind in ((3, "int"), ("plan", "str"), ([3, 4, 5, 6], "list")):
        with pytest.raises(ValueError, match=f"plan must be a list with a LayerPlan for each layer, .*, not {kind}"):
            model(pixel_values, plan=plan)
    other = type(model.config).from_dict(model.config.to_dict(), reduction_layers=[0], dc_windows=1)
    with pytest.raises(ValueError, match="layer 0 of this model does not have: omega1"):
        model(pixel_values, plan=other.plan())
    with pytest.raises(ValueError, match="a fused model is fixed"):
        model.fuse()(pixel_values, plan=model.config.plan(reduce=False))


@encoders
def test_masks_and_unknown_selections_are_refused(name):
    model = converted(name)
    with pytest.raises(ValueError, match="attention_mask is not supported"):
        model(samples(model, 2), attention_mask=torch.ones(2, 65))
    if name in BACKBONES:
        with pytest.raises(ValueError, match="attention_mask is not supported"):
            converted(name, BACKBONES)(images(2), attention_mask=torch.ones(2, 65))
    if not model.config.num_prefix_tokens:
        with pytest.raises(Exception, match="needs a CLS token"):
            model.set_reduction(selection="cls_attention")


def test_a_folder_of_the_first_version_loads(request):
    folder = request.path.parent / "fatr_vit_0_1"
    import json

    model = fatr_hf.FATRViTForImageClassification.from_pretrained(folder).double().eval()
    pixel_values = (torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin() * 7).sin().double()
    expected = torch.tensor(json.loads((folder / "expected.json").read_text())["logits"], dtype=torch.float64)
    assert_rounded_alike(model(pixel_values).logits, expected, torch.float32)


def test_families_are_registered_with_every_auto_class():
    from transformers import AutoBackbone, AutoConfig, AutoModelForObjectDetection

    for family in FAMILIES:
        config = family.config()
        if family.classifier is not None:
            # Of a family with two classifiers transformers chooses by this, and fails without it.
            config.architectures = [family.classifier.__name__]
        assert type(AutoConfig.for_model(config.model_type)) is family.config
        with torch.device("meta"):
            of_model = getattr(transformers, next(iter(family.model.auto_classes)))
            assert type(of_model.from_config(config)) is family.model
            if family.classifier is not None:
                auto_class = getattr(transformers, family.classifier._auto_class)
                assert type(auto_class.from_config(config)) is family.classifier
            if family.second_classifier is not None:
                config.architectures = [family.second_classifier.__name__]
                assert type(auto_class.from_config(config)) is family.second_classifier
            if family.backbone is not None:
                assert type(AutoBackbone.from_config(config)) is family.backbone
            if family.detector is not None:
                assert type(AutoModelForObjectDetection.from_config(config)) is family.detector
        assert issubclass(family.model, PreTrainedModel)


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
@torch.no_grad()
def test_an_oblong_image_size_works_or_is_refused(name):
    model = converted(name)
    height, width = (patches * side for patches, side in zip((8, 12), model.config.patch_sides, strict=True))
    fields = {**model.config.to_dict(), "image_size": (height, width)}
    if model.config.has_square_size:
        with pytest.raises(StrictDataclassError, match=rf"image_size=.*{height}, {width}.* must be a square in"):
            type(model.config)(**fields)
        return
    oblong = type(model)(type(model.config)(**fields)).eval()
    states = oblong(torch.rand(1, 3, height, width)).last_hidden_state
    assert states.shape[1] == oblong.config.plan()[-1].tokens_out
