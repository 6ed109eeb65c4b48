"""A fused copy computes what its model computes, and cannot be mistaken for it."""

import copy

import pytest
import torch
from rounding import assert_rounded_alike
from torch import nn

from fatr_hf.modeling.fused_inference import is_fused

SCHEDULES = {
    "default": {},
    "first-layer": {"reduction_layers": [0], "keep_ratio": 0.5, "dc_windows": 2},
    "sized": {"size_exponent": 0.5, "dc_windows": [4, 2, 1]},
    "no-bias": {"qkv_bias": False},
    "no-omega": {"reweight_attention": False},
    "nothing-reduced": {"reduction_layers": []},
}
schedules = pytest.mark.parametrize("fields", SCHEDULES.values(), ids=SCHEDULES.keys())


def attentions(model):
    return [layer.attention for layer in model.vit.layers]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@schedules
def test_a_fused_copy_gives_the_same_logits_and_gradients(make_fatr, pixel_values, fields, attention):
    model = make_fatr(**fields).double()
    model.set_attn_implementation(attention)
    fused = model.fuse()
    dtype = {"sdpa": torch.float64, "eager": torch.float32}[attention]  # of the softmax
    pixel_values = pixel_values.double().requires_grad_()
    expected, actual = model(pixel_values).logits, fused(pixel_values).logits
    assert_rounded_alike(actual, expected, dtype)
    expected, actual = (torch.autograd.grad(logits.square().sum(), pixel_values) for logits in (expected, actual))
    assert_rounded_alike(actual, expected, dtype)
    assert all(attention.omega1 is None and attention.omega2 is None for attention in attentions(fused))
    with torch.inference_mode():
        assert_rounded_alike(fused(pixel_values).logits, model(pixel_values).logits, dtype)


@pytest.mark.parametrize("keep_ratio", [1.0, [1.0, 0.5, 0.5], [0.5, 1.0, 0.5]], ids=str)
def test_omegas_of_layers_that_no_longer_follow_a_reduction(make_fatr, pixel_values, keep_ratio):
    model = make_fatr(dc_windows=1).double()
    model.set_reduction(keep_ratio=keep_ratio)
    before = [attention.omega1 for attention in attentions(model)]
    assert_rounded_alike(model.fuse()(pixel_values).logits, model(pixel_values).logits)
    assert [attention.omega1 for attention in attentions(model)] == before


def test_a_copy_that_is_fused_without_the_reduction(make_fatr, pixel_values):
    model = make_fatr().double()
    with model.reduction(False):
        fused, expected = model.fuse(), model(pixel_values).logits
    assert_rounded_alike(fused(pixel_values).logits, expected)


@pytest.mark.parametrize("omega1", [-1.0, -0.95], ids="omega1{}".format)
def test_a_head_that_omega1_silences(make_fatr, pixel_values, omega1):
    model = make_fatr().double()
    with torch.no_grad():
        attentions(model)[2].omega1[0] = omega1
    fused = model.fuse()
    assert_rounded_alike(fused(pixel_values).logits, model(pixel_values).logits)
    assert attentions(fused)[2].omega1 is not None
    assert attentions(fused)[3].omega1 is None


def test_omegas_of_zero_cost_nothing(make_fatr, pixel_values):
    model = make_fatr().double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "omega" in name:
                parameter.zero_()
    fused = model.fuse()
    for attention in attentions(fused):
        assert attention.mean_proj is None
        assert attention.dc_gain is None
        assert attention.omega1 is None
        assert attention.omega2 is None
    assert_rounded_alike(fused(pixel_values).logits, model(pixel_values).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_as_accurate_as_unfused(make_fatr, pixel_values, dtype):
    # The same tokens are kept whatever the precision, so that errors can be compared.
    model = make_fatr(selection="random").to(dtype)
    pixel_values = pixel_values.to(dtype)
    exact = copy.deepcopy(model).double().vit(pixel_values).last_hidden_state
    states = [each.vit(pixel_values).last_hidden_state for each in (model.fuse(), model)]
    errors = [(each.double() - exact).square().mean() for each in states]
    assert errors[0] <= 4 * errors[1]  # of squares: twice the error


LAST_LAYER = {"plain": {}, "reduces": {"reduction_layers": [1, 3], "keep_ratio": 0.5}}


@pytest.mark.parametrize("fields", LAST_LAYER.values(), ids=LAST_LAYER.keys())
def test_the_last_layer_computes_what_is_asked_for(make_fatr, pixel_values, fields):
    model = make_fatr(**fields).double()
    fused, lengths = model.fuse(), []
    fused.vit.layers[-1].mlp.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    expected = model(pixel_values, output_hidden_states=True, output_token_sources=True)
    assert_rounded_alike(fused(pixel_values).logits, expected.logits)
    every = fused(pixel_values, output_hidden_states=True)
    assert_rounded_alike(every.hidden_states, expected.hidden_states)
    sources = fused(pixel_values, output_token_sources=True).token_sources
    assert all(map(torch.equal, sources, expected.token_sources))
    fused.config.output_hidden_states = True
    assert len(fused(pixel_values).hidden_states) == 5
    assert lengths == [1, *[model.config.plan()[-1].tokens_out] * 3]
    assert_rounded_alike(fused.vit(pixel_values).last_hidden_state, model.vit(pixel_values).last_hidden_state)


def test_only_the_projections_are_copied(make_fatr):
    model = make_fatr()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = model.fuse()
    assert is_fused(fused)
    assert not is_fused(model)
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    own = [name for name, parameter in fused.named_parameters() if parameter.data_ptr() not in shared]
    assert {name.rsplit(".", 2)[1] for name in own} == {"qkv_proj", "mean_proj"}
    assert not any(parameter.requires_grad for name, parameter in fused.named_parameters() if name in own)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_a_fused_copy_refuses(make_fatr, pixel_values, tmp_path):
    fused = make_fatr().fuse()
    with pytest.raises(ValueError, match="fused already"):
        fused.fuse()
    with pytest.raises(ValueError, match="cannot be saved"):
        fused.save_pretrained(tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
    with pytest.raises(ValueError, match="cannot be saved"):
        fused.push_to_hub("user/model")
    with pytest.raises(ValueError, match="set_reduction: a fused model is fixed"):
        fused.set_reduction(keep_ratio=0.5)
    with pytest.raises(ValueError, match="reduction: a fused model is fixed"), fused.reduction(False):
        pass
    with pytest.raises(ValueError, match="for inference"):
        fused.train()(pixel_values)


class AdaptedLinear(nn.Linear):
    """As an adapter or a quantised layer: a Linear by name, and more than its weight."""


def test_projections_that_are_more_than_their_weights_are_refused(make_fatr):
    model = make_fatr()
    attentions(model)[1].k_proj = AdaptedLinear(32, 32)
    with pytest.raises(ValueError, match="k_proj is AdaptedLinear, not a plain Linear"):
        model.fuse()
    assert not is_fused(model)


def test_a_fused_copy_compiles_whole(make_fatr, pixel_values):
    fused = make_fatr().double().fuse()
    compiled = torch.compile(fused, fullgraph=True)
    with torch.inference_mode():
        assert_rounded_alike(compiled(pixel_values).logits, fused(pixel_values).logits)
