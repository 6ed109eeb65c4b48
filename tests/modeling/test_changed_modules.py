"""Modules that PyTorch, accelerate or a quantisation library has changed: honoured by the ordinary path, or refused."""

import pytest
import torch
from rounding import assert_rounded_alike
from torch import nn
from torch.nn.utils import parametrize, prune

from fatr_hf.modeling.fused_inference import why_not_plain
from fatr_hf.modeling.weight_checks import check_finite_weights


class Scaled(torch.Tensor):
    """A tensor as quantisation libraries make them: a wrapper around values of another kind."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)

    def __init__(self, values):
        self.values_as_int8 = values

    def __tensor_flatten__(self):
        return ["values_as_int8"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, metadata, size, stride):
        return cls(inner["values_as_int8"])

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].values_as_int8)
        raise NotImplementedError(f"{function} of a quantised tensor")


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


CHANGES = {
    "forward-hook": lambda module: module.register_forward_hook(lambda *_: None),
    "pre-hook": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "backward-hook": lambda module: module.register_full_backward_hook(lambda *_: None),
    "backward-pre-hook": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    "own-forward": lambda module: setattr(module, "forward", lambda x: x),
    "offloaded": lambda module: setattr(module, "_hf_hook", object()),
    "pruned": lambda module: prune.l1_unstructured(module, "weight", 0.5),
    "weight-norm": lambda module: nn.utils.parametrizations.weight_norm(module),
    "spectral-norm": lambda module: nn.utils.spectral_norm(module),
    "parametrised": lambda module: parametrize.register_parametrization(module, "weight", Doubled()),
    "quantised": lambda module: setattr(
        module, "weight", nn.Parameter(Scaled(torch.ones(4, 4, dtype=torch.int8)), requires_grad=False)
    ),
}


def test_an_untouched_layer_is_plain():
    assert why_not_plain(nn.Linear(4, 4), nn.Linear) is None
    assert why_not_plain(nn.Linear(4, 4, bias=False).bfloat16(), nn.Linear) is None
    assert why_not_plain(nn.Linear(4, 4, device="meta"), nn.Linear) is None
    assert why_not_plain(nn.Bilinear(4, 4, 4), nn.Linear) is not None


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_changed_layer_is_not_plain(change):
    module = nn.Linear(4, 4)
    CHANGES[change](module)
    assert why_not_plain(module, nn.Linear) is not None


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "offloaded"], ids=str)
@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj", "o_proj"])
def test_a_changed_projection_has_no_fused_copy(make_fatr, name, change):
    model = make_fatr()
    CHANGES[change](getattr(model.vit.layers[2].attention, name))
    with pytest.raises(ValueError, match=rf"{name} .*so there is no fused copy: remove hooks, merge adapters"):
        model.fuse()


def test_other_pruned_layers_are_refused_too(make_fatr):
    model = make_fatr()
    prune.l1_unstructured(model.vit.layers[0].mlp.fc1, "weight", 0.5)
    with pytest.raises(
        ValueError, match=r"cannot be copied: make pruning permanent \(torch\.nn\.utils\.prune\.remove\)"
    ):
        model.fuse()
    prune.remove(model.vit.layers[0].mlp.fc1, "weight")
    model.fuse()


def test_hooks_of_other_layers_run_in_the_fused_copy(make_fatr, pixel_values):
    model = make_fatr()
    model.vit.layers[0].mlp.fc2.register_forward_hook(lambda module, inputs, output: output * 0)
    model.double()
    fused = model.fuse()
    torch.testing.assert_close(
        fused(pixel_values.double()).logits, model(pixel_values.double()).logits, rtol=1e-10, atol=1e-10
    )


def test_a_hook_of_the_patch_projection_runs(make_fatr, pixel_values):
    model, calls = make_fatr(), []
    projection = model.vit.embeddings.patch_embeddings.projection
    plain = model(pixel_values).logits
    hook = projection.register_forward_hook(lambda module, inputs, output: calls.append(1) or output * 0)
    assert not torch.equal(model(pixel_values).logits, plain)
    assert calls == [1]
    hook.remove()
    assert_rounded_alike(model(pixel_values).logits, plain)


@pytest.mark.parametrize("change", ["pruned", "weight-norm", "spectral-norm", "parametrised"])
def test_a_patch_projection_with_a_computed_weight_trains(make_fatr, pixel_values, change):
    model = make_fatr()
    projection = model.vit.embeddings.patch_embeddings.projection
    CHANGES[change](projection)
    model.train()
    for _ in range(2):
        model(pixel_values, labels=torch.zeros(len(pixel_values), dtype=torch.int64)).loss.backward()
    gradients = [parameter.grad for name, parameter in projection.named_parameters() if "bias" not in name]
    assert all(gradient is not None and gradient.any() for gradient in gradients)


def test_a_pruned_patch_projection_computes_with_its_mask(make_fatr, pixel_values):
    model = make_fatr().double()
    projection = model.vit.embeddings.patch_embeddings.projection
    prune.l1_unstructured(projection, "weight", 0.5)
    expected = model(pixel_values.double()).logits
    prune.remove(projection, "weight")
    assert (projection.weight == 0).double().mean() == 0.5
    torch.testing.assert_close(model(pixel_values.double()).logits, expected, rtol=1e-10, atol=1e-10)


def test_quantised_weights_are_not_searched_for_infinite_values():
    quantised = nn.Parameter(Scaled(torch.ones(4, 4, dtype=torch.int8)), requires_grad=False)
    check_finite_weights("m", [("weight", quantised)])
    with pytest.raises(ValueError, match="holds values in weight that are not finite"):
        check_finite_weights("m", [("weight", nn.Parameter(torch.full((4,), torch.inf)))])
