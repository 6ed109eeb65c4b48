"""The demo's page in a browser: what it shows are the library's numbers, by keyboard alone, on a phone too."""

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoImageProcessor

from fatr_hf import FATRViTForImageClassification
from fatr_hf.analysis.images import photographs
from fatr_hf.baselines.macs import count_macs

CONTROLS = [
    *("astronaut", "cat", "coffee", "rocket", "camera", "coins", "moon", "retina", "hubble deep field"),
    "Click to upload or drop files",
    *("Preset: paper", "Preset: local"),
    *("number input for Keep ratio", "range slider for Keep ratio"),
    *("1, 1, 1", "2, 1, 1", "2, 2, 2", "4, 4, 4"),
    *("number input for DC size exponent", "range slider for DC size exponent"),
]

FOCUSED = """() => {
    const element = document.activeElement, style = getComputedStyle(element)
    const name = element.getAttribute('aria-label') || (element.labels ?? [])[0]?.innerText || element.innerText
    return [name.split('\\n')[0], style.outlineStyle == 'solid' && parseInt(style.outlineWidth) >= 2]
}"""

WIDEST = "Math.max(...[...document.querySelectorAll('*')].map(each => each.getBoundingClientRect().right))"


@pytest.fixture
def picture(tmp_path):
    """A file with a picture that is no square."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).resize((900, 600)).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


@pytest.fixture
def expect_numbers(model_folder):
    """Checks what a page shows against the library: predictions, multiply-accumulates, tokens, kept patches."""

    def predictions(model, pixel_values):
        with torch.no_grad():
            top = model(pixel_values).logits[0].softmax(dim=0).topk(5)
        labels = [model.config.id2label[place] for place in top.indices.tolist()]
        return [f"{label} {share:.1%}" for label, share in zip(labels, top.values.tolist(), strict=True)]

    def check(page, picture, **reduction):
        from playwright.sync_api import expect

        unreduced, reduced = (
            FATRViTForImageClassification.from_pretrained(model_folder, **fields).eval()
            for fields in ({"keep_ratio": 1.0}, reduction)
        )
        pixel_values = AutoImageProcessor.from_pretrained(model_folder)(picture, return_tensors="pt")["pixel_values"]
        expected = predictions(unreduced, pixel_values) + predictions(reduced, pixel_values)
        expect(page.get_by_role("listitem")).to_have_text(expected)
        before, after = (count_macs(model) for model in (unreduced, reduced))
        macs = f"Million multiply-accumulates {before / 1e6:.1f} {after / 1e6:.1f}"
        expect(page.get_by_role("row", name=macs, exact=True)).to_be_visible()
        expect(page.get_by_role("status").first).to_contain_text(f"{after / before:.2f} of the multiply-accumulates")
        for tokens in reduced.config.plan()[1:]:
            row = f"{tokens.layer} 65 {tokens.tokens_out}"
            expect(page.get_by_role("row", name=row, exact=True)).to_be_visible()
            caption = f"After layer {tokens.layer}: {tokens.patches_out} of 64 patches, {tokens.tokens_out} tokens"
            expect(page.get_by_role("img", name=caption, exact=True)).to_be_visible()

    return check


def tab_to(page, name):
    """Presses Tab until something has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED)[0] == name:
            return
    pytest.fail(f"{name} cannot be reached by Tab.")


def test_an_uploaded_picture_and_a_slider_moved_by_keyboard(visit, picture, expect_numbers):
    page = visit()
    page.locator("input[type=file]").set_input_files(picture)
    page.get_by_role("img", name="What the model sees: 900×600 pixels made 32×32, stretched or cropped").wait_for()
    expect_numbers(page, PIL.Image.open(picture))
    tab_to(page, "range slider for Keep ratio")
    for key in ("ArrowLeft", "PageDown"):
        page.keyboard.press(key)
    ratio = float(page.get_by_role("slider", name="Keep ratio").input_value())
    assert ratio < 0.69
    expect_numbers(page, PIL.Image.open(picture), keep_ratio=ratio)


def test_a_sample_photograph_and_a_preset_by_keyboard(visit, expect_numbers):
    page = visit()
    [rocket] = photographs(["rocket"])
    tab_to(page, "rocket")
    page.keyboard.press("Space")
    page.get_by_role("img", name="What the model sees: 640×427").wait_for()
    expect_numbers(page, rocket.picture)
    tab_to(page, "Preset: local")
    page.keyboard.press("Enter")
    expect_numbers(page, rocket.picture, keep_ratio=0.5, dc_windows=4, size_exponent=0.5)
    assert page.get_by_role("radio", name="4, 4, 4").is_checked()
    assert page.get_by_role("slider", name="DC size exponent").input_value() == "0.5"


def test_visitors_do_not_disturb_each_other(visit, expect_numbers):
    pages = {ratio: visit() for ratio in (0.4, 0.9)}
    for ratio, page in pages.items():
        page.get_by_role("spinbutton", name="Keep ratio").fill(str(ratio))
    [cat] = photographs(["cat"])
    for ratio, page in pages.items():
        expect_numbers(page, cat.picture, keep_ratio=ratio)


def test_what_cannot_be_done_is_said_in_words(visit, tmp_path):
    page = visit()
    (tmp_path / "bad.png").write_text("no picture")
    page.locator("input[type=file]").set_input_files(tmp_path / "bad.png")
    page.get_by_text("bad.png cannot be read as a picture. Choose another file").wait_for()
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("Choose a sample photograph, or a picture of your own.").wait_for()
    page.get_by_role("radio", name="coffee").check()
    page.get_by_text("times as fast").wait_for()
    page.get_by_role("radio", name="4, 4, 4").check()
    page.get_by_role("spinbutton", name="Keep ratio").fill("0.9")
    page.get_by_text("The reduction at layer 1 would not shorten the sequence").wait_for()
    assert page.get_by_role("img", name="After layer").count() == 0


def test_every_control_is_reached_by_tab_and_shows_its_focus(visit):
    page, reached = visit(), []
    while not reached or reached[-1] != "range slider for DC size exponent":
        page.keyboard.press("Tab")
        name, is_outlined = page.evaluate(FOCUSED)
        assert is_outlined, f"{name} after {reached}"
        reached.append(name)
    assert reached == ["arXiv 2511.21477", *CONTROLS]


def test_a_phone_shows_it_all_without_scrolling_sideways(visit):
    assert visit(390, 844).evaluate(WIDEST) <= 390


def test_readers_who_do_not_see_the_page_are_told_everything(visit):
    page = visit()
    assert page.get_by_role("heading", level=1).count() == 1
    assert "first prediction" in page.get_by_role("status").first.inner_text()
    assert page.locator(".results svg:not([role=img][aria-label])").count() == 0
    assert page.get_by_role("img", name="After layer").count() == 3
    assert page.get_by_role("columnheader", name="Reduced", exact=True).count() == 2
