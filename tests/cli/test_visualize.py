"""`fatr-hf visualize`: pictures of all kinds, and what it refuses."""

import json

import PIL.Image
import pytest
import torch
from matplotlib.animation import FFMpegWriter
from transformers import BeitConfig, BeitModel, ViTImageProcessor

from fatr_hf import FATRViTForImageClassification
from fatr_hf.analysis.images import load_images, to_batch
from fatr_hf.cli import visualize

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture
def pictures(tmp_path):
    """A folder of three pictures of noise, in sub-folders."""
    for name in ("a/one.png", "b/three.png", "b/two.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.frombytes("RGB", (40, 30), bytes(torch.randint(0, 256, (3600,)).tolist())).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def model_folder(fatr_folder):
    PROCESSOR.save_pretrained(fatr_folder)
    return fatr_folder


@pytest.fixture
def beit_folder(tmp_path, tiny):
    BeitModel(BeitConfig(**tiny)).save_pretrained(tmp_path / "beit")
    PROCESSOR.save_pretrained(tmp_path / "beit")
    return tmp_path / "beit"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, as they are."""
    figures = []
    save = visualize.save_figure
    monkeypatch.setattr(visualize, "save_figure", lambda figure, *rest: figures.append(figure) or save(figure, *rest))
    return figures


def labels(figure):
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def test_a_stock_model_is_reduced_as_asked(invoke, stock_folder, pictures, drawn, tmp_path):
    output, values = tmp_path / "kept.png", tmp_path / "kept.json"
    reduction = ["--keep-ratio", "0.5,0.7", "--reduction-layers", "1,2", "--dc-windows", "4,2"]
    result = invoke("visualize", stock_folder, pictures, "--output", output, *reduction, "--json", values)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout == f"one: 49, 27 of 65 tokens after layers 1, 2\nWrote {output}.\n"
    assert output.read_bytes().startswith(b"\x89PNG")
    assert labels(drawn[0]) == ["one"]
    model = FATRViTForImageClassification.from_pretrained(
        stock_folder, keep_ratio=[0.5, 0.7], reduction_layers=[1, 2], dc_windows=[4, 2]
    )
    pixel_values = to_batch(load_images(pictures, 1), PROCESSOR).pixel_values
    sources = model(pixel_values, output_token_sources=True).token_sources
    [image] = json.loads(values.read_text())["images"]
    for layer, source, kept in zip(image["layers"], sources, (32, 22), strict=True):
        assert layer["kept"] == [patch for patch, place in enumerate(source[0].tolist()) if place <= kept]


def test_scores_in_chosen_layers(invoke, model_folder, pictures, drawn, tmp_path):
    output = tmp_path / "scores.svg"
    picture = pictures / "b" / "two.png"
    result = invoke("visualize", model_folder, picture, "--kind", "scores", "--layers", "0, 3", "--output", output)
    assert result.exit_code == 0, result.stderr
    assert "<svg" in output.read_text()
    *panels, bar = drawn[0].axes
    assert [axes.get_title() for axes in panels] == ["input:\n65 tokens", "layer 0:\n65 tokens", "layer 3:\n32 tokens"]
    assert bar.get_ylabel() == "times the uniform\nshare 1/N"


def test_a_grid_shows_as_many_images_as_allowed(invoke, model_folder, pictures, drawn, tmp_path):
    arguments = ["visualize", model_folder, pictures, "--kind", "grid", "--output", tmp_path / "grid.pdf"]
    assert invoke(*arguments).exit_code == 0
    assert invoke(*arguments, "--limit", 2, "--keep-ratio", 0.5, "--dpi", 50).exit_code == 0
    assert [labels(figure) for figure in drawn] == [["one", "three", "two"], ["one", "three"]]
    assert drawn[1].axes[1].get_title() == "after layer 1:\n37 of 65 tokens"


def test_rivals_have_a_row_each(invoke, stock_folder, pictures, drawn, tmp_path):
    output = tmp_path / "rivals.png"
    result = invoke("visualize", stock_folder, pictures, "--kind", "rivals", "--output", output, "--preset", "local")
    assert result.exit_code == 0, result.stderr
    assert labels(drawn[0]) == ["FATR", "random", "EViT", "ToMe", "pooling"]
    assert [line.partition(":")[0] for line in result.stdout.splitlines()[:-1]] == labels(drawn[0])


def test_an_animation(invoke, model_folder, pictures, tmp_path):
    output = tmp_path / "kept.gif"
    result = invoke("visualize", model_folder, pictures, "--layers", 1, "--dpi", 40, "--output", output)
    assert result.exit_code == 0, result.stderr
    with PIL.Image.open(output) as animation:
        assert animation.n_frames == 4


def test_scores_of_another_vision_transformer(invoke, beit_folder, pictures, drawn, tmp_path):
    arguments = ["--kind", "scores", "--layers", 2, "--output", tmp_path / "scores.png"]
    result = invoke("visualize", beit_folder, pictures, *arguments)
    assert result.exit_code == 0, result.stderr
    assert drawn[0].axes[1].get_title() == "layer 2:\n65 tokens"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kind", "abacus"], "Unknown kind 'abacus': choose from kept, scores, grid, rivals."),
        (["--limit", 2], "--limit is for --kind grid"),
        (["--output", "kept.bmp"], "its name must end in one of .png, .svg, .pdf, .gif, .mp4"),
        (["--output", "missing/kept.png"], "there is no folder missing"),
        (["--output", "kept.mp4"], "ffmpeg is not installed"),
        (["--json", "missing/kept.json"], "there is no folder missing"),
        (["--kind", "scores", "--output", "scores.gif"], "Scores are drawn as one of .png, .svg, .pdf"),
        (["--layers", "three"], "'three' is no list of layers"),
        (["--layers", "12"], "must be integers from 0 to 3"),
        (["--keep-ratio", "3"], "keep_ratio=3.0 must lie in (0, 1]"),
        (["--preset", "local"], "a preset is for a checkpoint that is not"),
    ],
)
def test_refusals(refused, model_folder, pictures, monkeypatch, tmp_path, options, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    before = set(tmp_path.rglob("*"))
    assert words in refused("visualize", model_folder, pictures, "--output", "kept.png", *options)
    assert set(tmp_path.rglob("*")) == before


def test_models_and_images_that_do_not_serve_are_refused(refused, fatr_folder, beit_folder, pictures, tmp_path):
    output = ["--output", tmp_path / "kept.png"]
    assert "no image processor" in refused("visualize", fatr_folder, pictures, *output)
    assert "No checkpoint" in refused("visualize", tmp_path / "missing", pictures, *output)
    assert "does not exist" in refused("visualize", fatr_folder, tmp_path / "missing", *output)
    assert "name the layers" in refused("visualize", beit_folder, pictures, *output)
    assert "cannot be given a reduction" in refused("visualize", beit_folder, pictures, *output, "--keep-ratio", 0.5)
    assert "Rivals are those of a FATR model" in refused(
        "visualize", beit_folder, pictures, *output, "--kind", "rivals"
    )
