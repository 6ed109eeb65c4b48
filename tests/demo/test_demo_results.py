"""A comparison as HTML, and the folder as a Space."""

import re

import pytest
import torch
from huggingface_hub import SpaceCard

from fatr_hf import FATRViTConfig
from fatr_hf.analysis.image_trace import PatchMap

SPACE_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


@pytest.fixture
def make_comparison(demo):
    """A comparison of a model of 8 layers, with or without another first prediction."""
    config = FATRViTConfig(num_hidden_layers=8, image_size=32, patch_size=4)

    def make(labels=("cat", "dog"), size=(90, 60)):
        source = torch.arange(1, 65).view(8, 8)
        source[4:] = 33
        patches = PatchMap(2, 65, 34, source, source < 33, None)
        schedules = config.plan(reduce=False), config.plan()
        answers = [
            demo.comparison.Answer(
                (demo.comparison.Prediction(label, 0.8), demo.comparison.Prediction("mouse", 0.015)),
                tuple(schedule),
                macs,
                kept,
            )
            for label, schedule, macs, kept in zip(
                labels, schedules, (2_000_000, 1_500_000), ((), (patches,)), strict=True
            )
        ]
        return demo.comparison.Comparison(size, torch.zeros(32, 32, 3), *answers)

    return make


def texts(html):
    return [text.strip() for text in re.findall(r">([^<>]+)<", html) if text.strip()]


@pytest.mark.parametrize(("labels", "word"), [(("cat", "dog"), "another"), (("cat", "cat"), "the same")])
def test_the_sentence_says_what_is_spared_and_what_stays(demo, make_comparison, labels, word):
    times = demo.comparison.Times(6.0, 4.0, "a machine")
    comparison = make_comparison(labels)
    assert demo.results.summary(comparison, None) == f"0.75 of the multiply-accumulates, {word} first prediction."
    assert demo.results.summary(comparison, times) == (
        f"0.75 of the multiply-accumulates, 1.50 times as fast, {word} first prediction."
    )


def test_layers_with_the_same_tokens_are_one_row(demo, make_comparison):
    rows = texts(demo.results.tokens(make_comparison()))
    # 65 tokens; 44 of 64 patches, 4 DC tokens and CLS; 30 and 1; 21 and 1
    assert rows[3:] == ["0 to 1", "65", "65", "2 to 3", "65", "49", "4 to 5", "65", "32", "6 to 7", "65", "23"]


def test_costs_say_what_was_measured_and_where(demo, make_comparison):
    html = demo.results.costs(make_comparison(), demo.comparison.Times(6.04, 4.0, "a <machine>"))
    assert texts(html)[2:8] == ["Million multiply-accumulates", "2.0", "1.5", "Milliseconds", "6.0", "4.0"]
    assert "on a &lt;machine&gt;: the median of 5 rounds" in html
    assert texts(demo.results.costs(make_comparison(), None))[5:8] == ["Milliseconds", "…", "…"]


def test_labels_are_shown_as_they_are_spelled(demo, make_comparison):
    html = demo.results.numbers(make_comparison(("<b>cat</b>", "dog & cat")), None)
    assert "&lt;b&gt;cat&lt;/b&gt;" in html
    assert "dog &amp; cat" in html
    assert "<i style='width:1.5%'>" in html


def test_pictures_say_what_they_show(demo, make_comparison):
    html = demo.results.pictures(make_comparison())
    captions = [
        "What the model sees: 90×60 pixels made 32×32, stretched or cropped",
        "After layer 2: 32 of 64 patches, 34 tokens",
    ]
    assert re.findall("role='img' aria-label='([^']+)'", html) == captions
    assert texts(html)[1:3] == captions
    # The lower half shares a token: a line above it, and a diagonal through each of its patches.
    paths = [path.count("M") for path in re.findall("d='([^']*)'", html)]
    assert paths == [32, 32, 8, 8]


def test_a_shape_that_is_kept_is_not_called_stretched(demo, make_comparison):
    assert demo.results.what_is_seen(make_comparison(size=(501, 500))).endswith("501×500 pixels made 32×32")


def test_the_folder_is_a_space(demo):
    folder = demo.folder
    card = SpaceCard.load(folder / "README.md").data.to_dict()
    assert card["sdk"] == "gradio"
    assert (folder / card["app_file"]).is_file()
    assert {card["colorFrom"], card["colorTo"]} <= set(SPACE_COLOURS)
    assert len(card["short_description"]) <= 60
    assert f'MODEL = "{card["models"][0]}"' in (folder / "app.py").read_text()
    assert "fatr-hf[demo]" in (folder / "requirements.txt").read_text().splitlines()
