"""The search itself: what it measures, what it gives up, and that it goes on where it stopped."""

import sqlite3
import sys

import optuna
import pytest
import torch
from rounding import assert_rounded_alike
from search_cases import make_encoder, make_images, make_searchable

from fatr_hf import FATRViTConfig
from fatr_hf.analysis.schedule import Schedule
from fatr_hf.analysis.schedule_search import search as search_module
from fatr_hf.analysis.schedule_search.quality import load_examples, part_qualities, relative_latency
from fatr_hf.analysis.schedule_search.search import clearly_worse, search_schedules
from fatr_hf.analysis.schedule_search.space import default_space
from fatr_hf.analysis.schedule_search.study import finished_trials, open_study


@pytest.fixture(scope="module")
def images():
    return make_images()


@pytest.fixture
def model(tiny):
    return make_searchable(tiny)


@pytest.fixture
def search(model, images):
    """Searches with the options that are given, in a space that holds three known schedules."""
    space = default_space(model.config, windows=[1, 2], macs_range=(0.55, 0.8))
    defaults = {"space": space, "batch_size": 4, "quality": "cosine"}
    return lambda **options: search_schedules(options.pop("model", model), images, **{**defaults, **options})


def outcomes(result):
    """Everything but the numbers of trials, which count those that broke off too."""
    given_up = [(trial.schedule, trial.reason) for trial in result.pruned]
    return [trial._replace(number=0) for trial in result.trials], given_up


@pytest.mark.parametrize("layers", [[1], [0, 2]], ids=["one", "two"])
def test_omegas_and_embeddings_of_zero_are_as_none(tiny, model, images, layers):
    fields = {"reduction_layers": layers, "keep_ratio": 0.5, "dc_windows": 2, "size_exponent": 0.5}
    with_parameters = make_searchable(tiny, reweight_attention=True, dc_position_embeddings=True, **fields)
    lacking = with_parameters.load_state_dict(model.state_dict(), strict=False)
    assert lacking.missing_keys
    assert not any(parameter.any() for name, parameter in with_parameters.named_parameters() if "omega" in name)
    expected = with_parameters(images.pixel_values).logits
    model.set_reduction(**fields)
    assert_rounded_alike(model(images.pixel_values).logits, expected)


@pytest.mark.parametrize("quality", ["accuracy", "cosine", "divergence", "agreement"])
def test_qualities_are_what_they_say(model, images, quality):
    schedule = Schedule((1, 2), (0.3, 0.5), (2, 1))
    examples = load_examples(model, images, 8, quality)
    plan = schedule.plan(model.config)
    with torch.no_grad():
        found = torch.cat(list(part_qualities(model, examples, plan)))
        output = model(images.pixel_values, plan=plan).logits
    with model.reduction(False), torch.no_grad():
        reference = model(images.pixel_values).logits
    log_ratio = reference.log_softmax(dim=1) - output.log_softmax(dim=1)
    expected = {
        "accuracy": (output.argmax(dim=1) == images.labels).float(),
        "cosine": (output * reference).sum(dim=1) / output.norm(dim=1) / reference.norm(dim=1),
        "divergence": (reference.softmax(dim=1) * log_ratio).sum(dim=1),
        "agreement": (output.argmax(dim=1) == reference.argmax(dim=1)).float(),
    }[quality]
    assert_rounded_alike(found, expected, torch.float64)


def test_encoders_are_searched_by_their_pooled_output(tiny, images):
    result = search_schedules(make_encoder(tiny), images, trials=2)
    assert result.quality == "cosine"
    assert result.unreduced_quality == pytest.approx(1, rel=1e-10)
    with pytest.raises(ValueError, match="'agreement' needs the logits of a classifier"):
        search_schedules(make_encoder(tiny), images, trials=1, quality="agreement")


def test_trials_hold_what_their_schedules_cost_and_reach(model, images, search):
    before = model.config.to_dict()
    result = search(trials=5)
    assert model.config.to_dict() == before
    assert result.trials[0].name is not None
    unreduced = FATRViTConfig(**{**before, "reduction_layers": [], "keep_ratio": 1.0, "dc_windows": []})
    assert result.unreduced_macs == Schedule.of(unreduced).macs(unreduced)
    for trial in result.trials:
        assert trial.cost == trial.macs / result.unreduced_macs
        examples, plan = load_examples(model, images, 4, "cosine"), trial.schedule.plan(model.config)
        qualities = torch.cat(list(part_qualities(model, examples, plan)))
        assert trial.quality == pytest.approx(qualities.mean().item(), rel=1e-10)


