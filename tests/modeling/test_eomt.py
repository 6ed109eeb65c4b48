"""EoMT: queries join in front of the sequence on its way, and masks are read off the full grid."""

import pytest
import torch
from family_cases import SMALL, built, images
from family_reference import reference_encode
from rounding import assert_rounded_alike
from transformers import EomtConfig, EomtForUniversalSegmentation
from transformers.utils import is_scipy_available
from without_package import outputs_without_package

import fatr_hf
from fatr_hf.analysis.trace import trace
from fatr_hf.baselines.macs import count_macs
from fatr_hf.baselines.matched import matched_rivals
from fatr_hf.modeling import schedule_macs

pytestmark = pytest.mark.skipif(not is_scipy_available(), reason="stock's EoMT is not built without scipy")

# Before and behind the place where the queries join, which is layer 2.
REDUCTION = {"reduction_layers": [1, 2], "keep_ratio": [0.6, 0.5], "dc_windows": [4, 2]}
SIMILAR = {"reduction_layers": [1, 2], "keep_ratio": 0.7, "fold": "similar"}
folds = pytest.mark.parametrize("reduction", [REDUCTION, SIMILAR], ids=["windows", "similar"])
kinds = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])


def config(**fields):
    own = {"num_queries": 6, "num_blocks": 2, "num_register_tokens": 2, "num_upscale_blocks": 1, "mlp_ratio": 2}
    return EomtConfig(**SMALL, **own, num_labels=3, train_num_points=16, layerscale_value=0.5, **fields)


def stock_model(**fields):
    """As in checkpoints, whose masked attention was faded out."""
    stock = built(lambda: EomtForUniversalSegmentation(config(**fields)))
    stock.attn_mask_probs.zero_()
    return stock


def read(outputs):
    return outputs.class_queries_logits, outputs.masks_queries_logits, outputs.last_hidden_state


@kinds
@torch.no_grad()
def test_unreduced_it_is_stock_from_memory_and_files(gated, tmp_path):
    stock = stock_model(use_swiglu_ffn=gated)
    expected = stock(images(2), output_hidden_states=True)
    found = [fatr_hf.convert(stock, **REDUCTION)]
    for names in ("old", "new"):
        stock.save_pretrained(tmp_path / names, save_original_format=names == "old")
        found.append(fatr_hf.convert(tmp_path / names, **REDUCTION).double())
    for model in found:
        assert type(model) is fatr_hf.FATREomtForUniversalSegmentation
        with model.reduction(False):
            outputs = model(images(2), output_hidden_states=True)
        assert_rounded_alike(read(outputs), read(expected))
        assert_rounded_alike(outputs.hidden_states, expected.hidden_states)
        reduced = model(images(2))
        assert [each.shape for each in read(reduced)] == [each.shape for each in read(expected)]
        assert not torch.allclose(reduced.class_queries_logits, expected.class_queries_logits, atol=1e-6)
        assert not torch.allclose(reduced.masks_queries_logits, expected.masks_queries_logits, atol=1e-6)


@folds
@torch.no_grad()
def test_reduced_it_is_the_slow_reference(reduction):
    model, states = fatr_hf.convert(stock_model(), **reduction), []
    model.layers[-1].register_forward_hook(lambda module, given, output: states.append(output[0]))
    outputs = model(images(2), output_token_sources=True)
    expected, members = reference_encode(model, images(2))
    assert_rounded_alike(states[0], expected)
    assert_rounded_alike(outputs.class_queries_logits, model.class_predictor(model.layernorm(expected[:, :6])))
    # Behind the last layer every token's patches are it, on average; before the norm, which masks are read behind.
    dense = model(images(2), output_hidden_states=True).hidden_states
    assert [each.shape[1] for each in dense] == [67, 67, 67, 73, 73]
    for image, sources in enumerate(outputs.token_sources[-1]):
        for place in sources.unique().tolist():
            assert torch.equal(members[image, place] > 0, sources == place)
    assert_rounded_alike(outputs.last_hidden_state[:, :9], model.layernorm(expected[:, :9]))
    assert_rounded_alike(model.predict(outputs.last_hidden_state)[0], outputs.masks_queries_logits)


@folds
@torch.no_grad()
def test_patches_keep_their_detail_where_queries_join(reduction):
    """Of states on the grid the mean over a token's patches is that token, before and behind the joining."""
    model, states = fatr_hf.convert(stock_model(), **reduction), []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, given, output: states.append(output[0]))
    outputs = model(images(2), output_hidden_states=True, output_token_sources=True)
    for place, sources, prefix in ((1, outputs.token_sources[0], 3), (2, outputs.token_sources[1], 9)):
        dense = outputs.hidden_states[place + 1]
        assert_rounded_alike(dense[:, :prefix], states[place][:, :prefix])
        for image in range(2):
            for token in sources[image].unique().tolist():
                patches = dense[image, prefix:][sources[image] == token]
                assert_rounded_alike(patches.mean(dim=0), states[place][image, token])


