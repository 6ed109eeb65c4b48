"""Token counts of every layer, against hand calculations and a calculation in fractions."""

import math

import pytest
from huggingface_hub.errors import StrictDataclassError
from reference import number, plan

from fatr_hf import FATRViTConfig
from fatr_hf.modeling import schedule_macs
from fatr_hf.modeling.token_plan import kept_patches, per_layer, plan_layers

GRIDS = {"14x14": (14, 14), "24x24": (24, 24), "3x5": (3, 5), "7x4": (7, 4), "10x10": (10, 10), "4x6x7": (4, 6, 7)}


def tiny_config(**changes):
    """4 layers over 4 x 6 patches."""
    fields = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 32}
    return FATRViTConfig(**(fields | {"image_size": (16, 24), "patch_size": 4} | changes))


def lengths(schedule):
    return [(tokens.tokens_in, tokens.tokens_out) for tokens in schedule]


def test_vit_224_16_by_hand():
    schedule = FATRViTConfig().plan()
    reductions = {3: (197, 142), 6: (142, 97), 9: (97, 68)}
    expected, length = [], 197
    for layer in range(12):
        expected.append(reductions.get(layer, (length, length)))
        length = expected[-1][1]
    assert lengths(schedule) == expected
    assert [tokens.layer for tokens in schedule if tokens.reduces] == [3, 6, 9]
    assert [(tokens.prefix, tokens.patches_in, tokens.dc_in) for tokens in schedule[3::3]] == [
        (1, 196, 0),
        (1, 137, 4),
        (1, 95, 1),
    ]
    assert [(tokens.patches_out, tokens.dc_out) for tokens in schedule[3::3]] == [(137, 4), (95, 1), (66, 1)]


@pytest.mark.parametrize(
    ("depth", "layers"), [(12, [3, 6, 9]), (24, [6, 12, 18]), (4, [1, 2, 3]), (6, [1, 3, 4])], ids=str
)
def test_default_layers_and_windows(depth, layers):
    config = FATRViTConfig(num_hidden_layers=depth)
    assert config.reduction_layers == layers
    assert config.dc_windows == [2, 1, 1]
    assert config.keep_ratio == 0.7


def test_default_windows_are_as_many_as_layers():
    assert FATRViTConfig(reduction_layers=[1]).dc_windows == [2]
    assert FATRViTConfig(reduction_layers=[1, 2, 5, 7]).dc_windows == [2, 1, 1, 1]
    assert FATRViTConfig(reduction_layers=[]).dc_windows == []


def test_other_defaults_change_nothing():
    config = FATRViTConfig()
    assert (config.token_multiple, config.size_exponent, config.selection) == (1, 0.0, "high_frequency")
    assert config.reweight_attention is True
    assert config.dc_position_embeddings is True


