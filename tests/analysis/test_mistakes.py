"""Arguments that are mixed up, or of other kinds, are refused in words before anything is computed."""

import math
import os

import PIL.Image
import pytest
import torch
from matplotlib.figure import Figure
from picture_cases import PROCESSOR, noise_image
from search_cases import make_images, make_searchable
from theory import mixing_bound, pooling_loss

from fatr_hf.analysis import (
    Analysis,
    Comparison,
    analysis_figures,
    analysis_table,
    analyze,
    attention_figure,
    collapse_figure,
    compare,
    comparison_figure,
    comparison_table,
    noise_figure,
    noise_sensitivity,
    plot_grid,
    plot_kept,
    plot_scores,
    save_animation,
    save_figure,
    spectrum_figure,
    token_kinds_figure,
    trace_image,
    trace_rivals,
)
from fatr_hf.analysis.crops import random_crops
from fatr_hf.analysis.diagnosis import Diagnosis, diagnose, find, html_page, text_page
from fatr_hf.analysis.image_trace import reduced_pixels, seen_pixels
from fatr_hf.analysis.measures import (
    column_mass,
    effective_rank,
    expected_random_energy,
    high_frequency_share,
    highest,
    mean_pairwise_cosine,
)
from fatr_hf.analysis.schedule import Schedule
from fatr_hf.analysis.schedule_search import (
    SearchResult,
    SearchSpace,
    Slot,
    check_schedule,
    default_space,
    front_table,
    rival_points,
    search_figure,
    search_schedules,
)
from fatr_hf.benchmark import Comparison as OtherComparison

SCHEDULE = Schedule((1, 3), (0.5, 0.7), (2, 1))
TOKENS = torch.randn(2, 9, 8)


@pytest.fixture
def fatr(make_sharp_fatr):
    return make_sharp_fatr()


@pytest.fixture
def trace(fatr):
    return trace_image(fatr, noise_image(), PROCESSOR)


@pytest.fixture
def searched(tiny):
    return make_searchable(tiny)


def is_refused(words, function, *arguments, **options):
    with pytest.raises(ValueError, match=words):
        function(*arguments, **options)


# Models

RUNS = {
    "analyze": analyze,
    "compare": lambda model, pixels: compare({"model": model}, pixels),
    "noise": noise_sensitivity,
    "diagnose": diagnose,
    "search": search_schedules,
    "rivals": rival_points,
    "check": lambda model, pixels: check_schedule(model, SCHEDULE, pixels),
    "picture": lambda model, pixels: trace_image(model, noise_image(), PROCESSOR),
    "picture-of-rivals": lambda model, pixels: trace_rivals(model, noise_image(), PROCESSOR),
}
NEED_FATR = ("diagnose", "search", "rivals", "check", "picture-of-rivals")
runs = pytest.mark.parametrize("run", RUNS)


@runs
def test_what_is_no_model_that_can_be_looked_into_is_refused_before_it_runs(fatr, pixel_values, monkeypatch, run):
    def refuse(*arguments, **options):
        raise AssertionError("a model ran")

    for other, words in (
        (PROCESSOR, "model must be a model of transformers, not .*ViTImageProcessor"),
        ("google/vit-base-patch16-224", "model must be a model of transformers, loaded by its from_pretrained"),
        (torch.nn.DataParallel(fatr), "model is wrapped in .*DataParallel: give the model in it"),
        (torch.compile(fatr), "model is wrapped in .*OptimizedModule: give the model that was compiled"),
        (fatr.fuse(), "A fused model cannot be"),
    ):
        is_refused(words, RUNS[run], other, pixel_values)
    if run != "picture-of-rivals":
        monkeypatch.setattr(type(fatr), "forward", refuse)
    is_refused("model in training mode cannot be analysed", RUNS[run], fatr.train(), pixel_values)


@pytest.mark.parametrize("run", NEED_FATR)
def test_stock_models_are_refused_where_a_reduction_is_needed(stock, pixel_values, run):
    is_refused(
        "Only a FATR model can be .*, not a transformers.*ViTForImageClassification", RUNS[run], stock, pixel_values
    )


def test_models_are_compared_by_name(fatr, pixel_values):
    for models in ([fatr], fatr, pixel_values):
        is_refused("models must be a mapping from names to models", compare, models, pixel_values)
    is_refused("the name of a model must be text, not 1", compare, {1: fatr}, pixel_values)


# Numbers and lists


