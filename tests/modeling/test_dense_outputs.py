"""``dense_outputs``: tokens and hidden states of the full grid, whatever the layers reduced."""

import pytest
import torch
from family_cases import CLASSIFIERS, ENCODERS, OTHERS, built, fitting, images, inputs_of, samples, tower_of
from rounding import assert_rounded_alike
from transformers import ViTConfig, ViTModel

import fatr_hf
from fatr_hf.modeling.positions import add_positions, rotary_rows
from fatr_hf.modeling.token_reduction import token_sources

WINDOWS = {"reduction_layers": [1, 2], "keep_ratio": [0.6, 0.5], "dc_windows": [4, 2]}
SIMILAR = {"reduction_layers": [1, 2, 3], "keep_ratio": 0.7, "fold": "similar", "selection": "high_frequency_energy"}

folds = pytest.mark.parametrize("reduction", [WINDOWS, SIMILAR], ids=["windows", "similar"])
encoders = pytest.mark.parametrize("name", ENCODERS)


@torch.no_grad()
def dense_model(build, reduction):
    """A reduced model with dense outputs whose own parameters are not zero."""
    stock = built(build)
    model = fatr_hf.convert(stock, **fitting(stock, reduction), dense_outputs=True)
    generator = torch.Generator().manual_seed(2)
    for key, parameter in model.named_parameters():
        if "omega" in key or "dc_position" in key:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def restored(tokens, sources):
    """Of one image, for every patch the token that stands for it."""
    return torch.stack([tokens[source] for source in sources.tolist()])


def dense_states(model, pixel_values):
    """All hidden states of one image on the full grid, by the residual's definition, patch by patch."""
    hidden, layout, positions = model.start(pixel_values)
    prefix, states = layout.num_prefix, [hidden[0]]
    residual = torch.zeros_like(hidden[0, prefix:])
    for layer, step in zip(model.layers, model.config.plan(), strict=True):
        hidden, layout = add_positions(hidden, layout, positions, step.layer)
        rows = rotary_rows(layout, positions.rotary)
        hidden, _, evidence = layer.attention_block(hidden, layout, step, rows)
        if step.reduces:
            before, sources = hidden[0], token_sources(layout)[0]
            hidden, layout = layer.reduction(hidden, evidence, layout, step)
            means, added = hidden[0].clone(), layer.reduction.dc_position_embeddings
            if added is not None:
                means[-len(added) :] -= added
            residual = residual + restored(before, sources) - restored(means, token_sources(layout)[0])
        hidden = layer.mlp_block(hidden)
        patches = restored(hidden[0], token_sources(layout)[0]) + residual
        states.append(torch.cat([hidden[0, :prefix], patches]))
    return states


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "yolos"])  # whose tokens have another order
@folds
@torch.no_grad()
def test_states_are_the_tokens_and_what_patches_differ_by_from_them(name, reduction):
    model = dense_model(ENCODERS[name], reduction)
    pixel_values = samples(model, 2)
    found = model(pixel_values, output_hidden_states=True)
    for image, pixels in enumerate(pixel_values):
        expected = dense_states(model, pixels[None])
        assert_rounded_alike([state[image] for state in found.hidden_states], expected)
        assert_rounded_alike(found.last_hidden_state[image], model.normed(expected[-1]))


@encoders
@folds
@torch.no_grad()
def test_shapes_are_those_of_the_stock_model(name, reduction):
    stock = built(ENCODERS[name])
    asked = {**inputs_of(stock, 2), "output_hidden_states": True}
    expected, found = stock(**asked), dense_model(ENCODERS[name], reduction)(**asked)
    assert found.last_hidden_state.shape == expected.last_hidden_state.shape
    assert [each.shape for each in found.hidden_states] == [each.shape for each in expected.hidden_states]


@folds
@torch.no_grad()
def test_chosen_states_are_those_of_their_places(reduction):
    model, pixel_values = dense_model(ENCODERS["dinov2"], reduction), images(1)
    every = model(pixel_values, output_hidden_states=True).hidden_states
    for asked, places in ((2, [2]), (-1, [4]), ([0, -2], [0, 3])):
        found = model(pixel_values, output_hidden_states=asked).hidden_states
        assert len(found) == len(every)
        assert_rounded_alike([found[place] for place in places], [every[place] for place in places])
        assert all(found[place] is None for place in set(range(len(every))) - set(places))
    assert model(pixel_values).hidden_states is None