@folds
@torch.no_grad()
def test_fused_traced_and_saved_it_computes_the_same(reduction, tmp_path):
    model = fatr_hf.convert(stock_model(), **reduction)
    expected = model(images(2))
    assert_rounded_alike(read(model.fuse()(images(2))), read(expected))
    *_, last = trace(model, images(2))
    assert last.leaving.tokens.shape[1] == model.config.plan()[-1].tokens_out
    assert_rounded_alike(model.layernorm(last.leaving.tokens[:, :9]), expected.last_hidden_state[:, :9])
    model.save_pretrained(tmp_path)
    again = fatr_hf.FATREomtForUniversalSegmentation.from_pretrained(tmp_path).double().eval()
    assert_rounded_alike(read(again(images(2))), read(expected))


@torch.no_grad()
def test_a_renamed_weight_is_refused(tmp_path):
    model = fatr_hf.convert(stock_model(), **REDUCTION)
    for key in ("layers.3.mlp.fc1.weight", "query.weight", "class_predictor.weight"):
        weights = model.state_dict()
        weights[key.replace("weight", "wait")] = weights.pop(key)
        model.save_pretrained(tmp_path, state_dict=weights)
        with pytest.raises(ValueError, match=f"lacks 1 of the model's weights \\({key}"):
            type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_loss_is_stocks(training):
    stock = stock_model().float().train(training)
    model = fatr_hf.convert(stock, **REDUCTION)
    generator = torch.Generator().manual_seed(0)
    labels = {
        "mask_labels": [(torch.rand(count, 32, 32, generator=generator) > 0.5).float() for count in (2, 1)],
        "class_labels": [torch.tensor([0, 2]), torch.tensor([1])],
    }
    torch.manual_seed(0)
    expected = stock(images(2).float(), **labels).loss
    torch.manual_seed(0)
    for _ in range(2 if training else 0):
        torch.rand(2, 6)  # what stock draws, before each of the last blocks, to leave out masks that are off
    with model.reduction(False):
        found = model(images(2).float(), **labels).loss
    assert_rounded_alike(found, expected)
    model(images(2).float(), **labels).loss.backward()
    assert [key for key, each in model.named_parameters() if each.grad is None] == []


def test_what_it_cannot_do_is_refused_in_words():
    stock = built(lambda: EomtForUniversalSegmentation(config()))
    with pytest.raises(ValueError, match=r"attn_mask_probs=\[1.0, 1.0\] must be 0"):
        fatr_hf.convert(stock, **REDUCTION)(images(2))
    with pytest.raises(ValueError, match=r"Images of \(48, 48\) pixels cannot be taken: image_size=32"):
        fatr_hf.convert(stock_model(), **REDUCTION)(images(2, 48, 48))
    with pytest.raises(ValueError, match="attention_mask is not supported"):
        fatr_hf.convert(stock_model(), **REDUCTION)(images(2), attention_mask=torch.ones(2, 67))
    for fields, words in (
        ({"dense_outputs": False}, "dense_outputs=False must be True"),
        ({"num_blocks": 24}, "num_blocks=24 must be from 1 to 23"),
        ({"num_queries": 0}, "num_queries=0 must be at least 1"),
        ({"token_multiple": 16}, "token_multiple=16 must divide num_queries=200"),
        ({"selection": "cls_attention", "reduction_layers": [6, 21]}, r"in layers \[21\] a query is the first token"),
    ):
        with pytest.raises(Exception, match=words):
            fatr_hf.FATREomtConfig(**fields)


@torch.no_grad()
def test_positions_stretch_while_loading(tmp_path):
    stock_model().save_pretrained(tmp_path)
    model = fatr_hf.convert(tmp_path, image_size=48, **REDUCTION).double()
    assert model(images(2, 48, 48)).masks_queries_logits.shape == (2, 6, 24, 24)


@torch.no_grad()
def test_its_cost_is_counted_and_rivals_run_on_it():
    model = fatr_hf.convert(stock_model(), **REDUCTION)
    assert [step.prefix for step in model.config.plan()] == [3, 3, 9, 9]
    sums = 4 * sum(step.tokens_in * 32 for step in model.config.plan() if step.follows_reduction)
    assert schedule_macs(model.config) == pytest.approx(count_macs(model), abs=sums)
    for rival in matched_rivals(model).values():
        assert rival(images(2)).masks_queries_logits.shape == (2, 6, 16, 16)


@torch.no_grad()
def test_a_folder_works_without_the_package(tmp_path):
    model = fatr_hf.convert(stock_model(), **REDUCTION)
    given = {"pixel_values": images(2)}
    found = outputs_without_package(model, "AutoModelForUniversalSegmentation", given, tmp_path)
    assert_rounded_alike(found["masks_queries_logits"], model(**given).masks_queries_logits)


def test_new_classes_renew_the_layer_that_predicts_them_alone(tmp_path):
    stock = stock_model()
    stock.save_pretrained(tmp_path)
    fresh = {"num_labels": 7, "ignore_mismatched_sizes": True}
    model = fatr_hf.FATREomtForUniversalSegmentation.from_pretrained(tmp_path, **fresh)
    assert model.class_predictor.out_features == 8
    assert model.criterion.empty_weight.shape == (8,)
    assert (model.criterion.empty_weight[:-1] == 1).all()
    assert_rounded_alike(model.query.weight, stock.query.weight.to(model.dtype))
    with pytest.raises(ValueError, match=r"class_predictor.weight is \(4, 32\) and must be \(8, 32\)"):
        fatr_hf.FATREomtForUniversalSegmentation.from_pretrained(tmp_path, num_labels=7)
