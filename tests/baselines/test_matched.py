"""Rivals made of a FATR model: its weights, its cost, another reduction."""

import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf import FATRViTConfig, FATRViTForImageClassification, FATRViTModel
from fatr_hf.baselines import MCTF, METHODS, Rival, ToMe, matched
from fatr_hf.baselines.macs import count_macs, plan_macs
from fatr_hf.baselines.matched import RIVALS, USUAL, matched_merges, matched_plan, matched_rivals
from fatr_hf.baselines.rival import unreduced_copy
from fatr_hf.modeling.budget import schedule_macs

# Enough tokens that a single one more or less is a small part of the cost.
FIELDS = {"image_size": 56, "patch_size": 4}
SCHEDULES = {
    "default": {},
    "half": {"keep_ratio": 0.5},
    "one-layer": {"reduction_layers": [1], "keep_ratio": 0.3, "dc_windows": 2},
    "ratio-one-between": {"keep_ratio": [0.8, 1.0, 0.5]},
    "token-multiple": {"token_multiple": 8},
    "without-dc-tokens": {"dc_windows": 0},
}
schedules = pytest.mark.parametrize("fields", SCHEDULES.values(), ids=SCHEDULES)
REDUCING = [name for name in RIVALS if name != "unreduced"]
WITHOUT_TOME = [name for name in RIVALS if name != "tome"]
"""Rivals that need no search for their number of tokens."""


def inner(rival):
    """The FATR model that a rival runs."""
    return rival.model if isinstance(rival, Rival) else rival


def tome_macs(model, merges):
    return plan_macs(unreduced_copy(model), ToMe(merges_per_layer=merges).plan(model.config))


@pytest.fixture
def fatr(make_fatr):
    return make_fatr().double()


def test_every_rival_has_the_models_weights(fatr):
    fatr.train()
    weights = fatr.state_dict()
    assert list(matched_rivals(fatr)) == list(USUAL)
    rivals = matched_rivals(fatr, RIVALS)
    assert list(rivals) == list(RIVALS)
    for name, rival in rivals.items():
        assert type(rival) is (Rival if name in METHODS else type(fatr))
        assert not rival.training
        state = inner(rival).state_dict()
        assert state.keys() == {
            key for key in weights if not key.endswith(("omega1", "omega2", "dc_position_embeddings"))
        }
        for key, weight in state.items():
            assert torch.equal(weight, weights[key])
            assert weight.data_ptr() != weights[key].data_ptr()
    assert fatr.training


def test_unreduced_is_what_fatr_is_without_its_reduction(fatr, pixel_values):
    unreduced = matched_rivals(fatr, ["unreduced"])["unreduced"]
    with fatr.reduction(False):
        expected = fatr(pixel_values).logits
    assert_rounded_alike(unreduced(pixel_values).logits, expected)
    assert not torch.allclose(unreduced(pixel_values).logits, fatr(pixel_values).logits, atol=1e-4)


@pytest.mark.parametrize("name", REDUCING)
def test_rivals_answer_otherwise(make_fatr, pixel_values, name):
    fatr = make_fatr(initializer_range=0.3, reweight_attention=False, dc_position_embeddings=False)
    logits = matched_rivals(fatr, [name])[name](pixel_values).logits
    assert not torch.allclose(logits, fatr(pixel_values).logits, atol=1e-3)


@schedules
def test_costs_are_within_a_few_percent(make_fatr, fields):
    fatr = make_fatr(**FIELDS, **fields)
    costs = {name: count_macs(rival) for name, rival in matched_rivals(fatr, WITHOUT_TOME).items()}
    own = count_macs(fatr)
    assert own < 0.9 * costs["unreduced"]
    assert costs["random"] == own
    assert costs["evit"] == pytest.approx(own, rel=0.04)
    assert costs["truncation"] == pytest.approx(own, rel=0.01)
    assert costs["zero_tprune"] == pytest.approx(own, rel=0.01)
    # Three of four layers merge half of the tokens at most, which is not always as cheap.
    least = plan_macs(unreduced_copy(fatr), MCTF(98).plan(fatr.config))
    assert costs["mctf"] == pytest.approx(max(own, least), rel=0.01)
    # Not every number of tokens is a grid's.
    assert costs["pooling"] == pytest.approx(own, rel=0.08)