@pytest.mark.parametrize("layers", [[4], [-1], [True], [0.5], ["0"], [0, 0], [], 1, "1"], ids=str)
def test_layers_are_those_of_the_model(fatr, trace, pixel_values, layers):
    words = "layers(=.* must be integers from 0 to 3| must be a list|=.* must hold)"
    is_refused(words, noise_sensitivity, fatr, pixel_values, layers)
    is_refused(words, plot_kept, trace, layers)


def test_generators_are_gone_through_once(fatr, pixel_values):
    given = {"layers": iter([1]), "scales": iter([1.0])}
    rows = noise_sensitivity(fatr, pixel_values, **given)
    assert rows == noise_sensitivity(fatr, pixel_values, [1], [1.0])
    assert {row.layer for row in rows} == {1}
    assert analyze(fatr, pixel_values, iter(["spectrum"])).measures == ("spectrum",)
    assert compare({"FATR": fatr}, pixel_values, iter(["spectrum"])).contenders[0].analysis.measures == ("spectrum",)


@pytest.mark.parametrize("scales", [[math.nan], [math.inf], [-1], ["1"], [True], [], 1.0, [1, 1]], ids=str)
def test_scales_are_finite_numbers(fatr, pixel_values, scales):
    is_refused("scales", noise_sensitivity, fatr, pixel_values, scales=scales)


@pytest.mark.parametrize("share", [25, 0, 1, math.nan, "0.25", True], ids=str)
def test_shares_lie_between_0_and_1(fatr, pixel_values, share):
    is_refused("share=.* must lie between 0 and 1, both excluded", noise_sensitivity, fatr, pixel_values, share=share)


@pytest.mark.parametrize("measures", ["spectrum", ["spectrum", "spectrum"], ["rank"], 3], ids=str)
def test_measures_are_a_list_of_names(fatr, analysis, pixel_values, measures):
    words = "measures must be a list|'spectrum' is there twice|Unknown measure 'rank'|'rank' is no measure"
    is_refused(words, analyze, fatr, pixel_values, measures)
    is_refused(words, compare, {"FATR": fatr}, pixel_values, measures)
    is_refused(words, collapse_figure, {"FATR": analysis}, measures)


@pytest.mark.parametrize("count", [0, -1, 2.5, "8", True], ids=str)
def test_counts_are_positive_integers(searched, count):
    words = "=.* must be an integer of at least 1"
    is_refused(f"crops{words}", random_crops, [noise_image()], count)
    is_refused(f"trials{words}", search_schedules, searched, make_images(2), trials=count)
    is_refused(f"windows{words}", default_space, searched.config, windows=[count])
    is_refused("max_layers=.* must be integers of at least 1", default_space, searched.config, max_layers=count)


@pytest.mark.parametrize("share", [65, 0, -0.1, math.nan, "0.65", True, None], ids=str)
def test_a_share_of_the_cost_is_no_percentage(share):
    result = SearchResult("macs", "cosine", 2, 0, 1000, 1.0, ())
    is_refused(r"share=.* must lie in \(0, 1\]: a share of the unreduced model's cost", result.best_at, share)


@pytest.mark.parametrize("dpi", [0, -1, 2.5, 1e6, math.nan, math.inf, "150", True], ids=str)
def test_resolutions_are_numbers_that_can_be_drawn(trace, tmp_path, dpi):
    words = "dpi=.* must be a number of pixels an inch from 10 to 2400"
    is_refused(words, save_figure, Figure(), tmp_path / "figure.png", dpi)
    is_refused(words, save_animation, [trace], tmp_path / "kept.gif", dpi=dpi)
    assert list(tmp_path.iterdir()) == []


# Searches


def test_spaces_of_other_kinds_are_refused(searched, stock):
    for config in (searched, stock.config):
        is_refused("config must be a FATR model's configuration, such as model.config", default_space, config)
    for options in ({"windows": 2}, {"macs_range": 0.5}, {"token_multiples": "1"}, {"size_exponents": 0.5}):
        is_refused(f"{next(iter(options))} must be a list, not", default_space, searched.config, **options)
    for exponents in ([1.5], ["0.5"], [math.nan], [True]):
        is_refused(r"size_exponents=.* must lie in \[0, 1\]", default_space, searched.config, size_exponents=exponents)
    for shares in ((30, 95), ("0.3", "0.9"), (0.3, math.nan), (0.3, True)):
        is_refused(
            "macs_range=.* must be two rising numbers between 0 and 1",
            default_space,
            searched.config,
            macs_range=shares,
        )
    is_refused("a slot must be a Slot, not a tuple", SearchSpace, ((0, 0),), (1,), 1)
    is_refused(r"windows=\[1, 1\] must hold each value once", SearchSpace, (Slot(0, 0),), (1, 1), 1)


