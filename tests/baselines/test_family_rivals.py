"""Every rival on every family: what a method does to the tokens of a ViT it does to those of any model."""

import pytest
import torch
from baseline_reference import (
    fuse_by_criteria,
    merge,
    merge_redundant,
    prune_and_merge,
    prune_ranked,
    reference_states,
    reorganize,
    truncate,
)
from family_cases import (
    BACKBONES,
    CLASSIFIERS,
    DETECTORS,
    ENCODERS,
    OTHERS,
    built,
    images,
    inputs_of,
    samples,
    tensors_of,
)
from rounding import assert_rounded_alike

import fatr_hf
from fatr_hf.baselines import MCTF, EViT, PiToMe, Pooling, PruneMerge, Rival, ToMe, Truncation, ZeroTPrune
from fatr_hf.baselines.macs import count_macs
from fatr_hf.baselines.matched import matched_rivals, rival_names
from fatr_hf.baselines.rival import unreduced_copy
from fatr_hf.modeling.reduction_config import UNREDUCED
from fatr_hf.modeling.token_reduction import restore_tokens

encoders = pytest.mark.parametrize("name", ENCODERS)
WITHOUT_CLS = [
    name for name in ("ijepa", "siglip", "idefics3", "videomae", "videomae-normed", "vjepa2") if name in ENCODERS
]
MODELS = {
    **{f"encoder-{name}": build for name, build in ENCODERS.items()},
    **{f"classifier-{name}": build for name, build in CLASSIFIERS.items()},
    **{f"backbone-{name}": build for name, build in BACKBONES.items()},
    **{f"detector-{name}": build for name, build in DETECTORS.items()},
    "clip-projection": OTHERS["clip-projection"],
}
# Variants of a family's layers and of its feature maps differ in nothing that a method sees.
VARIANTS = ("-gated", "-unnormed", "-sequences", "-normed")
models = pytest.mark.parametrize("name", [name for name in MODELS if not name.endswith(VARIANTS)])


def converted(build, **fields):
    return fatr_hf.convert(built(build), **fields)


@encoders
@pytest.mark.parametrize("proportional", [True, False], ids=["proportional", "plain"])
@torch.no_grad()
def test_tome_is_the_references(name, proportional):
    model = converted(ENCODERS[name], **UNREDUCED)
    pixel_values = samples(model, 2)
    merges = [9, 0, 20, 5]
    rival = Rival.of(model, ToMe(merges, proportional_attention=proportional))
    states = rival(pixel_values, output_hidden_states=True).hidden_states
    reduce = merge(merges, prefix=model.config.num_prefix_tokens)
    assert_rounded_alike(states[-1], reference_states(model, pixel_values, reduce, sizes_count=proportional))


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in WITHOUT_CLS])
@pytest.mark.parametrize("fuse", [True, False], ids=["fuse", "drop"])
@torch.no_grad()
def test_evit_is_the_references(name, fuse):
    model = converted(ENCODERS[name], **UNREDUCED)
    pixel_values = samples(model, 2)
    rival = Rival.of(model, EViT([0, 2], [0.7, 0.5], fuse_inattentive=fuse))
    states = rival(pixel_values, output_hidden_states=True).hidden_states
    reduce = reorganize({0: (7, 10), 2: (1, 2)}, fuse, prefix=model.config.num_prefix_tokens)
    assert_rounded_alike(states[-1], reference_states(model, pixel_values, reduce))


