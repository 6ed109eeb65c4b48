import math
import re
from pathlib import Path

import pytest
import torch
from picture_cases import PROCESSOR, noise_image
from transformers import ViTImageProcessor

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.analysis.image_trace import (
    ImageTrace,
    PatchMap,
    boundaries,
    hatching,
    token_boundaries,
    trace_image,
    trace_rivals,
)
from fatr_hf.analysis.images import to_batch
from fatr_hf.analysis.pictures import COLUMNS, KEPT_CAPTION, plot_grid, plot_kept, plot_scores

PAGE = Path(__file__).parents[2] / "docs" / "pictures.md"


def contents(axes):
    """What a panel shows, as a tensor."""
    return torch.as_tensor(axes.images[0].get_array().filled(math.nan))


def segments(collection):
    return {tuple(map(tuple, line)) for line in collection.get_segments()}


def as_segments(lines):
    return {tuple((float(x), float(y)) for x, y in line) for line in lines}


def titles(figure):
    return [axes.get_title().replace("\n", " ") for axes in figure.axes]


@pytest.fixture
def image():
    return noise_image()


@pytest.fixture
def model(make_sharp_fatr):
    return make_sharp_fatr()


@pytest.fixture
def trace(model, image):
    return trace_image(model, image, PROCESSOR)


def test_kept_has_a_panel_for_the_input_and_each_layer_that_reduces(trace):
    figure = plot_kept(trace)
    assert titles(figure) == [
        "input: 65 tokens",
        "after layer 1: 49 of 65 tokens",
        "after layer 2: 32 of 65 tokens",
        "after layer 3: 23 of 65 tokens",
    ]
    assert figure.axes[0].get_ylabel() == "noise"
    assert figure.get_supxlabel().replace("\n", " ") == KEPT_CAPTION


def test_patches_in_detail_are_those_that_the_model_keeps(trace, model, image):
    outputs = model(to_batch([image], PROCESSOR).pixel_values, output_token_sources=True)
    figure = plot_kept(trace)
    whole = contents(figure.axes[0])
    for axes, source, kept in zip(figure.axes[1:], outputs.token_sources, [44, 30, 21], strict=True):
        for patch, place in enumerate(source[0].tolist()):
            row, column = 4 * (patch // 8), 4 * (patch % 8)
            shown = contents(axes)[row : row + 4, column : column + 4]
            detail = torch.equal(shown, whole[row : row + 4, column : column + 4])
            flat = torch.equal(shown, shown[:1, :1].expand(4, 4, 3))
            assert (detail, flat) == ((True, False) if place <= kept else (False, True))


def test_lines_are_the_boundaries_of_tokens_and_hatching(trace):
    for axes, patches in zip(plot_kept(trace).axes[1:], trace.layers[1:], strict=True):
        white_hatching, black_hatching, white, black = (segments(each) for each in axes.collections)
        assert white_hatching == black_hatching == as_segments(hatching(patches))
        assert white == black == as_segments(token_boundaries(patches))


def test_layers_can_be_chosen(trace):
    assert titles(plot_kept(trace, [0, 3]))[1:] == ["after layer 0: 65 of 65 tokens", "after layer 3: 23 of 65 tokens"]
    assert titles(plot_scores(trace, [0]))[:2] == ["input: 65 tokens", "layer 0: 65 tokens"]


def test_panels_of_many_layers_flow(trace):
    figure = plot_kept(trace, [0, 1, 2, 3])
    assert [axes.get_subplotspec().rowspan.start for axes in figure.axes] == [0] * COLUMNS + [1]


def test_dropped_patches_are_white(make_fatr, image):
    trace = trace_image(make_fatr(dc_windows=0), image, PROCESSOR)
    shown = contents(plot_kept(trace).axes[1])
    dropped = ~trace.layers[1].own.repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert (shown[dropped] == 1).all()


def test_heat_maps_show_the_scores(trace):
    figure = plot_scores(trace)
    *panels, bar = figure.axes
    assert titles(figure)[:4] == ["input: 65 tokens", "layer 1: 65 tokens", "layer 2: 49 tokens", "layer 3: 32 tokens"]
    for axes, patches in zip(panels[1:], trace.layers[1:], strict=True):
        expected = patches.scores.clamp(min=1 / 16)
        torch.testing.assert_close(contents(axes), expected, equal_nan=True)
        assert axes.images[0].get_cmap().name == "viridis"
        assert [segments(each) for each in axes.collections] == [as_segments(boundaries(patches.own))] * 2
    assert bar.get_ylabel() == "times the uniform\nshare 1/N"


def with_scores(scores):
    own = torch.ones(scores.shape, dtype=torch.bool)
    source = torch.arange(1, 1 + scores.numel()).view(scores.shape)
    return ImageTrace("image", torch.rand(8, 8, 3), (PatchMap(0, 17, 17, source, own, scores),))


@pytest.mark.parametrize(
    ("scores", "limits", "ticks"),
    [
        (torch.full((4, 4), 1.01), (0.5, 2), ["0.5", "1", "2"]),
        (torch.linspace(0.3, 5, 16).view(4, 4), (0.3, 5), ["0.5", "1", "2", "4"]),
        (torch.linspace(0, 64, 16).view(4, 4), (1 / 16, 64), ["0.0625", "0.25", "1", "4", "16", "64"]),
    ],
    ids=["near uniform", "usual", "a wide range with a zero"],
)
def test_the_scale_of_scores_is_logarithmic_with_powers_of_two(scores, limits, ticks):
    *_, heat_map, bar = plot_scores(with_scores(scores), [0]).axes
    assert heat_map.images[0].get_clim() == pytest.approx(limits)
    assert [label.get_text() for label in bar.get_yticklabels()] == ticks


def test_a_grid_has_a_row_for_each_image(model):
    images = [noise_image(name, 40, 20) for name in ("first", "second", "a name that is much too long to show")]
    figure = plot_grid([trace_image(model, image, PROCESSOR) for image in images])
    assert len(figure.axes) == 3 * 4
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["first", "second", "a name that is much to…"]
    assert titles(figure)[4:8] == titles(plot_kept(trace_image(model, images[0], PROCESSOR)))
    shown = contents(figure.axes[8])
    torch.testing.assert_close(shown, trace_image(model, images[2], PROCESSOR).pixels)


def test_rivals_stand_below_fatr_in_the_same_layers(model, image):
    figure = plot_grid(trace_rivals(model, image, PROCESSOR, ["evit", "tome"]), [1, 3])
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["FATR", "EViT", "ToMe"]
    assert titles(figure)[4:6] == ["after layer 1: 47 of 65 tokens", "after layer 3: 26 of 65 tokens"]


def test_panels_have_the_shape_of_grid_and_image(tiny):
    size = {"image_size": (16, 64), "patch_size": (4, 8), "num_channels": 1}
    config = FATRViTConfig(**{**tiny, **size}, keep_ratio=0.5)
    processor = ViTImageProcessor(size={"height": 16, "width": 64}, image_mean=[0.5], image_std=[0.5])
    trace = trace_image(FATRViTForImageClassification(config).eval(), noise_image("wide", 99, 99), processor)
    assert trace.layers[0].source.shape == (4, 8)
    figure = plot_kept(trace)
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert contents(axes).shape == (16, 64, 3)
        assert axes.images[0].get_extent() == [0, 8, 4, 0]
        box = axes.get_window_extent()
        assert box.width / box.height == pytest.approx(64 / 16, rel=1e-3)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 80), (80, 20)], ids=["square", "wide", "tall"])