def test_tomes_merges_are_the_closest(make_fatr):
    model = make_fatr(num_hidden_layers=2, reduction_layers=[0], dc_windows=1, keep_ratio=0.6)
    target = schedule_macs(model.config)
    merges = matched_merges(model, target)
    # The channels that carry the size of tokens are how it is computed here, and left out.
    distances = {each: abs(tome_macs(model, each) - target) for each in range(merges - 2, merges + 3)}
    assert min(distances, key=distances.get) == merges
    assert distances[merges] < 0.03 * target


@pytest.mark.parametrize(("macs", "merges"), [(0, 8), (10**15, 0)], ids=["nothing", "everything"])
def test_tome_merges_at_most_half(make_fatr, macs, merges):
    model = make_fatr(num_hidden_layers=1, patch_size=8, reduction_layers=[], dc_windows=[])
    assert matched_merges(model, macs) == merges


@pytest.mark.parametrize("name", RIVALS)
def test_a_plan_makes_the_unreduced_copy_a_rival(make_fatr, pixel_values, name):
    fatr = make_fatr().double()
    plan = matched_plan(fatr, name, fatr.config)
    expected = matched_rivals(fatr, [name])[name](pixel_values).logits
    assert_rounded_alike(unreduced_copy(fatr)(pixel_values, plan=plan).logits, expected)


@pytest.mark.parametrize("pooler", [True, False], ids=["pooler", "no-pooler"])
def test_encoders(fatr, pixel_values, tmp_path, pooler):
    encoder = FATRViTModel(fatr.config, add_pooling_layer=pooler).double().eval()
    rivals = matched_rivals(encoder)
    for name, rival in rivals.items():
        assert type(inner(rival)) is FATRViTModel
        assert (inner(rival).pooler is not None) == pooler
        assert torch.equal(inner(rival).layers[2].mlp.fc1.weight, encoder.layers[2].mlp.fc1.weight)
        rival.save_pretrained(tmp_path / name)
        again = type(rival).from_pretrained(tmp_path / name)
        assert (inner(again).pooler is not None) == pooler
    with encoder.reduction(False):
        expected = encoder(pixel_values).last_hidden_state
    assert_rounded_alike(rivals["unreduced"](pixel_values).last_hidden_state, expected)


def test_reduction_is_the_models(make_fatr):
    fatr = make_fatr(reduction_layers=[0, 2], keep_ratio=[0.8, 0.5], dc_windows=[2, 2], token_multiple=4)
    rivals = matched_rivals(fatr, WITHOUT_TOME)
    for name in ("evit", "pooling"):
        assert rivals[name].method.reduction_layers == (0, 2)
        assert rivals[name].method.keep_ratio == (0.8, 0.5)
    tokens = [step.tokens_out for step in fatr.config.plan()]
    assert [step.tokens_out for step in rivals["truncation"].config.plan()] == tokens
    random = rivals["random"].config
    assert random.selection == "random"
    assert [step._replace(selection="high_frequency") for step in random.plan()] == fatr.config.plan()
    fatr.set_reduction(keep_ratio=0.25)
    assert matched_rivals(fatr, ["evit"])["evit"].method.keep_ratio == 0.25