@encoders
@pytest.mark.parametrize("proportional", [True, False], ids=["proportional", "plain"])
@torch.no_grad()
def test_pitome_is_the_references(name, proportional):
    model = converted(ENCODERS[name], **UNREDUCED)
    pixel_values = samples(model, 2)
    method = PiToMe(0.8, proportional_attention=proportional)
    states = Rival.of(model, method)(pixel_values, output_hidden_states=True).hidden_states
    counts = [step.patches_out for step in method.plan(model.config)]
    reduce = merge_redundant(counts, model.config.num_hidden_layers, prefix=model.config.num_prefix_tokens)
    assert_rounded_alike(states[-1], reference_states(model, pixel_values, reduce, sizes_count=proportional))


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in WITHOUT_CLS])
@pytest.mark.parametrize("pruned", [0.0, 0.5, 1.0], ids="pruned{}".format)
@torch.no_grad()
def test_pruning_then_merging_is_the_references(name, pruned):
    model = converted(ENCODERS[name], **UNREDUCED)
    pixel_values = samples(model, 2)
    method = PruneMerge(0.6, pruned_share=pruned)
    states = Rival.of(model, method)(pixel_values, output_hidden_states=True).hidden_states
    steps = [
        (step.patches_out, int((step.patches_in - step.patches_out) * pruned)) for step in method.plan(model.config)
    ]
    reduce = prune_and_merge(steps, states[-1].shape[2], prefix=model.config.num_prefix_tokens)
    assert_rounded_alike(states[-1], reference_states(model, pixel_values, reduce, sizes_count=True))


@encoders
@pytest.mark.parametrize("proportional", [True, False], ids=["proportional", "plain"])
@torch.no_grad()
def test_mctf_is_the_references(name, proportional):
    model = converted(ENCODERS[name], **UNREDUCED)
    pixel_values = samples(model, 2)
    merges = [9, 0, 20, 1]
    # Attention and size count for more than by default, so that they decide who merges.
    method = MCTF(merges, temperatures=(1, 3, 5), proportional_attention=proportional)
    states = Rival.of(model, method)(pixel_values, output_hidden_states=True).hidden_states
    reduce = fuse_by_criteria(
        merges, states[-1].shape[2], temperatures=(1, 3, 5), prefix=model.config.num_prefix_tokens
    )
    assert_rounded_alike(states[-1], reference_states(model, pixel_values, reduce, sizes_count=proportional))


@encoders
@torch.no_grad()
def test_zero_tprune_is_the_references(name):
    model = converted(ENCODERS[name], **UNREDUCED)
    pixel_values = samples(model, 2)
    method = ZeroTPrune([0, 1, 3], [0.7, 0.8, 0.5], steps=(7, 3, 1))
    states = Rival.of(model, method)(pixel_values, output_hidden_states=True).hidden_states
    # Of 64 patches 44, 35 and 17 are kept.
    reduce = prune_ranked({0: (44, 10, 7), 1: (35, 4, 3), 3: (17, 9, 1)}, prefix=model.config.num_prefix_tokens)
    assert_rounded_alike(states[-1], reference_states(model, pixel_values, reduce))


@encoders
@torch.no_grad()
def test_truncation_is_the_references(name):
    model = converted(ENCODERS[name], **UNREDUCED)
    pixel_values = samples(model, 2)
    tokens_out = [50, 50, 30, 8]
    states = Rival.of(model, Truncation(tokens_out))(pixel_values, output_hidden_states=True).hidden_states
    assert_rounded_alike(states[-1], reference_states(model, pixel_values, truncate(tokens_out)))


@pytest.mark.parametrize("name", WITHOUT_CLS)
def test_evit_needs_cls(name):
    model = converted(ENCODERS[name])
    assert rival_names(model.config) == ("unreduced", "random", "tome", "pitome", "pooling")
    with pytest.raises(ValueError, match=r"EViT ranks tokens by the attention of CLS, which 'fatr_.*' does not have"):
        matched_rivals(model, ["evit"])