def test_accuracy_is_the_default_where_there_are_labels(model, images, search):
    assert search(trials=1, quality=None).quality == "accuracy"
    assert search_schedules(model, images.pixel_values, trials=1).quality == "cosine"
    with pytest.raises(ValueError, match="'accuracy' needs images whose labels are classes"):
        search_schedules(model, images.pixel_values, trials=1, quality="accuracy")


@pytest.mark.parametrize(
    ("qualities", "other", "sign", "expected"),
    [
        ([0.5, 0.6] * 5, [0.7, 0.8] * 5, 1, True),
        ([0.5, 0.6] * 5, [0.7, 0.8] * 5, -1, False),
        ([0.5, 0.6] * 5, [0.4, 0.8] * 5, 1, False),
        ([0.5, 0.6] * 5, [0.5, 0.6] * 5, 1, False),
        ([0.5, 0.6] * 3, [0.7, 0.8] * 3, 1, False),
        ([0.0] * 9, [1.0] * 9, 1, True),
    ],
    ids=["better-everywhere", "lower-is-better", "within-chance", "equal", "too-few-images", "no-spread"],
)
def test_a_schedule_is_given_up_where_another_is_clearly_better(qualities, other, sign, expected):
    assert clearly_worse(torch.tensor(qualities), [torch.tensor([*other, 0.0, 0.0])], sign) is expected


def test_sampled_schedules_are_given_up_for_one_that_costs_no_more(search, monkeypatch):
    monkeypatch.setattr(search_module, "MARGIN", 0.2)
    result = search(trials=16)
    reasons = [trial.reason for trial in result.pruned if "clearly worse" in trial.reason]
    assert "On 8 of 20 images clearly worse than one that costs no more." in reasons
    # The known ones, which come first, are tried to the end.
    assert all(trial.number >= sum(each.name is not None for each in result.trials) for trial in result.pruned)
    assert len(result.trials) + len(result.pruned) == 16


def test_a_schedule_drawn_again_is_not_tried_again(model, search, monkeypatch):
    tried = []

    def count(task, schedule, rivals):
        tried.append(schedule)
        return try_schedule(task, schedule, rivals)

    try_schedule = search_module.try_schedule
    monkeypatch.setattr(search_module, "try_schedule", count)
    space = default_space(model.config, max_layers=1, windows=[1], size_exponents=[0.0], macs_range=(0.7, 0.74))
    result = search(trials=30, space=space)
    schedules = [trial.schedule for trial in result.trials]
    assert len(set(schedules)) < len(schedules)
    assert max(tried.count(schedule) for schedule in schedules) == 1


def test_outputs_that_are_not_finite_are_given_up(model, search):
    def overflow(layer, arguments, output):
        tokens, layout = output
        return (tokens * torch.inf if tokens.shape[1] < 65 else tokens), layout

    model.vit.layers[3].register_forward_hook(overflow)
    result = search(trials=3)
    assert [trial.reason for trial in result.pruned] == ["Its outputs are not finite."] * 3


def test_a_model_whose_unreduced_outputs_are_not_finite_is_refused(model, search):
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(ValueError, match="are NaN or infinite: load it with dtype="):
        search(trials=3)


def test_a_search_goes_on_as_if_it_had_not_stopped(search, tmp_path):
    expected = search(trials=6)
    for trials in (2, 5, 6, 6):
        result = search(trials=trials, study=tmp_path / "study.sqlite")
    assert outcomes(result) == outcomes(expected)


@pytest.mark.parametrize("calls", [1, 7, 17], ids=["first-trial", "known-schedule", "sampled-schedule"])
def test_a_search_that_was_killed_goes_on(search, tmp_path, monkeypatch, calls):
    study = tmp_path / "study.sqlite"
    expected = search(trials=5)
    left = iter(range(calls))

    def die(*arguments):
        for qualities in part_qualities(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            yield qualities

    with monkeypatch.context() as patch:
        patch.setattr(search_module, "part_qualities", die)
        with pytest.raises(KeyboardInterrupt):
            search(trials=5, study=study)
    result = search(trials=5, study=study)
    assert outcomes(result) == outcomes(expected)
    # The one that broke off has a number of its own.
    assert max(trial.number for trial in (*result.trials, *result.pruned)) == 5


def test_a_known_schedule_that_was_only_announced_comes_once(search, tmp_path, monkeypatch):
    study = tmp_path / "study.sqlite"
    expected = search(trials=4)

    def die(study):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "ask", die)
        with pytest.raises(KeyboardInterrupt):
            search(trials=4, study=study)
    assert outcomes(search(trials=4, study=study)) == outcomes(expected)