@pytest.mark.parametrize("fields", [{"keep_ratio": 1.0}, {"reduction_layers": [], "dc_windows": []}], ids=str)
def test_a_model_that_reduces_nothing_has_no_rivals_but_the_unreduced_model(make_fatr, fields):
    fatr = make_fatr(**fields)
    assert list(matched_rivals(fatr, ["unreduced"])) == ["unreduced"]
    for name in REDUCING:
        with pytest.raises(ValueError, match=f"reduces nothing, so the rival '{name}' would reduce nothing either"):
            matched_rivals(fatr, [name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dtype_attention_and_classes_are_the_models(make_fatr, dtype, attention):
    labels = {0: "cat", 1: "dog"}
    fatr = make_fatr(id2label=labels, num_labels=2, image_size=(24, 40), num_channels=1).to(dtype)
    with torch.no_grad():
        # Float64 that float32 cannot hold.
        fatr.classifier.weight.add_(torch.rand(2, 32, dtype=torch.float64).to(dtype))
    fatr.set_attn_implementation(attention)
    for rival in matched_rivals(fatr, WITHOUT_TOME).values():
        assert rival.dtype == dtype
        assert rival.config._attn_implementation == attention
        assert rival.config.id2label == labels
        assert torch.equal(inner(rival).classifier.weight, fatr.classifier.weight)
        assert rival(torch.randn(1, 1, 24, 40, dtype=dtype)).logits.shape == (1, 2)


def test_rivals_save_and_load(fatr, pixel_values, tmp_path):
    for name, rival in matched_rivals(fatr).items():
        rival.save_pretrained(tmp_path / name)
        again = type(rival).from_pretrained(tmp_path / name)
        assert_rounded_alike(again(pixel_values).logits, rival(pixel_values).logits)


def test_unknown_names_are_refused(fatr):
    with pytest.raises(
        ValueError, match="Unknown rival 'avit': choose from unreduced, random, evit, tome, pitome, prune"
    ):
        matched_rivals(fatr, ["evit", "avit"])


def test_only_what_is_named_is_built(fatr, monkeypatch):
    monkeypatch.setattr(matched, "matched_merges", None)
    assert list(matched_rivals(fatr, ["pooling", "unreduced"])) == ["pooling", "unreduced"]
    assert isinstance(matched_rivals(fatr, ["random"])["random"], FATRViTForImageClassification)


def changed(model, state, fields):
    """What of a model is no more as it was."""
    now = model.state_dict()
    names = [
        name for name, value in state.items() if value.dtype != now[name].dtype or not torch.equal(value, now[name])
    ]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    return names + frozen + [name for name, value in fields.items() if model.config.to_dict()[name] != value]


@pytest.mark.parametrize("name", RIVALS)
def test_whatever_becomes_of_a_rival_the_model_stays_as_it_is(make_fatr, pixel_values, name):
    fatr = make_fatr(reduction_layers=[0, 2], keep_ratio=[0.7, 0.5], dc_windows=[2, 1])
    state, fields = {key: value.clone() for key, value in fatr.state_dict().items()}, fatr.config.to_dict()
    rival = matched_rivals(fatr, [name])[name]
    assert all(parameter.requires_grad for parameter in rival.parameters())
    rival(pixel_values).logits.sum().backward()
    torch.optim.SGD(rival.parameters(), lr=1.0).step()
    rival.requires_grad_(False)
    for field in ("reduction_layers", "keep_ratio", "dc_windows"):
        if isinstance(getattr(rival.config, field, None), list):
            getattr(rival.config, field).append(9)
    rival.config.id2label[0] = "another"
    rival.half()
    assert changed(fatr, state, fields) == []
    assert all(parameter.grad is None for parameter in fatr.parameters())


def test_the_callers_random_numbers_stay_as_they_are(fatr):
    before = torch.get_rng_state()
    matched_rivals(fatr)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_encoder_keeps_its_mask_token(tiny):
    fatr = FATRViTModel(FATRViTConfig(**tiny), use_mask_token=True).eval()
    for rival in matched_rivals(fatr).values():
        assert torch.equal(inner(rival).embeddings.mask_token, fatr.embeddings.mask_token)


@pytest.mark.parametrize("names", ["tome", ["tome", "tome"], 3], ids=str)
def test_names_are_a_list_without_doubles(fatr, names):
    with pytest.raises(ValueError, match=r"names must be a list|'tome' is there twice"):
        matched_rivals(fatr, names)


def test_other_models_have_no_rivals(stock, fatr):
    with pytest.raises(ValueError, match=r"Only a FATR model can be given rivals, not .*ViTForImageClassification"):
        matched_rivals(stock)
    with pytest.raises(ValueError, match="A fused model cannot be given rivals"):
        matched_rivals(fatr.fuse())
