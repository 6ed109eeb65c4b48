"""`fatr-hf analyze` and `compare`: what they measure, print and write, and what they refuse."""

import json

import pytest
import torch
from PIL import Image
from skimage import data as photographs
from transformers import AutoModelForImageClassification, Dinov2Config, Dinov2Model, ViTImageProcessor

from fatr_hf import FATRViTForImageClassification
from fatr_hf.analysis.analyze import Analysis, analyze
from fatr_hf.analysis.compare import Comparison
from fatr_hf.analysis.images import load_images, to_batch


@pytest.fixture
def images(tmp_path):
    """Two pictures in folders that are classes of the tiny models."""
    for name in ("LABEL_0", "LABEL_3"):
        (tmp_path / "images" / name).mkdir(parents=True)
        picture = Image.fromarray(photographs.cat() if name == "LABEL_0" else photographs.coffee())
        picture.resize((60, 48)).save(tmp_path / "images" / name / "picture.png")
    return tmp_path / "images"


@pytest.fixture
def reduced_folder(fatr_folder):
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(fatr_folder)
    return fatr_folder


def pixel_values(images):
    return to_batch(load_images(images), ViTImageProcessor(size={"height": 32, "width": 32}))


def test_analysis_is_printed_written_and_drawn(invoke, reduced_folder, images, tmp_path):
    outputs = ["--json", tmp_path / "analysis.json", "--figures", tmp_path / "new" / "figures", "--format", "svg"]
    result = invoke("analyze", reduced_folder, images, "--noise", "--device", "cpu", *outputs)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "analysis.json").read_text())
    model = FATRViTForImageClassification.from_pretrained(reduced_folder, attn_implementation="eager").eval()
    expected = analyze(model, pixel_values(images).pixel_values)
    assert Analysis.from_dict(written) == expected
    assert {row["measure"] for row in written["noise"]} >= {"cosine_high", "cosine_low", "accuracy_high"}
    drawn = sorted(path.name for path in (tmp_path / "new" / "figures").iterdir())
    assert drawn == ["attention.svg", "collapse.svg", "noise.svg", "spectrum.svg", "tokens.svg"]
    lines = result.stdout.splitlines()
    assert lines[0].startswith("| layer | tokens | high frequency energy |")
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["65", "65", "49", "32", "23"]


def test_analysis_of_any_vision_transformer(invoke, images, tmp_path):
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=4)
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "dinov2")
    result = invoke("analyze", tmp_path / "dinov2", images, "--measures", "stable_rank,attention_entropy")
    assert result.exit_code == 0, result.output
    assert "| layer | tokens | stable rank | attention entropy |" in result.stdout


def test_comparison_is_printed_written_and_drawn(invoke, reduced_folder, images, tmp_path):
    outputs = ["--json", tmp_path / "comparison.json", "--plot", tmp_path / "comparison.png"]
    result = invoke("compare", reduced_folder, images, "--rivals", "tome,unreduced", *outputs)
    assert result.exit_code == 0, result.output
    comparison = Comparison.from_json((tmp_path / "comparison.json").read_text())
    assert [each.name for each in comparison.contenders] == ["unreduced", "FATR", "tome"]
    first = comparison.contenders[0]
    assert first.answers["agreement"].mean == 1
    stock = AutoModelForImageClassification.from_pretrained(reduced_folder).eval()
    batch = pixel_values(images)
    with torch.no_grad(), stock.reduction(False):
        right = stock(batch.pixel_values).logits.argmax(dim=1) == torch.tensor([0, 3])
    assert first.answers["accuracy"].mean == right.double().mean()
    assert "| FATR | " in result.stdout
    assert (tmp_path / "comparison.png").stat().st_size > 1000


def test_an_unreduced_checkpoint_is_compared_as_it_would_be_reduced(invoke, stock_folder, images):
    result = invoke("compare", stock_folder, images, "--rivals", "unreduced", "--keep-ratio", "0.5")
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("|")] for line in result.stdout.splitlines()[2:4]]
    assert [row[1] for row in rows] == ["unreduced", "FATR"]
    tokens = result.stdout.splitlines()[0].split("|").index(" tokens left ")
    assert [row[tokens] for row in rows] == ["65", "10"]


