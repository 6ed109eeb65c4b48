"""The whole classifier against the same network with explicit attention maps in float64, and against the stock ViT."""

import pytest
import torch
from reference import number, plan, randomise, reference_forward
from rounding import assert_rounded_alike
from transformers import ViTConfig, ViTForImageClassification

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.modeling.frequency_attention import fixed_random_scores
from fatr_hf.modeling.reduction_config import SELECTIONS

ViT = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "intermediate_size": 40,
    "num_labels": 5,
    "layer_norm_eps": 1e-6,
}
GRIDS = {  # with their layouts of pixels
    "4x6": {"image_size": (32, 48), "patch_size": 8},
    "8x8": {"image_size": 32, "patch_size": 4},
    "5x5": {"image_size": 40, "patch_size": 8},
}
SCHEDULES = {
    "4x6-default": GRIDS["4x6"],
    "4x6-one-layer": GRIDS["4x6"] | {"reduction_layers": [1], "keep_ratio": 0.5, "dc_windows": 2},
    "4x6-first-and-last": GRIDS["4x6"] | {"reduction_layers": [0, 3], "keep_ratio": [0.5, 0.4], "dc_windows": 2},
    "5x5-every-layer": GRIDS["5x5"] | {"reduction_layers": [0, 1, 2, 3], "keep_ratio": 0.8, "dc_windows": 1},
    "5x5-windows-3-3-1": GRIDS["5x5"] | {"keep_ratio": [0.5, 0.5, 0.4], "dc_windows": [3, 3, 1]},
    "5x5-six-layers": GRIDS["5x5"] | {"num_hidden_layers": 6, "num_attention_heads": 3},
    "8x8-windows-4-2-1": GRIDS["8x8"] | {"keep_ratio": 0.6, "dc_windows": [4, 2, 1]},
    "8x8-empty-windows": GRIDS["8x8"] | {"keep_ratio": [0.85, 0.9, 0.5], "dc_windows": [3, 3, 1]},
    "4x6-ordinary-between": GRIDS["4x6"] | {"keep_ratio": [0.6, 1.0, 0.5], "dc_windows": [2, 3, 1]},
    "4x6-without-dc-tokens": GRIDS["4x6"] | {"dc_windows": 0},
    "8x8-multiple-of-4": GRIDS["8x8"] | {"token_multiple": 4},
    "4x6-similar": GRIDS["4x6"] | {"fold": "similar"},
    "8x8-similar-every-layer": GRIDS["8x8"] | {"fold": "similar", "reduction_layers": [0, 1, 2, 3], "keep_ratio": 0.7},
    "5x5-similar-by-energy": GRIDS["5x5"] | {"fold": "similar", "selection": "high_frequency_energy"},
    "8x8-windows-by-energy": GRIDS["8x8"] | {"dc_windows": [4, 2, 1], "selection": "high_frequency_energy"},
    "4x6-similar-one-patch-left": GRIDS["4x6"] | {"fold": "similar", "reduction_layers": [1], "keep_ratio": 0.05},
    "4x6-one-patch-left": GRIDS["4x6"] | {"reduction_layers": [1, 2], "keep_ratio": 0.05},
}
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
EXPONENTS = pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0], ids="exponent{}".format)
ATTENTION = pytest.mark.parametrize("attention", ["eager", "sdpa"])
SELECTED = pytest.mark.parametrize("selection", SELECTIONS)


def build(attention="sdpa", dtype=torch.float64, randomised=True, **fields):
    torch.manual_seed(0)
    if fields.get("dc_windows") == 0:
        fields["size_exponent"] = 0.0  # dropped for good, no token has a size
    model = FATRViTForImageClassification(FATRViTConfig(**(ViT | fields), attn_implementation=attention))
    return (randomise(model) if randomised else model).to(dtype).eval()