def test_a_latency_is_measured_once_and_remembered(model, search, tmp_path, monkeypatch):
    measured = iter([0.9, 0.8, 0.7])
    monkeypatch.setattr(search_module, "relative_latency", lambda *arguments: next(measured))
    for _ in range(2):
        result = search(trials=3, objective="latency", study=tmp_path / "study.sqlite")
    assert [trial.cost for trial in result.trials] == [0.9, 0.8, 0.7]


def test_a_latency_is_a_share_of_the_unreduced_models(model, images):
    plan = Schedule((0,), (0.1,), (1,)).plan(model.config)
    assert 0 < relative_latency(model, plan, images.pixel_values) < 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed"),
        ({"quality": "agreement"}, "quality"),
        ({"objective": "latency"}, "device, objective"),
        ({"batch_size": 8}, "batch size"),
        ({"windows": [1]}, "space"),
        ({"weights": 1}, "model"),
        ({"images": 3}, "images"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_study_of_another_search_is_refused(tiny, model, images, tmp_path, changes, words):
    arguments = {"quality": "cosine", "trials": 1, "study": tmp_path / "study.sqlite", "batch_size": 4}
    search_schedules(model, images, **arguments)
    if "weights" in changes:
        with torch.no_grad():
            model.classifier.bias += 1
    if "images" in changes:
        images = make_images(seed=changes["images"])
    space = default_space(model.config, windows=changes.get("windows"))
    arguments |= {name: value for name, value in changes.items() if name not in ("windows", "weights", "images")}
    with pytest.raises(ValueError, match=f"with another {words}: "):
        search_schedules(model, images, space=space, **arguments)


def write_text(path):
    path.write_text("no study" * 1000)


def write_table(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE flowers (name)")
    connection.close()


def write_half(path):
    with open_study(path, ["minimize", "minimize"], {}) as study:
        assert finished_trials(study) == []
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("write", [write_text, write_table, write_half], ids=["text", "another-database", "half"])
def test_a_file_that_is_no_study_is_refused_and_left(search, tmp_path, write):
    path = tmp_path / "study.sqlite"
    write(path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"study\.sqlite (is damaged|cannot be used)"):
        search(trials=1, study=path)
    assert path.read_bytes() == content


def test_a_file_in_no_folder_is_refused(search, tmp_path):
    with pytest.raises(ValueError, match="cannot be used as the file of a search: unable to open"):
        search(trials=1, study=tmp_path / "none" / "study.sqlite")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "watts"}, "objective='watts' must be one of macs, latency"),
        ({"quality": "beauty"}, "Unknown quality 'beauty'"),
        ({"trials": 0}, "trials=0 must be an integer of at least 1"),
    ],
    ids=["objective", "quality", "trials"],
)
def test_bad_choices_are_refused(search, options, words):
    with pytest.raises(ValueError, match=words):
        search(**options)


@pytest.mark.parametrize("spoil", ["train", "fuse"])
def test_models_that_cannot_be_searched_are_refused(model, search, spoil):
    with pytest.raises(ValueError, match=r"A model in training mode|A fused model"):
        search(model=getattr(model, spoil)(), trials=1)


def test_stock_models_are_refused(stock, search):
    with pytest.raises(ValueError, match=r"Only a FATR model can be searched, not .*ViTForImageClassification"):
        search(model=stock, trials=1)


def test_a_model_with_parameters_of_its_own_is_searched_within_them(make_fatr, images):
    model = make_fatr(reduction_layers=[0, 2], dc_windows=[2, 1])
    result = search_schedules(model, images, trials=8)
    assert result.trials
    for trial in result.trials:
        assert set(zip(trial.schedule.reduction_layers, trial.schedule.dc_windows, strict=True)) <= {(0, 2), (2, 1)}


def test_without_optuna_the_refusal_says_how_to_get_it(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'fatr-hf\[analysis\]'"):
        search(trials=1)