def test_every_field_of_the_reduction_is_an_option(invoke, stock_folder, images, tmp_path):
    reduction = ["--selection", "random", "--size-exponent", "1", "--dc-windows", "4", "--token-multiple", "2"]
    words = ["--rivals", "unreduced,random", *reduction, "--json", tmp_path / "comparison.json"]
    result = invoke("compare", stock_folder, images, *words)
    assert result.exit_code == 0, result.output
    _, reduced, rival = Comparison.from_json((tmp_path / "comparison.json").read_text()).contenders
    assert reduced.analysis == rival.analysis
    assert reduced.analysis.tokens == (65, 65, 60, 46, 36)


def test_another_model_beside(invoke, reduced_folder, stock_folder, images):
    result = invoke("compare", reduced_folder, images, "--rivals", "unreduced", "--beside", stock_folder)
    assert result.exit_code == 0, result.output
    assert [line.split("|")[1].strip() for line in result.stdout.splitlines()[2:]] == [
        "unreduced",
        "FATR",
        str(stock_folder),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["analyze", "MODEL", "IMAGES", "--measures", "abacus"], "Unknown measure 'abacus'"),
        (["analyze", "MODEL", "IMAGES", "--format", "gif"], "--format gif must be one of png, svg, pdf"),
        (["analyze", "MODEL", "no/such/folder"], "no/such/folder does not exist"),
        (["analyze", "MODEL", "MODEL"], "holds no pictures"),
        (["analyze", "MODEL", "IMAGES", "--device", "abacus"], "There is no device 'abacus' here"),
        (["analyze", "no/such/model", "IMAGES"], "No checkpoint can be read from 'no/such/model'"),
        (["compare", "MODEL", "IMAGES", "--rivals", "abacus"], "Unknown rival 'abacus'"),
        (["compare", "MODEL", "IMAGES", "--plot", "plot.gif"], "must end in one of .png, .svg, .pdf"),
        (["compare", "MODEL", "IMAGES", "--json", "no/folder/x.json"], "there is no folder no/folder"),
        (["compare", "MODEL", "IMAGES", "--preset", "local"], "is reduced already: a preset is for a checkpoint"),
        (["compare", "MODEL", "IMAGES", "--keep-ratio", "3"], "keep_ratio=3.0 must lie in (0, 1]"),
    ],
    ids=lambda value: "-".join(value[3:] or value[1:]) if isinstance(value, list) else "",
)
def test_refusals(refused, reduced_folder, images, words, message):
    places = {"MODEL": reduced_folder, "IMAGES": images}
    assert message in refused(*(places.get(word, word) for word in words))


def test_a_checkpoint_without_an_image_processor_is_refused(refused, fatr_folder, images):
    assert "has no image processor" in refused("analyze", fatr_folder, images)


def test_the_frontier_is_drawn_printed_and_written(invoke, stock_folder, images, tmp_path):
    outputs = ["--frontier", tmp_path / "frontier.svg", "--json", tmp_path / "frontier.json"]
    options = ["--budgets", "0.7", "--batch-sizes", "1", "--methods", "tome,paper,random"]
    result = invoke("compare", stock_folder, images, *options, *outputs)
    assert result.exit_code == 0, result.stderr
    assert "| 0.7 | FATR, as published |" in result.stdout
    assert "agreement, difference to ToMe (95% interval)" in result.stdout
    points = json.loads((tmp_path / "frontier.json").read_text())["points"]
    assert [each["method"] for each in points] == ["tome", "paper", "random"]
    assert (tmp_path / "frontier.svg").stat().st_size > 1000


def test_methods_without_the_frontier_are_refused(refused, stock_folder, images):
    words = refused("compare", stock_folder, images, "--methods", "tome")
    assert "--methods is for --frontier; without it choose by --rivals" in words


def test_the_frontier_refuses_what_it_does_not_look_at(refused, stock_folder, images, tmp_path):
    words = refused("compare", stock_folder, images, "--frontier", tmp_path / "frontier.svg", "--keep-ratio", "0.5")
    assert "leave --rivals, --beside, --plot and the reduction's options out" in words