def stock(model):
    """The unreduced ViT with the same weights."""
    fields = {name: getattr(model.config, name) for name in [*ViT, "image_size", "patch_size"]}
    config = ViTConfig(**fields, attn_implementation=model.config._attn_implementation)
    vit = ViTForImageClassification(config).to(model.dtype).eval()
    own = {name: tensor for name, tensor in model.state_dict().items() if "omega" not in name and "dc_" not in name}
    vit.load_state_dict(own)
    return vit


def images(model, batch=3, seed=1):
    rows, columns = model.config.patch_grid()
    size = model.config.patch_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, rows * size, columns * size, generator=generator, dtype=torch.float64).to(model.dtype)


@torch.no_grad()
def run(model, pixel_values, **options):
    return model(pixel_values, output_hidden_states=True, **options)


def softmax_dtype(model):
    """Eager attention takes its softmax in float32, whatever the model's dtype."""
    return torch.float32 if model.config._attn_implementation == "eager" else model.dtype


def assert_equals_reference(model):
    pixel_values = images(model)
    patches = model.vit.embeddings.patch_embeddings.num_patches
    expected = reference_forward(
        model, pixel_values, lambda layer: fixed_random_scores(patches, layer, torch.device("cpu")).tolist()
    )
    outputs = run(model, pixel_values, output_token_sources=True)

    assert [source.tolist() for source in outputs.token_sources] == expected["sources"]
    assert len(outputs.hidden_states) == len(expected["hidden_states"]) == model.config.num_hidden_layers + 1
    for actual, states in zip(outputs.hidden_states, expected["hidden_states"], strict=True):
        assert_rounded_alike(actual, states, softmax_dtype(model))
    assert_rounded_alike(outputs.logits, expected["logits"], softmax_dtype(model))
    return expected


def assert_same(actual, expected, model):
    """Equal but for the rounding of the patch embedding, a convolution there and a matrix product here."""
    assert_rounded_alike(actual.logits, expected.logits, softmax_dtype(model))
    assert_rounded_alike(actual.hidden_states, expected.hidden_states, softmax_dtype(model))


@schedules
@EXPONENTS
@ATTENTION
def test_float64_equals_explicit_maps(schedule, exponent, attention):
    assert_equals_reference(build(attention, size_exponent=exponent, **schedule))


def test_the_schedules_hold_what_their_names_say():
    model = build(**SCHEDULES["8x8-empty-windows"])
    counts = reference_forward(model, images(model))["dc_counts"]
    assert all(0 in image for image in counts[0])
    for name, schedule in SCHEDULES.items():
        config = build(**schedule).config
        assert "x".join(map(str, config.patch_grid())) == name[:3]


@SELECTED
def test_every_selection_equals_explicit_maps(selection):
    model = build(selection=selection, size_exponent=0.5, **SCHEDULES["8x8-windows-4-2-1"])
    assert_equals_reference(model)


@schedules
@ATTENTION
def test_float32_equals_explicit_maps(schedule, attention):
    assert_equals_reference(build(attention, torch.float32, size_exponent=0.5, **schedule))


@pytest.mark.parametrize("name", ["reweight_attention", "dc_position_embeddings"])
def test_parts_left_out_equal_explicit_maps(name):
    assert_equals_reference(build(**{name: False}, **SCHEDULES["8x8-windows-4-2-1"]))


def test_changed_reduction_equals_explicit_maps():
    model = build(**SCHEDULES["8x8-windows-4-2-1"])
    model.set_reduction(keep_ratio=[0.5, 0.7, 0.3], selection="cls_attention", size_exponent=1.0)
    assert_equals_reference(model)
    # Reduction starts later: the omegas before it have nothing to do.
    model.set_reduction(keep_ratio=0.5, reduction_layers=[2, 3], dc_windows=[2, 1], selection="high_frequency")
    assert_equals_reference(model)


