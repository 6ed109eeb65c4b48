"""What a search may try: every sample can be carried out, and known schedules are among them."""

from itertools import pairwise

import optuna
import pytest
from optuna.trial import FixedTrial

from fatr_hf import FATRViTConfig
from fatr_hf.analysis.schedule import Schedule
from fatr_hf.analysis.schedule_search.known_schedules import known_schedules, scaled_ranges
from fatr_hf.analysis.schedule_search.space import COST_TOLERANCE, SearchSpace, Slot, default_space, window_chains

WITHOUT = {"reweight_attention": False, "dc_position_embeddings": False}

CONFIGS = {
    "base": {},
    "large": {"num_hidden_layers": 24},
    "oblong": {"image_size": (64, 112), "num_hidden_layers": 7},
    "tiny": {"image_size": 32, "patch_size": 4, "num_hidden_layers": 4},
}
SPACES = {
    "all-layers": {},
    "three-layers": {"max_layers": 3, "windows": [1, 2, 3, 6]},
    "one-per-range": {"one_per_range": True, "token_multiples": (1, 8)},
    "costly": {"macs_range": (0.6, 0.7), "size_exponents": (0.5,)},
}


def make_config(name="base"):
    return FATRViTConfig(**WITHOUT, **CONFIGS[name])


def samples(space, config, count):
    """So many random samples, and what each aimed at."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(count)]
    return [(space.sample(trial, config), trial.params["macs_share"]) for trial in trials]


@pytest.mark.parametrize("options", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", CONFIGS)
def test_samples_can_be_carried_out_and_lie_in_the_space(name, options):
    config = make_config(name)
    space = default_space(config, **options)
    drawn = {schedule for schedule, _ in samples(space, config, 15) if schedule.reduction_layers}
    assert len(drawn) > 5
    for schedule in drawn:
        reduced = FATRViTConfig(**WITHOUT, **CONFIGS[name], **schedule.fields)
        assert sum(layer.reduces for layer in reduced.plan()) == len(schedule.reduction_layers)
        assert all(before % after == 0 for before, after in pairwise(schedule.dc_windows))
        assert len(schedule.reduction_layers) <= options.get("max_layers", 99)
        assert all(0.1 <= ratio <= 0.98 for ratio in schedule.keep_ratio)
        assert schedule.token_multiple in space.token_multiples
        assert schedule.size_exponent in space.size_exponents
        slots = [sum(slot.first <= layer <= slot.last for layer in schedule.reduction_layers) for slot in space.slots]
        assert max(slots) == 1
        assert sum(slots) == len(schedule.reduction_layers)


def test_samples_cost_what_they_aim_at():
    config = make_config()
    close = [
        abs(schedule.macs_share(config) - target) <= COST_TOLERANCE
        for schedule, target in samples(default_space(config), config, 30)
    ]
    assert sum(close) > 20


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_of_a_schedule_draw_it_again(name):
    config = make_config(name)
    space = default_space(config, macs_range=(0.1, 0.99))
    drawn = [(space.parameters(each, config), each) for each in known_schedules(config).values()]
    drawn = [(parameters, schedule) for parameters, schedule in drawn if parameters is not None]
    assert len(drawn) > 2
    for parameters, schedule in drawn:
        assert space.sample(FixedTrial(parameters), config) == schedule


@pytest.mark.parametrize("name", ["base", "large", "oblong"])
def test_known_schedules_are_in_the_default_space(name):
    config = make_config(name)
    space = default_space(config, macs_range=(0.1, 0.99))
    assert None not in [space.parameters(schedule, config) for schedule in known_schedules(config).values()]


@pytest.mark.parametrize(
    "changes",
    [
        {"dc_windows": (3, 1)},
        {"token_multiple": 8},
        {"size_exponent": 0.3},
        {"reduction_layers": (3, 11)},
        {"keep_ratio": (0.1, 0.1)},
        {"reduction_layers": (1, 2, 3), "keep_ratio": (0.8,) * 3, "dc_windows": (1,) * 3},
    ],
    ids=["windows", "multiple", "exponent", "last-layer", "cost", "layers"],
)
def test_schedules_outside_of_the_space_have_no_parameters(changes):
    config = make_config()
    space = default_space(config, max_layers=2, macs_range=(0.5, 0.95))
    schedule = Schedule((3, 6), (0.7, 0.7), (2, 1))
    assert space.parameters(schedule, config) is not None
    assert space.parameters(schedule._replace(**changes), config) is None


def test_ranges_hold_one_layer_each():
    config = make_config()
    space = default_space(config, one_per_range=True)
    assert space.parameters(Schedule((3, 4), (0.7, 0.7), (1, 1)), config) is not None
    assert space.parameters(Schedule((4, 6), (0.7, 0.7), (1, 1)), config) is None


def test_windows_go_through_chains_that_nest():
    chains = window_chains((1, 2, 4, 7))
    assert list(chains) == ["1", "2", "4", "7", "2/1", "4/1", "4/2", "7/1", "4/2/1"]
    assert chains["4/2/1"] == (4, 2, 1)
    assert "8/4/2/1" not in window_chains((1, 2, 4, 8))


@pytest.mark.parametrize(
    ("depth", "ranges"),
    [(12, [(1, 3), (4, 6), (7, 10)]), (24, [(2, 7), (8, 13), (14, 22)]), (4, [(0, 0), (1, 1), (2, 2)])],
    ids=["12", "24", "4"],
)
def test_the_papers_ranges_scale_with_the_depth(depth, ranges):
    assert scaled_ranges(FATRViTConfig(num_hidden_layers=depth)) == ranges


def test_known_schedules_are_the_papers():
    config = make_config()
    known = known_schedules(config)
    assert known["paper"] == Schedule.of(config)
    assert known["local"] == Schedule.of(FATRViTConfig.from_preset("local"))
    # Table 3: layers 4, 6 and 10, of which 40, 50 and 90 percent are removed.
    searched = known["DeiT-S, 79.6%"]
    assert [layer + 1 for layer in searched.reduction_layers] == [4, 6, 10]
    assert [round(100 * (1 - ratio)) for ratio in searched.keep_ratio] == [40, 50, 90]
    large = known_schedules(FATRViTConfig(num_hidden_layers=24))["DeiT-S, 79.6%"]
    assert large.reduction_layers == (6, 10, 18)


def test_gentle_schedules_reduce_in_every_layer_but_first_and_last_ones():
    assert known_schedules(make_config())["gentle, 0.9"].reduction_layers == (2, 3, 4, 5, 6, 7, 8, 9, 10)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_shallow_models_have_known_schedules(depth):
    config = FATRViTConfig(num_hidden_layers=depth)
    assert "paper" in known_schedules(config)
    assert all(schedule.is_possible(config) for schedule in known_schedules(config).values())


def test_a_schedule_as_fields_and_back():
    config = FATRViTConfig(keep_ratio=[0.7, 1.0, 0.5], dc_windows=[4, 2, 1], token_multiple=2, size_exponent=0.5)
    schedule = Schedule.of(config)
    assert schedule == Schedule((3, 9), (0.7, 0.5), (4, 1), 2, 0.5)
    assert Schedule.from_fields(schedule.fields) == schedule
    assert schedule.macs(FATRViTConfig()) == schedule.macs(FATRViTConfig(**schedule.fields))


@pytest.mark.parametrize(
    "options", [{"windows": [14]}, {"token_multiples": (512,)}], ids=["a-window-for-each-patch", "multiple"]
)
def test_a_space_without_a_possible_schedule_is_refused(options):
    config = make_config()
    with pytest.raises(ValueError, match="No schedule of this search can be carried out on 14 x 14 patches"):
        default_space(config, **options).check_possible(config)


def test_layers_that_the_model_does_not_have_are_refused():
    with pytest.raises(ValueError, match="slots reach layer 12, and the model's layers are 0 to 11"):
        SearchSpace((Slot(12, 12),), (1,), 1).check_possible(make_config())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"windows": [0, 1]}, "windows=0 must be an integer of at least 1"),
        ({"windows": []}, "windows must hold at least one value"),
        ({"token_multiples": ()}, "token_multiples must hold at least one value"),
        ({"size_exponents": (0.5, 2.0)}, r"size_exponents=\[0.5, 2.0\] must lie in \[0, 1\]"),
        ({"max_layers": 0}, "max_layers=0 must be integers of at least 1"),
        ({"macs_range": (0.7, 0.5)}, r"macs_range=\[0.7, 0.5\] must be two rising numbers"),
        ({"macs_range": (0.7,)}, r"macs_range=\[0.7\] must be two rising numbers"),
    ],
    ids=["windows", "no-windows", "no-multiples", "exponents", "layers", "range", "half-a-range"],
)
def test_bad_choices_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        default_space(make_config(), **options)


def test_slots_that_overlap_are_refused():
    with pytest.raises(ValueError, match="slots 1-4, 3 must rise and not overlap"):
        SearchSpace((Slot(1, 4), Slot(3, 3)), (1,), 2)


def test_a_model_with_parameters_of_its_own_keeps_its_layers_and_windows():
    config = FATRViTConfig(reduction_layers=[2, 5, 8], keep_ratio=[0.5, 1.0, 0.7], dc_windows=[4, 2, 1])
    space = default_space(config)
    assert (space.slots, space.windows) == ((Slot(2, 2), Slot(8, 8)), (4, 1))
    assert {schedule.dc_windows for schedule, _ in samples(space, config, 20)} <= {(), (4,), (1,), (4, 1)}
    with pytest.raises(ValueError, match="within its own layers and windows"):
        default_space(config, windows=[1, 2])


def test_a_model_that_folds_by_likeness_is_searched_within_its_own_layers():
    fields = {"fold": "similar", "reduction_layers": [1, 2]}
    config = FATRViTConfig(**fields)
    space = default_space(config)
    assert (space.windows, [slot.first for slot in space.slots]) == ((0, 0), [1, 2])
    space.check_possible(config)
    bare = FATRViTConfig(**fields, **WITHOUT)
    with pytest.raises(ValueError, match=r"fold='similar' has no windows to search: give fold='windows'"):
        default_space(bare)
