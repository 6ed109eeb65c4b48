"""The demo's page in a browser: what it shows are the library's numbers, by keyboard alone, on a phone too."""

import importlib

import numpy as np
import PIL.Image
import pytest
import torch

from fatr_hf.analysis.images import photographs
from fatr_hf.benchmark.frontier import outputs_of

METHODS = ("FATR, faithful", "FATR, as published", "ToMe")
CONTROLS = [
    *(
        "Picture",
        "Video",
        "astronaut",
        "cat",
        "coffee",
        "rocket",
        "camera",
        "coins",
        "moon",
        "retina",
        "hubble deep field",
    ),
    "Click to upload or drop files",
    *("number input for Share of the cost", "range slider for Share of the cost"),
    *("Earlier layers",) * 3,
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
    pixels = np.random.default_rng(2).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).resize((900, 600)).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


@pytest.fixture
def expect_numbers(loaded):
    """Checks what a page shows against the library: predictions, cosines, multiply-accumulates, tokens."""

    @torch.no_grad()
    def check(page, picture, budget):
        from playwright.sync_api import expect

        pixel_values = loaded.processor(picture, return_tensors="pt")["pixel_values"].double()
        contestants = loaded.contestants(budget)
        outputs = [outputs_of(each.model, pixel_values, each.plan) for each in contestants]
        items = []
        for output in outputs:
            top = output.logits[0].softmax(dim=0).topk(3)
            labels = [loaded.model.config.id2label[place] for place in top.indices.tolist()]
            items += [f"{label} {share:.1%}" for label, share in zip(labels, top.values.tolist(), strict=True)]
        expect(page.get_by_role("listitem")).to_have_text(items)
        for each, output in list(zip(contestants, outputs, strict=True))[1:]:
            card = page.locator("section:visible").filter(has=page.get_by_role("heading", name=each.label, exact=True))
            cosine = torch.cosine_similarity(output.patches, outputs[0].patches, dim=2).mean().item()
            expect(card.locator("dl")).to_contain_text(
                f"Cosine, patches{cosine:.3f}Multiply-accumulates{each.macs:.2f}"
            )
            last = [step for step in each.plan if step.reduces][-1]
            caption = f"After layer {last.layer}: {last.tokens_out} of 65 tokens"
            expect(card.get_by_role("img", name=caption, exact=True)).to_be_visible()

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
    page.locator("input[type=file]").first.set_input_files(picture)
    page.get_by_text("900×600 pixels made 32×32, stretched or cropped").wait_for()
    expect_numbers(page, PIL.Image.open(picture), 0.65)
    tab_to(page, "range slider for Share of the cost")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("slider", name="Share of the cost").input_value() == "0.7"
    expect_numbers(page, PIL.Image.open(picture), 0.7)


def test_a_sample_photograph_by_keyboard(visit, expect_numbers):
    page = visit()
    [rocket] = photographs(["rocket"])
    tab_to(page, "rocket")
    page.keyboard.press("Space")
    page.get_by_text("640×427 pixels").wait_for()
    expect_numbers(page, rocket.picture, 0.65)


def test_visitors_do_not_disturb_each_other(visit, expect_numbers):
    pages = {budget: visit() for budget in (0.7, 0.65)}
    pages[0.7].get_by_role("spinbutton", name="Share of the cost").fill("0.7")
    [cat] = photographs(["cat"])
    for budget, page in pages.items():
        expect_numbers(page, cat.picture, budget)


def test_what_cannot_be_done_is_said_in_words(visit, tmp_path):
    page = visit()
    (tmp_path / "bad.png").write_text("no picture")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "bad.png")
    page.get_by_text("bad.png cannot be read as a picture. Choose another file").wait_for()
    assert page.get_by_role("img", name="After layer").count() == 0
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("Choose a sample photograph, or a picture of your own.").wait_for()
    page.get_by_role("radio", name="coffee").check()
    page.locator(".summary", has_text="times as fast").wait_for()


def test_a_video_has_a_tab_of_its_own(visit, tmp_path):
    page = visit()
    page.get_by_role("tab", name="Video").click()
    sentence = page.locator(".summary:visible")
    sentence.filter(has_text="times as fast").wait_for()
    page.get_by_text("240×240 pixels made 32×32.").wait_for()
    assert page.get_by_role("heading", name="ToMe").count() == 1
    frames = [PIL.Image.effect_noise((64, 48), 90) for _ in range(3)]
    frames[0].save(tmp_path / "noise.gif", save_all=True, append_images=frames[1:])
    upload = page.locator("input[type=file]").last
    upload.set_input_files(tmp_path / "noise.gif")
    page.get_by_text("64×48 pixels made 32×32").wait_for()
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("240×240 pixels made 32×32.").wait_for()
    (tmp_path / "bad.mp4").write_text("no video")
    upload.set_input_files(tmp_path / "bad.mp4")
    page.get_by_text("bad.mp4 cannot be read as a video. Choose another file").wait_for()


def test_every_control_is_reached_by_tab_and_shows_its_focus(visit):
    page, reached = visit(), []
    while not reached or reached[-3:] != CONTROLS[-3:]:
        page.keyboard.press("Tab")
        name, is_outlined = page.evaluate(FOCUSED)
        assert is_outlined, f"{name} after {reached}"
        reached.append(name)
    assert reached == ["arXiv 2511.21477", "ToMe", *CONTROLS]


def test_a_phone_shows_it_all_without_scrolling_sideways(visit):
    assert visit(390, 844).evaluate(WIDEST) <= 390


def test_readers_who_do_not_see_the_page_are_told_everything(visit):
    page = visit()
    assert page.get_by_role("heading", level=1).count() == 1
    assert "times as fast as the unreduced model" in page.get_by_role("status").first.inner_text()
    assert page.get_by_role("heading", level=3).all_inner_texts() == ["Unreduced", *METHODS]
    assert page.locator(".results svg:not([role=img][aria-label])").count() == 0
    assert page.get_by_role("img", name="Features of").count() == 4


def test_without_a_model_of_videos_there_are_no_tabs(demo, loaded, loaded_video):
    gradio = importlib.import_module("gradio")
    for video, tabs in ((None, 0), (loaded_video, 2)):
        page = demo.app.build_page(loaded, video)
        assert sum(isinstance(block, gradio.Tab) for block in page.blocks.values()) == tabs