@encoders
@folds
@torch.no_grad()
def test_what_is_pooled_stays_as_it_is(name, reduction):
    model = dense_model(ENCODERS[name], reduction)
    pixel_values = samples(model, 2)
    dense = model(pixel_values).pooler_output
    model.config.dense_outputs = False
    expected = model(pixel_values).pooler_output
    assert (dense is None) == (expected is None)
    if dense is not None:
        assert_rounded_alike(dense, expected)


# Others norm every token before the mean: a norm of every dense patch is not the norm of the token they share.
@pytest.mark.parametrize("name", ["vit", "deit", "deit-teacher", "clip", "videomae", "vivit"])
@folds
@torch.no_grad()
def test_logits_stay_as_they_are_where_no_norm_comes_before_the_mean(name, reduction):
    model = dense_model(CLASSIFIERS[name], reduction)
    pixel_values = samples(model, 2)
    dense = model(pixel_values).logits
    model.config.dense_outputs = False
    assert_rounded_alike(dense, model(pixel_values).logits)


@folds
@torch.no_grad()
def test_a_fused_copy_gives_the_same(reduction):
    model, pixel_values = dense_model(ENCODERS["dinov3"], reduction), images(2)
    asked = {"output_hidden_states": True}
    assert_rounded_alike(model.fuse()(pixel_values, **asked).hidden_states, model(pixel_values, **asked).hidden_states)


@folds
def test_it_compiles_whole(reduction):
    model, pixel_values = dense_model(ENCODERS["dinov2"], reduction), images(2)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_rounded_alike(compiled(pixel_values).last_hidden_state, model(pixel_values).last_hidden_state)


@folds
def test_it_exports_with_a_free_batch(reduction):
    model = dense_model(ENCODERS["vit"], reduction)
    with torch.no_grad():
        shapes = {"pixel_values": {0: torch.export.Dim.DYNAMIC}}
        program = torch.export.export(model, (images(2),), dynamic_shapes=shapes)
        found, expected = program.module()(images(3)), model(images(3))
    assert_rounded_alike(found.last_hidden_state, expected.last_hidden_state)


@torch.no_grad()
def test_nothing_is_restored_where_nothing_was_reduced():
    model, pixel_values = dense_model(ENCODERS["vit"], WINDOWS), images(2)
    stock = built(ENCODERS["vit"])
    with model.reduction(False):
        found = model(pixel_values, output_hidden_states=True)
    assert_rounded_alike(found.hidden_states, stock(pixel_values, output_hidden_states=True).hidden_states)


@folds
@torch.no_grad()
def test_every_parameter_gets_a_gradient(reduction):
    model = dense_model(ENCODERS["siglip"], reduction).train()
    with torch.enable_grad():
        outputs = model(images(2))
        (outputs.last_hidden_state.square().sum() + outputs.pooler_output.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@torch.no_grad()
def test_it_is_saved_and_loaded(tmp_path):
    stock = built(ENCODERS["vit"])
    stock.save_pretrained(tmp_path / "stock")
    model = fatr_hf.FATRViTModel.from_pretrained(tmp_path / "stock", dense_outputs=True).double().eval()
    model.save_pretrained(tmp_path / "dense")
    again = fatr_hf.FATRViTModel.from_pretrained(tmp_path / "dense").double().eval()
    assert again.config.dense_outputs
    assert_rounded_alike(again(images(2)).last_hidden_state, model(images(2)).last_hidden_state)


@torch.no_grad()
def test_the_tower_of_a_whole_model_takes_it():
    stock = built(OTHERS["clip-whole"])
    model = fatr_hf.convert(stock, **SIMILAR, dense_outputs=True)
    shape = tower_of(model)(inputs_of(stock)["pixel_values"]).last_hidden_state.shape
    assert shape == stock.vision_model(inputs_of(stock)["pixel_values"]).last_hidden_state.shape


def test_a_misspelt_name_is_refused():
    with pytest.raises(ValueError, match="did you mean 'dense_outputs'"):
        fatr_hf.convert(ViTModel(ViTConfig(num_hidden_layers=2)), dense_output=True)
