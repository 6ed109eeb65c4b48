"""A comparison as HTML that can be read without seeing it: sentences, figures, and pictures with their text."""

import base64
import io
from html import escape

import PIL.Image
from comparison import Answer, Comparison, Times
from loaded_model import METHODS
from torch import Tensor

from fatr_hf.analysis.image_trace import ImageTrace, Lines, PatchMap, hatching, reduced_pixels, token_boundaries
from fatr_hf.benchmark.frontier import LABELS

STROKES = (("white", 2.0), ("black", 0.8))
"""Colours and widths in pixels of a line, which so stands out from any picture."""

KEPT_NOTE = (
    "In detail: patches with a token of their own. Flat and hatched: patches that share one, in their mean colour, "
    "paler the more there are. Lines part different tokens."
)
COLOURS_NOTE = (
    "Colours of the features: what the last layer says of every patch, as the three principal components of the "
    "unreduced model. Where two pictures have the same colours, the models agree."
)


def summary(comparison: Comparison, times: Times | None) -> str:
    """What the first contestant that reduces gains and keeps; times may still be missing."""
    answer = comparison.answers[1]
    faster = f"{speed(times, 1)} times as fast as the unreduced model, " if times else ""
    return f"{answer.label}: {faster}{agreement(comparison, answer)}."


def agreement(comparison: Comparison, answer: Answer) -> str:
    """How an answer agrees with that of the unreduced model, in words."""
    if answer.predictions:
        return f"{'the same' if same_prediction(answer, comparison.answers[0]) else 'another'} prediction"
    if answer.pooled is None:
        return f"cosine of their patches {answer.patches:.3f}"
    return f"cosine of their {comparison.pooled_name}s {answer.pooled:.3f}"


def same_prediction(answer: Answer, reference: Answer) -> bool:
    """Whether two answers of a classifier name the same class first."""
    return answer.predictions[0].label == reference.predictions[0].label


def speed(times: Times, place: int) -> str:
    """How many times as fast as the first contestant another one is."""
    return f"{times.milliseconds[0] / times.milliseconds[place]:.2f}"


def cards(comparison: Comparison, times: Times | None) -> str:
    """All contestants side by side: what they keep, their features, agreement, cost and time, which may be missing."""
    shown = "".join(card(comparison, times, place) for place in range(len(comparison.answers)))
    wide = " wide" if comparison.seen.frames > 1 else ""
    return f"<h2>Side by side</h2><div class='cards{wide}'>{shown}</div>{notes(comparison, times)}"


def card(comparison: Comparison, times: Times | None, place: int) -> str:
    """One contestant."""
    answer, seen = comparison.answers[place], comparison.seen
    if place == 0:
        kept = figure("What the model sees", drawing(seen.pixels, "What the model sees", seen.frames))
    else:
        kept = left_after(answer.layers[-1], seen)
    caption = f"Features of {answer.label}"
    features = drawing(answer.colours, caption, seen.frames, crisp=True)
    return (
        f"<section><h3>{escape(answer.label)}</h3><p class='speed'>{headline(times, place)}</p>"
        f"<div class='pair'>{kept}{figure('Colours of the features', features)}</div>"
        f"{figures(comparison, times, place)}{predictions(answer)}{layers(answer, seen)}</section>"
    )


def headline(times: Times | None, place: int) -> str:
    """The large figure of a card."""
    if place == 0:
        return f"<b>{times.milliseconds[0]:.0f}</b> milliseconds" if times else "<b>…</b> milliseconds"
    return f"<b>{speed(times, place) if times else '…'}</b> times as fast"


def figures(comparison: Comparison, times: Times | None, place: int) -> str:
    """A contestant's agreement, cost and time."""
    answer, reference = comparison.answers[place], comparison.answers[0]
    rows = []
    if answer is not reference:
        if answer.predictions:
            rows.append(("Prediction", "the same" if same_prediction(answer, reference) else "another"))
        if answer.pooled is not None:
            rows.append((f"Cosine, {comparison.pooled_name}", f"{answer.pooled:.3f}"))
        rows.append(("Cosine, patches", f"{answer.patches:.3f}"))
    rows.append(("Multiply-accumulates", f"{answer.macs:.2f}"))
    rows.append(("Milliseconds", f"{times.milliseconds[place]:.1f}" if times else "…"))
    return f"<dl>{''.join(f'<div><dt>{escape(name)}</dt><dd>{value}</dd></div>' for name, value in rows)}</dl>"