def test_kept_patches_are_the_exact_floor():
    assert kept_patches(100, 0.29, 2, 1) == 29  # 100 * 0.29 is 28.999999999999996
    for percent in range(1, 101):
        for patches in range(1, 300):
            assert kept_patches(patches, percent / 100, 2, 1) == max(1, patches * percent // 100), (patches, percent)


def test_kept_patches_are_the_exact_floor_of_fine_ratios():
    for thousandth in range(1, 1001):
        for patches in (7, 196, 576, 784):
            expected = max(1, patches * thousandth // 1000)
            assert kept_patches(patches, thousandth / 1000, 2, 1) == expected, (patches, thousandth)


@pytest.mark.parametrize("multiple", [2, 3, 8, 16])
def test_token_multiple_keeps_the_largest_count_that_fits(multiple):
    for patches in range(30, 200):
        kept = kept_patches(patches, 0.7, 5, multiple)
        floor = patches * 7 // 10
        assert kept == max(count for count in range(floor + 1) if (count + 5) % multiple == 0)


def test_token_multiple_holds_at_every_reduction():
    assert lengths(FATRViTConfig(token_multiple=8).plan())[3::3] == [(197, 136), (136, 88), (88, 56)]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("prefix", [1, 5], ids="prefix{}".format)
@pytest.mark.parametrize("multiple", [1, 2, 4], ids="multiple{}".format)
@pytest.mark.parametrize("dc_windows", [[1, 1, 1], [2, 1, 1], [2, 2, 2], [3, 3, 1]], ids=str)
def test_counts_follow_the_fractions(grid, prefix, multiple, dc_windows):
    checked = 0
    for ratio in (0.1, 0.29, 0.35, 0.5, 0.58, 0.7, 1.0):
        arguments = ([1, 2, 4], [ratio, 0.57, ratio], dc_windows, prefix, multiple)
        steps = plan(grid, *arguments)
        if steps is None:
            with pytest.raises(ValueError, match=r"dc_windows|token_multiple|would not shorten"):
                plan_layers(grid, 6, prefix, *arguments[:3], multiple)
            continue
        patches, windows = math.prod(grid), ()
        for tokens in plan_layers(grid, 6, prefix, *arguments[:3], multiple):
            assert (tokens.prefix, tokens.patches_in, tokens.windows_in) == (prefix, patches, windows)
            assert tokens.reduces == (tokens.layer in steps)
            patches, windows = steps.get(tokens.layer, (patches, windows))
            assert (tokens.patches_out, tokens.windows_out) == (patches, windows)
            assert (tokens.dc_in, tokens.dc_out) == (number(tokens.windows_in), number(windows))
            assert tokens.tokens_in == prefix + tokens.patches_in + number(tokens.windows_in)
            assert tokens.tokens_out == prefix + patches + number(windows)
            checked += 1
    assert checked or multiple == 4 or dc_windows == [3, 3, 1]


def test_ratio_one_makes_an_ordinary_layer_and_ignores_its_window():
    ordinary = tiny_config(reduction_layers=[1, 2, 3], keep_ratio=[0.5, 1.0, 0.5], dc_windows=[2, 3, 1])
    without = tiny_config(reduction_layers=[1, 3], keep_ratio=0.5, dc_windows=[2, 1])
    assert ordinary.plan() == without.plan()
    assert lengths(tiny_config(keep_ratio=1.0).plan()) == [(25, 25)] * 4
    assert lengths(tiny_config(keep_ratio=1).plan()) == [(25, 25)] * 4


def test_one_patch_left_stays_while_dc_tokens_still_merge():
    schedule = tiny_config(reduction_layers=[1, 2], keep_ratio=0.05, dc_windows=[2, 1]).plan()
    assert lengths(schedule) == [(25, 25), (25, 6), (6, 3), (3, 3)]
    assert [tokens.reduces for tokens in schedule] == [False, True, True, False]


def test_schedule_without_reduction():
    assert lengths(FATRViTConfig().plan(reduce=False)) == [(197, 197)] * 12
    assert lengths(tiny_config(reduction_layers=[]).plan()) == [(25, 25)] * 4


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        (384, [(577, 408), (408, 284), (284, 199)]),  # 403 + 5, 282 + 2, 197 + 2
        ((224, 384), [(337, 240), (240, 166), (166, 116)]),  # 14 x 24: 235 + 5, 164 + 2, 114 + 2
    ],
    ids=str,
)
def test_schedule_of_another_image_size(image_size, expected):
    assert lengths(FATRViTConfig().plan(image_size))[3::3] == expected


def test_schedule_is_plain_integers():
    for tokens in FATRViTConfig(token_multiple=8).plan():
        counts = (*tokens[:4], *tokens.windows_in, *tokens.windows_out, tokens.follows_reduction, tokens.tokens_out)
        assert all(type(value) in (int, bool) for value in counts)


def test_per_layer_spreads_one_value_and_checks_lists():
    assert per_layer("keep_ratio", 0.5, [1, 4]) == [0.5, 0.5]
    assert per_layer("keep_ratio", (0.5, 0.6), [1, 4]) == [0.5, 0.6]
    with pytest.raises(ValueError, match=r"keep_ratio=\[0.5\] has 1 entries, but there are 2 reduction layers"):
        per_layer("keep_ratio", [0.5], [1, 4])