def test_choices_of_a_search_are_checked_before_a_model_runs(searched, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a model ran")

    monkeypatch.setattr(type(searched), "forward", refuse)
    images = make_images(2)
    is_refused("Unknown quality 'f1'", search_schedules, searched, images, quality="f1")
    is_refused("space must be a SearchSpace", search_schedules, searched, images, space=searched.config)
    is_refused("on_trial=None must be a function", search_schedules, searched, images, on_trial=None)
    is_refused("objective='flops' must be one of macs, latency", rival_points, searched, images, "flops")
    is_refused("Unknown quality 'top1'", rival_points, searched, images, quality="top1")
    is_refused("Unknown rival 'truncation'", rival_points, searched, images, names=["truncation"])
    is_refused("names must be a list, not 'tome'", rival_points, searched, images, names="tome")
    for schedule in (SCHEDULE.fields, searched.config, images):
        is_refused(r"schedule must be a Schedule, such as result\.best_at", check_schedule, searched, schedule, images)
    is_refused("Unknown rival 'unreduced'", check_schedule, searched, SCHEDULE, images, rival="unreduced")
    is_refused("groups='ab' must be a list of names", check_schedule, searched, SCHEDULE, images, groups="ab")


def test_a_schedule_that_reduces_nothing_is_not_checked(searched):
    is_refused("reduces nothing, so the rival 'tome'", check_schedule, searched, Schedule(), make_images(2))


def test_a_search_that_fails_leaves_the_model_as_it_was(searched):
    before, calls = searched.config.to_dict(), iter(range(4))

    def fail(module, arguments):
        if next(calls, None) is None:
            raise RuntimeError("unplugged")

    searched.vit.layers[2].register_forward_pre_hook(fail)
    for run in (search_schedules, rival_points, lambda *given: check_schedule(given[0], SCHEDULE, given[1])):
        with pytest.raises(RuntimeError, match="unplugged"):
            run(searched, make_images(2))
        assert searched.config.to_dict() == before
        assert searched.vit.reduction_enabled


# What is drawn and written


def test_figures_are_of_analyses_by_name(analysis):
    for figure in (collapse_figure, spectrum_figure):
        for given in (analysis, [analysis], None):
            is_refused("analyses must be a mapping from names to analyses", figure, given)
        is_refused("There are no analyses to draw", figure, {})
        is_refused("an analysis must be what analyze gave, not 3", figure, {"FATR": 3})
    for figure in (token_kinds_figure, attention_figure):
        is_refused("an analysis must be what analyze gave, not a dict", figure, {"FATR": analysis})
    for function in (analysis_figures, analysis_table):
        is_refused("analysis must be what analyze gave, not a dict", function, {"FATR": analysis})


def test_a_panel_has_measures_of_one_number(analysis):
    is_refused(
        "'effectiv_rank' is no measure of one number",
        collapse_figure,
        {"a": analysis},
        ["stable_rank", "effectiv_rank"],
    )
    is_refused("'spectrum' is no measure of one number", collapse_figure, {"a": analysis}, ["spectrum"])


def test_rows_are_those_of_noise(analysis):
    for rows in (analysis, [1, 2], None):
        is_refused("rows must be what noise_sensitivity gave", noise_figure, rows)
    is_refused("measure='agreement' must be one of those that were measured: none", noise_figure, ())


def test_comparisons_are_those_of_analysis(analysis):
    for other in (OtherComparison, analysis):
        for function in (comparison_table, comparison_figure):
            is_refused(r"comparison must be what fatr_hf\.analysis\.compare gave, not", function, other)


def test_pictures_are_of_traces(trace, analysis, tmp_path):
    for given in (trace, analysis):
        is_refused("images must be a list, not", plot_grid, given)
        is_refused("images must be a list, not", save_animation, given, tmp_path / "kept.gif")
    for plot in (plot_kept, plot_scores):
        is_refused("an image must be what trace_image gave", plot, [trace])
    is_refused("an image must be what trace_image gave", plot_grid, [analysis])


def test_traces_are_of_named_images_and_their_processor(fatr):
    image = noise_image()
    for other in (image.picture, "cat.jpg", [image], PROCESSOR):
        is_refused(
            r"image must be a NamedImage, such as load_images\(path\)\[0\], not", trace_image, fatr, other, PROCESSOR
        )
    for other in (None, fatr, "processor"):
        is_refused("processor must be the model's image processor, not", trace_image, fatr, image, other)
    for names, words in ((["unreduced"], "Unknown rival 'unreduced'"), ("tome", "names must be a list")):
        is_refused(words, trace_rivals, fatr, image, PROCESSOR, names)
    for images in ([PIL.Image.new("RGB", (9, 9))], image, ["cat.jpg"]):
        is_refused("an image must be a NamedImage", random_crops, images, 2)


def test_pixels_have_the_shapes_that_pictures_have(trace):
    is_refused(
        r"must be a tensor \(channels, height, width\), not \(1, 3, 32, 32\)",
        seen_pixels,
        torch.zeros(1, 3, 32, 32),
        PROCESSOR,
    )
    is_refused("pixel_values must be a tensor", seen_pixels, PROCESSOR, torch.zeros(3, 32, 32))
    for shape in ((3, 32, 32), (30, 32, 3), (32, 30, 3), (32, 32)):
        is_refused(
            r"must be \(height, width, 3\), divisible into 8 x 8 patches",
            reduced_pixels,
            torch.zeros(shape),
            trace.layers[1],
        )


def test_files_that_cannot_be_written_are_refused(trace, tmp_path):
    figure = Figure(figsize=(1, 1))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.gif").mkdir()
    is_refused(r"folder\.png cannot be written: it is a folder", save_figure, figure, tmp_path / "folder.png")
    is_refused(r"folder\.gif cannot be written: it is a folder", save_animation, [trace], tmp_path / "folder.gif")
    is_refused("path must be the name of a file, not a matplotlib.figure.Figure", save_figure, "figure.png", figure)
    is_refused("path must be the name of a file, not None", save_figure, figure, None)
    is_refused(
        r"figure must be a matplotlib\.figure\.Figure, not a fatr_hf", save_figure, trace, tmp_path / "figure.png"
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder.gif", "folder.png"]


@pytest.mark.parametrize(
    "name", ["n" * 250 + ".png", os.fsdecode(b"caf\xe9.png"), "a\nb$_^$.png"], ids=["long", "latin-1", "odd"]
)
def test_files_of_any_name_are_written_whole(trace, tmp_path, name):
    save_figure(plot_kept(trace._replace(name=name)), tmp_path / name)
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_pages_are_of_a_diagnosis_and_names(fatr, analysis, pixel_values):
    diagnosis = diagnose(fatr, pixel_values)
    for page in (html_page, text_page):
        is_refused("diagnosis must be what diagnose gave, not 'm'", page, "m", diagnosis, "pictures")
        is_refused("model must be the model's name, not a fatr_hf", page, diagnosis, fatr, "pictures")
        is_refused("images must be words for the images, not None", page, diagnosis, "m", None)
        assert r"caf\xe9" in page(diagnosis, os.fsdecode(b"caf\xe9"), "a\nb")
        page(diagnosis, os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xe9")).encode("utf-8")
    is_refused("diagnosis must be what diagnose gave", find, analysis)
    for function in (front_table, search_figure):
        is_refused("result must be what search_schedules gave", function, diagnosis)


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"images": 1, "tokens": 2, "rows": 3}', "null"])
@pytest.mark.parametrize("kind", [Analysis, Comparison, Diagnosis, SearchResult], ids=lambda kind: kind.__name__)
def test_other_files_are_refused(kind, text):
    is_refused("This is no .*, which to_json writes: ", kind.from_json, text)


# Tensors


def test_tokens_are_batches_of_matrices():
    for function in (effective_rank, high_frequency_share, mean_pairwise_cosine):
        for tokens in (TOKENS[0], TOKENS[None]):
            is_refused(r"tokens of the shape .* must be \(batch, tokens, hidden\)", function, tokens)
    is_refused(r"shares=\[70\] must lie in \(0, 1\]", column_mass, TOKENS[0], [70])
    for share in (70, 0, math.nan):
        is_refused("share=.* must lie between 0 and 1", highest, TOKENS[0], share)


def test_groups_are_those_of_the_tokens():
    groups = torch.zeros(2, 9, dtype=torch.int64)
    for tokens, given in ((TOKENS, groups[:, :5]), (TOKENS, groups.float()), (groups, TOKENS), (TOKENS[0], groups[0])):
        is_refused(r"must be \(batch, tokens\) int64, and tokens", pooling_loss, tokens, given)
    is_refused(
        r"column_sums of the shape \(2, 3\) must be one number for each token", mixing_bound, TOKENS, torch.ones(2, 3)
    )
    for keep in (0.7, "3", True):
        is_refused("keep=.* must be an integer in 1 to 9", expected_random_energy, TOKENS, keep)
    for prefix in (9, -1, 0.5):
        is_refused("num_prefix=.* must leave patches of the 9 tokens", expected_random_energy, TOKENS, 3, prefix)
