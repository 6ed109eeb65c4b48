"""Models that are shared: by fused copies of them, and by threads."""

import copy
import pickle
import threading

import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf.modeling.fused_inference import shared_copy

SETTLE = 60
"""Seconds after which a thread that waits for another one gives up."""


@pytest.fixture
def model(make_fatr):
    """A classifier, and its parameters as they are."""
    return make_fatr()


def snapshot(model):
    return {name: (p.dtype, p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}


def assert_unchanged(model, before):
    for name, (dtype, requires_grad, value) in before.items():
        parameter = model.get_parameter(name)
        assert (parameter.dtype, parameter.requires_grad) == (dtype, requires_grad), name
        assert torch.equal(parameter, value), name


CHANGES = {
    "half": lambda copied: copied.half(),
    "bfloat16": lambda copied: copied.to(torch.bfloat16),
    "there-and-back": lambda copied: copied.to(torch.bfloat16).float(),
    "moved": lambda copied: copied.to("meta"),
    "frozen": lambda copied: copied.requires_grad_(False),
    "thawed": lambda copied: copied.requires_grad_(True),
    "configured": lambda copied: setattr(copied.config, "keep_ratio", 0.1),
    "train-mode": lambda copied: copied.train(),
    "replaced": lambda copied: setattr(copied.vit.layers[0].mlp, "fc1", torch.nn.Identity()),
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("make", [lambda model: model.fuse(), shared_copy], ids=["fused", "copy"])
def test_what_is_done_to_a_copy_leaves_the_model(model, pixel_values, make, change):
    before, expected, keep_ratio = snapshot(model), model(pixel_values).logits, model.config.keep_ratio
    CHANGES[change](make(model))
    assert_unchanged(model, before)
    assert_rounded_alike(model(pixel_values).logits, expected)
    assert (model.config.keep_ratio, model.training) == (keep_ratio, False)


def test_a_fused_copy_shares_memory_and_is_frozen(model):
    fused = model.fuse()
    memory = {parameter.data_ptr() for parameter in model.parameters()}
    shared = [name for name, parameter in fused.named_parameters() if parameter.data_ptr() in memory]
    assert "vit.layers.0.mlp.fc1.weight" in shared
    assert not any(parameter.requires_grad for parameter in fused.parameters())


@pytest.mark.parametrize("part", ["classifier", "vit.layernorm", "vit.layers.0.attention"], ids=str)
def test_a_fused_copy_is_not_trained(model, pixel_values, part):
    fused = model.fuse()
    fused.get_submodule(part).requires_grad_(True)
    with pytest.raises(ValueError, match=r"A fused model is for inference, and .* requires a gradient"):
        fused(pixel_values)
    with torch.no_grad():
        fused(pixel_values)


def test_weights_are_not_loaded_into_a_fused_copy(model, make_fatr):
    before, other = snapshot(model), make_fatr().state_dict()
    with pytest.raises(ValueError, match="load_state_dict: a fused model is fixed"):
        model.fuse().load_state_dict(other, strict=False)
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_duplicates_of_a_fused_copy_compute_the_same(model, pixel_values, duplicate):
    fused = model.fuse()
    assert_rounded_alike(duplicate(fused)(pixel_values).logits, fused(pixel_values).logits)


def test_the_number_format_comes_before_fusing(model, pixel_values):
    """What docs/troubleshooting.md asks for: the model is cast, then fused."""
    fused = model.to(torch.bfloat16).fuse()
    assert {parameter.dtype for parameter in fused.parameters()} == {torch.bfloat16}
    assert fused(pixel_values.bfloat16()).logits.dtype == torch.bfloat16


# Threads


def run_threads(*targets):
    errors = []

    def guarded(target):
        try:
            target()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@torch.no_grad()
def test_threads_switch_the_reduction_for_themselves_alone(model, pixel_values):
    reduced = model(pixel_values).logits
    with model.reduction(False):
        unreduced = model(pixel_values).logits
    assert not torch.equal(reduced, unreduced)
    inside, outside = threading.Barrier(2), threading.Barrier(2)
    answers = {}

    @torch.no_grad()
    def off():
        with model.reduction(False):
            inside.wait(SETTLE)  # the other thread answers while this one is in the block
            answers["off"] = model(pixel_values).logits
            outside.wait(SETTLE)
        answers["off, afterwards"] = model(pixel_values).logits

    @torch.no_grad()
    def on():
        inside.wait(SETTLE)
        answers["on"], answers["fused"] = model(pixel_values).logits, model.fuse().vit.reduction_enabled
        with model.reduction(True):
            answers["switched on"] = model(pixel_values).logits
        outside.wait(SETTLE)

    run_threads(off, on)
    assert torch.equal(answers["off"], unreduced)
    for name in ("on", "switched on", "off, afterwards"):
        assert torch.equal(answers[name], reduced), name
    assert answers["fused"]


@torch.no_grad()
def test_blocks_that_end_in_another_order_leave_the_model_as_it_was(model):
    """Two threads enter, and the first that entered leaves first."""
    entered, left = threading.Barrier(2), threading.Event()

    def first():
        with model.reduction(False):
            entered.wait(SETTLE)
        left.set()

    def second():
        with model.reduction(False):
            entered.wait(SETTLE)
            assert left.wait(SETTLE)
            assert not model.vit.reduction_enabled

    run_threads(first, second)
    assert model.vit.reduction_enabled


def fail_inside(model):
    with model.reduction(True):
        assert model.vit.reduction_enabled
        raise KeyError


def test_blocks_nest_and_end_on_errors(model):
    with model.reduction(False):
        with pytest.raises(KeyError):
            fail_inside(model)
        assert not model.vit.reduction_enabled
    assert model.vit.reduction_enabled


def test_a_switch_is_one_models(model, make_fatr):
    other = make_fatr()
    with model.reduction(False):
        assert other.vit.reduction_enabled
        assert not model.vit.reduction_enabled


@torch.no_grad()
def test_a_compiled_model_heeds_the_switch(model, pixel_values):
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    reduced = model(pixel_values).logits
    assert_rounded_alike(compiled(pixel_values).logits, reduced)
    with model.reduction(False):
        assert_rounded_alike(compiled(pixel_values).logits, model(pixel_values).logits)
    assert_rounded_alike(compiled(pixel_values).logits, reduced)


def test_a_copy_fused_without_the_reduction_stays_so_in_other_threads(model, pixel_values):
    with model.reduction(False), torch.no_grad():
        fused, expected = model.double().fuse(), model(pixel_values.double()).logits
    answers = []

    @torch.no_grad()
    def classify():
        answers.append(fused(pixel_values.double()).logits)

    run_threads(classify)
    torch.testing.assert_close(answers[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("value", ["off", 0, None], ids=repr)
def test_a_switch_is_true_or_false(model, value):
    with pytest.raises(ValueError, match=r"reduction\(.*\) must be given True or False"), model.reduction(value):
        pass