@schedules
@ATTENTION
def test_without_reduction_it_is_the_stock_vit(schedule, attention):
    model = build(attention, size_exponent=0.5, **schedule)
    pixel_values = images(model)
    expected = run(stock(model), pixel_values)
    reduced = run(model, pixel_values)
    with model.reduction(False):
        assert_same(run(model, pixel_values), expected, model)
    assert_same(run(model, pixel_values), reduced, model)
    ordinary = build(attention, size_exponent=0.5, **(schedule | {"keep_ratio": 1.0}))
    assert {name for name, _ in ordinary.named_parameters()} == {name for name, _ in stock(model).named_parameters()}
    assert_same(run(ordinary, pixel_values), run(stock(ordinary), pixel_values), ordinary)


@schedules
@ATTENTION
def test_zero_parameters_equal_none(schedule, attention):
    bare = build(attention, reweight_attention=False, dc_position_embeddings=False, **schedule)
    model = build(attention, randomised=False, **schedule)  # omegas and DC embeddings start at zero
    model.load_state_dict(bare.state_dict(), strict=False)
    assert len(model.state_dict()) > len(bare.state_dict())
    pixel_values = images(model)
    assert_same(run(model, pixel_values), run(bare, pixel_values), model)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_new_model_starts_with_zero_parameters(attention):
    model = build(attention, randomised=False, **SCHEDULES["4x6-default"])
    own = {name: tensor for name, tensor in model.state_dict().items() if "omega" in name or "dc_" in name}
    assert len(own) == 3 + 2 + 3  # omega1, omega2, DC position embeddings of layers 1 to 3
    assert all(tensor.count_nonzero() == 0 for tensor in own.values())


@schedules
def test_parameters_stand_where_they_are_used(schedule):
    model = build(**schedule)
    config = model.config
    count, ratio = len(config.reduction_layers), config.keep_ratio
    ratios = ratio if isinstance(ratio, list) else [ratio] * count
    windows = config.dc_windows if isinstance(config.dc_windows, list) else [config.dc_windows] * count
    steps = plan(config.patch_grid(), config.reduction_layers, ratios, windows, multiple=config.token_multiple)
    shapes = {}
    for layer in range(min(steps), config.num_hidden_layers):
        shapes[f"vit.layers.{layer}.attention.omega1"] = (config.num_attention_heads,)
        if layer > min(steps) and any(windows):
            shapes[f"vit.layers.{layer}.attention.omega2"] = (config.num_attention_heads,)
        if layer in steps and any(windows):
            shapes[f"vit.layers.{layer}.reduction.dc_position_embeddings"] = (
                number(steps[layer][1]),
                config.hidden_size,
            )
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {name: shape for name, shape in own.items() if "omega" in name or "dc_position" in name}


@schedules
@ATTENTION
@pytest.mark.parametrize("randomised", [True, False], ids=["random", "fresh"])
def test_every_parameter_gets_a_gradient(schedule, attention, randomised):
    model = build(attention, torch.float32, randomised, **schedule).train()
    model(images(model), labels=torch.tensor([0, 2, 4])).loss.backward()
    last = f"layers.{model.config.num_hidden_layers - 1}."
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # The classifier reads the CLS token, which DC tokens reach in the layers that follow.
        if "omega" in name or ("dc_position" in name and last not in name):
            assert parameter.grad.count_nonzero() == parameter.numel(), name


@SELECTED
@ATTENTION
def test_an_image_does_not_depend_on_its_batch(selection, attention):
    model = build(attention, selection=selection, size_exponent=0.5, **SCHEDULES["8x8-windows-4-2-1"])
    pixel_values = images(model)
    together = run(model, pixel_values, output_token_sources=True)
    for image in range(3):
        alone = run(model, pixel_values[image : image + 1], output_token_sources=True)
        assert_rounded_alike(alone.logits[0], together.logits[image], softmax_dtype(model))
        for actual, expected in zip(alone.token_sources, together.token_sources, strict=True):
            assert torch.equal(actual[0], expected[image])