def test_no_texts_overlap(height, width):
    rows, columns = height // 4, width // 4
    source = torch.randint(1, 9, (rows, columns))
    patches = PatchMap(11, 1000, 1000, source, source < 4, torch.rand(rows, columns))
    trace = ImageTrace("a name that is much too long to show", torch.rand(height, width, 3), (patches,) * 4)
    for figure in (plot_kept(trace, range(4)), plot_scores(trace, range(4)), plot_grid([trace] * 2, range(3))):
        figure.draw_without_rendering()
        texts = [text for axes in figure.axes for text in (axes.title, axes.yaxis.label, *axes.get_yticklabels())]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
        assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
        for place, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:place])


@pytest.mark.parametrize(
    ("layers", "words"),
    [([4], r"layers=\[4\] must be integers from 0 to 3"), ([-1], "integers from 0 to 3"), ([], "at least one")],
    ids=["too high", "negative", "none"],
)
def test_layers_that_do_not_exist_are_refused(trace, layers, words):
    for plot in (plot_kept, plot_scores, lambda image, layers: plot_grid([image], layers)):
        with pytest.raises(ValueError, match=words):
            plot(trace, layers)


def test_a_model_that_does_not_reduce_needs_layers(make_fatr, image):
    trace = trace_image(make_fatr(keep_ratio=1.0), image, PROCESSOR)
    with pytest.raises(ValueError, match="No layer of this model reduces"):
        plot_kept(trace)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        plot_grid([])


def test_scores_without_attention_maps_are_refused(make_fatr, image):
    with pytest.raises(ValueError, match="attn_implementation='eager'"):
        plot_scores(trace_image(make_fatr(), image, PROCESSOR))


def test_the_pages_example_runs(model, tmp_path, monkeypatch):
    folder = tmp_path / "outputs" / "photographs" / "model"
    model.save_pretrained(folder)
    PROCESSOR.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(code, {})
    written = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert written == {"kept.svg", "scores.pdf", "grid.png", "rivals.png", "kept.gif"}


@pytest.mark.parametrize("path", sorted((PAGE.parent / "figures").glob("pictures-*")), ids=lambda path: path.name)
def test_the_pages_figures_are_small_and_shown(path):
    assert path.stat().st_size < 300_000
    assert f"(figures/{path.name})" in PAGE.read_text()