def predictions(answer: Answer) -> str:
    """A classifier's predictions, the most probable one first, with bars; nothing of an encoder."""
    rows = "".join(
        f"<li><span>{escape(each.label)}</span> <b>{each.probability:.1%}</b>"
        f"<i style='width:{each.probability:.1%}'></i></li>"
        for each in answer.predictions
    )
    return f"<ol>{rows}</ol>" if rows else ""


def layers(answer: Answer, seen: ImageTrace) -> str:
    """What is left after every layer that reduces but the last, which the card shows; folded up."""
    if len(answer.layers) < 2:
        return ""
    shown = "".join(left_after(each, seen) for each in answer.layers[:-1])
    return f"<details><summary>Earlier layers</summary><div class='layers'>{shown}</div></details>"


def notes(comparison: Comparison, times: Times | None) -> str:
    """How to read the pictures, what was made of the given one, who is left out, and how the times were measured."""
    sentences = [KEPT_NOTE, COLOURS_NOTE, what_is_seen(comparison)]
    present = [each.label for each in comparison.answers]
    absent = [LABELS[name] for name in METHODS if LABELS[name] not in present]
    if absent:
        sentences.append(f"Cannot meet this share of the cost with this model: {'; '.join(absent)}.")
    if times:
        what = "video" if comparison.seen.frames > 1 else "picture"
        sentences.append(
            f"Milliseconds: of a forward pass over this one {what} by the fused model on {times.device}, the median of "
            f"{times.rounds} rounds in which all take turns. They change with whatever else the machine does."
        )
    return "".join(f"<p class='note'>{escape(each)}</p>" for each in sentences)


def what_is_seen(comparison: Comparison) -> str:
    """What the image processor made of the picture, or of each frame."""
    width, height = comparison.size
    rows, columns = comparison.seen.pixels.shape[:2]
    columns //= comparison.seen.frames
    # A processor rounds the sides to whole pixels.
    keeps_shape = abs(width / height - columns / rows) < 0.02 * width / height
    shape = "" if keeps_shape else ", stretched or cropped"
    return f"What the model sees: {width}×{height} pixels made {columns}×{rows}{shape}."


def left_after(patches: PatchMap, seen: ImageTrace) -> str:
    """What is left of a picture or video after a layer."""
    caption = f"After layer {patches.layer}: {patches.tokens_out} of {seen.tokens} tokens"
    lines = [(hatching(patches), 0.35), (token_boundaries(patches), 1.0)]
    drawn = "".join(stroke(segments, patches, seen.pixels, opacity) for segments, opacity in lines)
    return figure(caption, drawing(reduced_pixels(seen.pixels, patches), caption, seen.frames, drawn))


def figure(caption: str, content: str) -> str:
    """A drawing with its caption, which is also its text for those who do not see it."""
    return f"<figure>{content}<figcaption aria-hidden='true'>{escape(caption)}</figcaption></figure>"


def drawing(pixels: Tensor, label: str, frames: int, lines: str = "", crisp: bool = False) -> str:
    """Pixels (height, width, 3) in [0, 1] with lines over them, as an ``svg`` element.

    Args:
        label: the text for those who do not see it.
        frames: of a video's strip, which gaps part; 1 for a picture.
        lines: SVG elements in pixels.
        crisp: whether pixels stay squares where they are enlarged.
    """
    height, width = pixels.shape[:2]
    kind = "png" if crisp else "jpeg"
    file = io.BytesIO()
    PIL.Image.fromarray((pixels * 255).round().byte().numpy()).save(file, kind, quality=90)
    data = base64.b64encode(file.getvalue()).decode()
    places = [width * number / frames for number in range(1, frames)]
    gaps = "".join(
        f"<path class='gap' d='M{place:g} 0V{height}' vector-effect='non-scaling-stroke'/>" for place in places
    )
    return (
        f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{escape(label)}'>"
        f"<image class='{kind}' width='{width}' height='{height}' href='data:image/{kind};base64,{data}'/>"
        f"{lines}{gaps}</svg>"
    )


def stroke(lines: Lines, patches: PatchMap, pixels: Tensor, opacity: float) -> str:
    """Lines in patches from the upper left corner, over the pixels of these patches."""
    (height, width), (rows, columns) = pixels.shape[:2], patches.own.shape
    path = "".join(f"M{start[0]} {start[1]}L{end[0]} {end[1]}" for start, end in lines)
    scale = f"scale({width / columns:g} {height / rows:g})"
    return "".join(
        f"<path d='{path}' transform='{scale}' stroke='{colour}' stroke-width='{points}' opacity='{opacity}' "
        "vector-effect='non-scaling-stroke'/>"
        for colour, points in STROKES
    )