REFUSALS = {
    "layer-negative": ({"reduction_layers": [-1]}, "reduction_layers=[-1]", "strictly increasing", "0 to 3"),
    "layer-beyond-depth": ({"reduction_layers": [4]}, "reduction_layers=[4]", "0 to 3", "4 layers"),
    "layers-decrease": ({"reduction_layers": [2, 1]}, "reduction_layers=[2, 1]", "strictly increasing"),
    "layers-repeat": ({"reduction_layers": [1, 1]}, "reduction_layers=[1, 1]", "strictly increasing"),
    "layer-no-integer": ({"reduction_layers": [1.5]}, "reduction_layers", "[1.5]"),
    "ratio-zero": ({"keep_ratio": 0.0}, "keep_ratio=0.0", "(0, 1]"),
    "ratio-above-one": ({"keep_ratio": 1.01}, "keep_ratio=1.01", "(0, 1]"),
    "ratio-nan": ({"keep_ratio": float("nan")}, "keep_ratio=nan", "(0, 1]"),
    "ratio-one-bad": ({"keep_ratio": [0.7, 0.7, 2.0]}, "keep_ratio=[0.7, 0.7, 2.0]", "(0, 1]", "2.0 does not"),
    "ratio-text": ({"keep_ratio": "half"}, "keep_ratio", "'half'"),
    "ratios-too-few": ({"keep_ratio": [0.7]}, "keep_ratio=[0.7]", "1 entries", "3 reduction layers"),
    "windows-negative": ({"dc_windows": [-1, 1, 1]}, "dc_windows=[-1, 1, 1]", "at least 0"),
    "windows-partly-zero": ({"dc_windows": [2, 0, 0]}, "dc_windows=[2, 0, 0]", "every reduction layer or in none"),
    "windows-too-few": ({"dc_windows": [2, 1]}, "dc_windows=[2, 1]", "2 entries", "3 reduction layers"),
    "windows-exceed-grid": ({"dc_windows": 5}, "dc_windows=5", "layer 1", "4 x 6", "at most 4"),
    "windows-do-not-nest": (
        {"dc_windows": [3, 2, 1], "keep_ratio": 0.5},
        "dc_windows=2",
        "layer 2",
        "does not divide",
        "3 windows",
    ),
    "windows-grow": ({"dc_windows": [1, 2, 1], "keep_ratio": 0.5}, "dc_windows=2", "layer 2", "does not divide"),
    "multiple-zero": ({"token_multiple": 0}, "token_multiple=0", "at least 1"),
    "multiple-cannot-be-met": ({"token_multiple": 32}, "token_multiple=32", "cannot be met", "keeps 16"),
    "exponent-negative": ({"size_exponent": -0.5}, "size_exponent=-0.5", "[0, 1]"),
    "exponent-above-one": ({"size_exponent": 1.5}, "size_exponent=1.5", "[0, 1]"),
    "selection-unknown": ({"selection": "best"}, "selection='best'", "high_frequency", "dc_similarity"),
    "does-not-shorten": ({"keep_ratio": 0.9}, "layer 1 would not shorten", "25 tokens enter", "26 would leave"),
    "nothing-left-to-fold": ({"keep_ratio": 0.05, "dc_windows": 1}, "layer 2 would not shorten", "3 tokens enter"),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals_say_what_is_wrong(case):
    changes, *words = case
    with pytest.raises(StrictDataclassError) as refusal:
        tiny_config(**changes)
    for word in words:
        assert word in str(refusal.value)


def test_a_length_that_stays_the_same_is_refused():
    # 24 patches, 20 kept and 4 DC tokens: 25 tokens enter and leave.
    with pytest.raises(StrictDataclassError, match="25 tokens enter and 25 would leave"):
        tiny_config(reduction_layers=[1], keep_ratio=0.84, dc_windows=[2])


@pytest.mark.parametrize("name", ["keep_ratios", "dc_window", "reduction_layer", "token_multiples"])
def test_misspelt_fields_are_refused(name):
    with pytest.raises(ValueError, match=f"no field '{name}'.*did you mean"):
        tiny_config(**{name: 1})


def test_pixels_beyond_the_last_whole_patch_are_left_out_as_stock_models_do():
    assert FATRViTConfig().plan((225, 239)) == FATRViTConfig().plan(224)


def test_images_without_a_whole_patch_are_refused():
    with pytest.raises(ValueError, match=r"image_size=\(15, 224\).*patch_size=\(16, 16\)"):
        FATRViTConfig().plan((15, 224))
    with pytest.raises(StrictDataclassError, match=r"image_size=\(3, 24\)"):
        tiny_config(image_size=(3, 24))


def test_a_size_too_small_for_the_windows_is_refused():
    with pytest.raises(ValueError, match="dc_windows=2 at layer 3 exceeds the grid of 1 x 4"):
        FATRViTConfig().plan((16, 64))


SIZES = {
    "patch-zero": ({"patch_size": 0}, "patch_size", "0"),
    "patch-side-zero": ({"patch_size": (4, 0)}, "patch_size", "0"),
    "patch-negative": ({"patch_size": -4}, "patch_size", "-4"),
    "patch-one-side": ({"patch_size": [4]}, "patch_size", "4"),
    "image-zero": ({"image_size": 0}, "image_size", "0"),
    "image-three-sides": ({"image_size": [16, 24, 3]}, "image_size", "3"),
    "heads-zero": ({"num_attention_heads": 0}, "num_attention_heads", "0"),
    "heads-do-not-divide": ({"num_attention_heads": 3}, "num_attention_heads", "3"),
}


@pytest.mark.parametrize("case", SIZES.values(), ids=SIZES.keys())
def test_impossible_sizes_are_refused_in_words(case):
    changes, *words = case
    with pytest.raises((StrictDataclassError, ValueError)) as refusal:
        tiny_config(**changes)
    for word in words:
        assert word in str(refusal.value)


def test_local_preset_keeps_half_and_pools_windows_of_2_x_2_patches():
    config = FATRViTConfig.from_preset("local", image_size=224, patch_size=16)
    assert (config.keep_ratio, config.dc_windows, config.size_exponent) == (0.5, 7, 0.5)
    assert [tokens.tokens_out for tokens in config.plan()][2::3] == [197, 148, 99, 74]
    other = FATRViTConfig.from_preset("local", image_size=(32, 48), patch_size=8, num_hidden_layers=4, keep_ratio=0.6)
    assert (other.keep_ratio, other.dc_windows) == (0.6, 2)


def test_faithful_reduces_four_layers_from_a_third_on():
    config = FATRViTConfig.from_preset("faithful")
    assert (config.reduction_layers, config.keep_ratio) == ([4, 5, 6, 7], 0.77)
    assert (config.fold, config.selection) == ("similar", "high_frequency_energy")
    assert (config.dc_windows, config.size_exponent) == (0, 1.0)
    assert FATRViTConfig.from_preset("faithful", num_hidden_layers=24).reduction_layers == [8, 10, 12, 14]
    assert FATRViTConfig.from_preset("faithful", num_hidden_layers=2).reduction_layers == [0, 1]
    unreduced = schedule_macs(FATRViTConfig(reduction_layers=[], keep_ratio=1.0, dc_windows=[]))
    assert 0.64 < schedule_macs(config) / unreduced < 0.66
    half = FATRViTConfig.from_preset("faithful_half")
    assert half.reduction_layers == [3, 4, 5, 6, 7, 8, 9]
    assert (half.fold, half.selection) == ("similar", "high_frequency_energy")
    assert 0.49 < schedule_macs(half) / unreduced < 0.51


def test_paper_is_the_default():
    default, paper = FATRViTConfig().to_dict(), FATRViTConfig.from_preset("paper").to_dict()
    assert paper == default


def test_presets_apply_to_what_is_loaded(tmp_path, tiny):
    FATRViTConfig(**tiny).save_pretrained(tmp_path)
    loaded = FATRViTConfig.from_pretrained(tmp_path, preset="local", dc_windows=2)
    assert (loaded.keep_ratio, loaded.dc_windows, loaded.size_exponent) == (0.5, 2, 0.5)
    with pytest.raises(ValueError, match="preset='global' must be one of paper, local, faithful"):
        FATRViTConfig.from_pretrained(tmp_path, preset="global")
    with pytest.raises(ValueError, match=r"preset is an argument of FATRViTConfig\.from_preset"):
        FATRViTConfig(preset="local")


def test_a_video_has_windows_along_each_axis():
    plan = plan_layers((8, 14, 14), 12, 0, [3, 6, 9], [0.7, 0.7, 0.7], [(2, 2, 2), (1, 2, 1), 1])
    assert [(step.patches_out, step.windows_out, step.dc_out) for step in plan[3::3]] == [
        (1097, (2, 2, 2), 8),
        (767, (1, 2, 1), 2),
        (536, (1, 1, 1), 1),
    ]


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ([(2, 2, 2), (2, 4, 2)], r"dc_windows=\(2, 4, 2\) at layer 2 does not divide the 2 windows before it"),
        (
            [(2, 4, 2), (2, 2, 4)],
            r"dc_windows=\(2, 2, 4\) at layer 2 does not divide the \(2, 4, 2\) windows before it",
        ),
        (
            [(5, 2, 2), 1],
            r"dc_windows=\(5, 2, 2\) at layer 1 exceeds the grid of 4 x 6 x 7 patches: at most \(4, 6, 7\)",
        ),
        ([5, 1], r"dc_windows=5 at layer 1 exceeds the grid of 4 x 6 x 7 patches"),
        ([(2, 2), 1], r"dc_windows=2 at layer 1 must be one number, or one of at least 1 for each of the 3 axes"),
        ([(2, 0, 2), 1], r"dc_windows=\(2, 0, 2\) at layer 1 must be one number, or one of at least 1"),
        ([2, 0], r"dc_windows=0 at layer 2 does not divide the 2 windows before it"),
    ],
    ids=str,
)
def test_windows_that_do_not_fit_a_video_are_refused(windows, words):
    with pytest.raises(ValueError, match=words):
        plan_layers((4, 6, 7), 4, 0, [1, 2], [0.5, 0.5], windows)