@models
@torch.no_grad()
def test_rivals_run_fuse_save_and_cost_about_the_same(name, tmp_path):
    stock = built(MODELS[name])
    model = fatr_hf.convert(stock, keep_ratio=0.6)
    for parameter_name, parameter in model.named_parameters():
        if "omega" in parameter_name or "dc_position" in parameter_name:
            parameter.add_(0.3)
    given = inputs_of(stock, 2)
    before = tensors_of(model(**given))
    rivals = matched_rivals(model)
    assert_rounded_alike(tensors_of(rivals["unreduced"](**given)), tensors_of(stock(**given)))
    for rival_name, rival in rivals.items():
        outputs = tensors_of(rival(**given))
        read = {key: value for key, value in outputs.items() if "logits" not in outputs or key != "last_hidden_state"}
        found = tensors_of(rival.fuse()(**given))  # of a detector's sequence it computes what is read
        assert_rounded_alike({key: found[key] for key in read}, read)
        if isinstance(rival, Rival):
            rival.save_pretrained(tmp_path / rival_name)
            # Rotary frequencies are computed anew, in float32.
            tolerance = torch.float32 if "dinov3" in name else torch.float64
            assert_rounded_alike(tensors_of(Rival.from_pretrained(tmp_path / rival_name)(**given)), outputs, tolerance)
        if rival_name != "unreduced":
            # In a model this small the means of V-JEPA 2's rotary positions, which are counted too, weigh much.
            assert count_macs(rival) == pytest.approx(count_macs(model), rel=0.2 if "vjepa2" in name else 0.08)
    assert_rounded_alike(tensors_of(model(**given)), before)


@pytest.mark.parametrize("name", ["encoder-ijepa", "encoder-dinov3", "clip-projection"])
@torch.no_grad()
def test_rivals_that_are_not_the_usual_fuse_and_cost_about_the_same(name):
    stock = built(MODELS[name])
    model, given = fatr_hf.convert(stock, keep_ratio=0.7), inputs_of(stock, 2)
    for rival in matched_rivals(model, ["mctf", "zero_tprune"]).values():
        assert_rounded_alike(tensors_of(rival.fuse()(**given)), tensors_of(rival(**given)))
        assert count_macs(rival) == pytest.approx(count_macs(model), rel=0.08)


@pytest.mark.parametrize(
    "method",
    [ToMe(9), EViT(), Pooling(grids=[4, 4, 2]), MCTF(9)],
    ids=["tome", "evit", "pooling", "mctf"],
)
@torch.no_grad()
def test_every_patch_is_in_the_token_that_stands_for_it(method):
    """Sizes count the patches, and a patch that is a token of its own comes back as it is."""
    model = converted(ENCODERS["dinov2-registers"], **UNREDUCED)
    outputs = Rival.of(model, method)(images(2), output_token_sources=True, output_token_sizes=True)
    for source, sizes in zip(outputs.token_sources[-1], outputs.token_sizes, strict=True):
        assert torch.bincount(source, minlength=len(sizes)).tolist() == sizes.tolist()
        assert not sizes[: model.config.num_prefix_tokens].any()
    dense = restore_tokens(outputs.last_hidden_state, outputs.token_sources[-1])
    assert dense.shape[1] == 64


@torch.no_grad()
def test_means_of_merged_tokens_are_those_of_the_restored_grid():
    model = converted(CLASSIFIERS["ijepa"], **UNREDUCED)
    rival = Rival.of(model, ToMe(12))
    outputs = rival.model.base_model(images(2), plan=rival.config.plan(), output_token_sources=True)
    outputs.last_hidden_state = restore_tokens(outputs.last_hidden_state, outputs.token_sources[-1])
    assert_rounded_alike(rival(images(2)).logits, model.classify(outputs))


@torch.no_grad()
def test_feature_maps_keep_what_merging_takes_away():
    """Merged in the last layer, stages before the MLP's change differ from stock's by rounding alone."""
    stock = built(BACKBONES["dinov2-unnormed"])
    model = unreduced_copy(fatr_hf.convert(stock, keep_ratio=1.0))
    rival = Rival.of(model, ToMe([0, 0, 0, 20]))
    found, expected = rival(images(2)).feature_maps, stock(images(2)).feature_maps
    assert_rounded_alike(found[0], expected[0])
    assert found[1].shape == expected[1].shape
    truncated = Rival.of(model, Truncation([65, 65, 65, 45]))(images(2)).feature_maps
    assert (found[1] - expected[1]).norm() < (truncated[1] - expected[1]).norm()
