"""A page that shows what the token reduction does to a picture: python examples/demo/app.py --model outputs/model.

On a Hugging Face Space the model is named by the variables FATR_MODEL and FATR_REVISION. What is computed is in
``comparison.py``, how it is shown in ``results.py``.
"""

import argparse
import os
from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import PIL.Image
from comparison import compare, measure, open_picture, pair_models
from loaded_model import LoadedModel, Settings, load
from results import numbers, pictures, summary

from fatr_hf.analysis.images import PHOTOGRAPHS, photographs
from fatr_hf.programs import run_program

MODEL = "google/vit-base-patch16-224"
TITLE = "A Vision Transformer with fewer tokens"
INTRODUCTION = """
# {title}

A Vision Transformer cuts a picture into patches and carries each as a token through all of its layers. Frequency-aware
token reduction ([arXiv 2511.21477](https://arxiv.org/abs/2511.21477)) keeps the tokens that carry fine detail and
averages the others into a few "DC" tokens, here in layers {layers} of `{name}`. The unreduced model beside it has the
same weights.
"""


def main() -> None:
    """Reads the command line, loads the model and serves the page."""
    parser = argparse.ArgumentParser(description="Serves a page that compares a ViT with itself, reduced.")
    parser.add_argument("--model", default=os.environ.get("FATR_MODEL", MODEL), help="folder or Hub name of a ViT")
    parser.add_argument("--revision", default=os.environ.get("FATR_REVISION"), help="branch, tag or commit on the Hub")
    parser.add_argument("--port", type=int, help="of the server; by default the first free one from 7860 on")
    parser.add_argument("--device", help="such as cuda:1 or cpu; by default cuda where there is one")
    arguments = parser.parse_args()
    loaded = load(arguments.model, arguments.revision, arguments.device)
    build_page(loaded).launch(
        server_port=arguments.port,
        theme=readable_theme(),
        css_paths=Path(__file__).with_name("style.css"),
        max_file_size="30mb",
        footer_links=[],
    )


def readable_theme() -> gr.themes.Base:
    """Gradio's own look in the fonts of the reader's system, and with darker small print."""
    theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    return theme.set(block_info_text_color="*neutral_600", body_text_color_subdued="*neutral_600")


def build_page(loaded: LoadedModel) -> gr.Blocks:
    """Controls on the left, results on the right."""
    layers = ", ".join(map(str, loaded.model.config.reduction_layers or ()))
    # Uploaded pictures are deleted within two hours.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(INTRODUCTION.format(title=TITLE, layers=layers, name=loaded.name))
        with gr.Row():
            with gr.Column(min_width=300):
                names = [(name.replace("_", " "), name) for name in PHOTOGRAPHS]
                sample = gr.Radio(names, value="cat", label="Sample photograph")
                upload = gr.File(file_types=["image"], label="Or a picture of your own", height=150)
                with gr.Row():
                    presets = [gr.Button(f"Preset: {name}", size="sm", min_width=100) for name in loaded.presets]
                settings = settings_controls(loaded, layers)
            with gr.Column(scale=2, min_width=320):
                # The sentence is announced when it changes.
                sentence = gr.HTML(html_template="<p class='summary' role='status'>${value}</p>")
                results = [sentence, gr.HTML(elem_classes="results"), gr.HTML(elem_classes="results")]
        connect(page, loaded, sample, upload, presets, settings, results)
    return page


def settings_controls(loaded: LoadedModel, layers: str) -> list[Any]:
    """One control for each field of the settings; they start with the first preset.

    Sliders have no button to reset them: it would change the number and tell nobody.
    """
    keep_ratio, windows, exponent = control_values(next(iter(loaded.presets.values())))
    return [
        gr.Slider(
            loaded.least_keep_ratio,
            1.0,
            keep_ratio,
            step=0.01,
            label="Keep ratio",
            info=f"Share of the patches at hand that each of the layers {layers} keeps.",
            buttons=[],
        ),
        gr.Radio(
            [", ".join(map(str, choice)) for choice in loaded.window_choices],
            value=windows,
            label="DC windows",
            info=f"Along each side of the picture, in the layers {layers}. Each window has one DC token.",
        ),
        gr.Slider(
            0.0,
            1.0,
            exponent,
            step=0.1,
            label="DC size exponent",
            info="Above 0, DC tokens get more attention the more patches they stand for.",
            buttons=[],
        ),
    ]


def control_values(settings: Settings) -> tuple[float, str, float]:
    """Settings as the controls hold them."""
    return settings.keep_ratio, ", ".join(map(str, settings.dc_windows)), settings.size_exponent


def connect(
    page: gr.Blocks,
    loaded: LoadedModel,
    sample: gr.Radio,
    upload: gr.File,
    presets: list[gr.Button],
    settings: list[Any],
    results: list[gr.HTML],
) -> None:
    """Has every change answered by a comparison; of sample and upload the one that was chosen last counts."""

    def respond(
        sample: str | None, upload: str | None, keep_ratio: float, windows: str, exponent: float
    ) -> Iterator[Any]:
        windows_by_layer = tuple(map(int, windows.split(", ")))
        yield from show(loaded, sample, upload, Settings(keep_ratio, windows_by_layer, exponent))

    # One comparison at a time, so that visitors do not disturb each other's times.
    comparing: dict[str, Any] = {
        "fn": respond,
        "inputs": [sample, upload, *settings],
        "outputs": results,
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "show_progress": "hidden",
    }
    page.load(**comparing)
    gr.on([*(control.input for control in settings), upload.clear], trigger_mode="always_last", **comparing)
    sample.input(lambda: None, outputs=upload).then(**comparing)
    upload.upload(lambda: None, outputs=sample).then(**comparing)
    for button, preset in zip(presets, loaded.presets.values(), strict=True):
        button.click(partial(control_values, preset), outputs=settings).then(**comparing)


def show(loaded: LoadedModel, sample: str | None, upload: str | None, settings: Settings) -> Iterator[Any]:
    """The results for a picture: first without times, which take longer, then with them."""
    try:
        picture = open_picture(upload) if upload else sample_photograph(sample)
        pair = pair_models(loaded, picture, settings)
        comparison = compare(pair)
    except ValueError as error:
        yield escape(str(error)), "", ""
        return
    yield summary(comparison, None), pictures(comparison), numbers(comparison, None)
    times = measure(pair)
    yield summary(comparison, times), gr.skip(), numbers(comparison, times)


def sample_photograph(name: str | None) -> PIL.Image.Image:
    """One of scikit-image's photographs.

    Raises:
        ValueError: none was chosen.
    """
    if name is None:
        raise ValueError("Choose a sample photograph, or a picture of your own.")
    [photograph] = photographs([name])
    return photograph.picture


if __name__ == "__main__":
    run_program(main)
