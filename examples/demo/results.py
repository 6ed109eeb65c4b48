"""A comparison as HTML that can be read without seeing it: sentences, tables, and pictures with their text."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

import PIL.Image
from comparison import ROUNDS, Answer, Comparison, Times
from torch import Tensor

from fatr_hf.analysis.image_trace import Lines, PatchMap, hatching, reduced_pixels, token_boundaries

STROKES = (("white", 2.0), ("black", 0.8))
"""Colours and widths in pixels of a line, which so stands out from any picture."""


def summary(comparison: Comparison, times: Times | None) -> str:
    """What the reduction spares, and whether the first prediction stays; times may still be missing."""
    before, after = comparison.unreduced, comparison.reduced
    stays = before.predictions[0].label == after.predictions[0].label
    faster = f"{times.unreduced / times.reduced:.2f} times as fast, " if times else ""
    return (
        f"{after.macs / before.macs:.2f} of the multiply-accumulates, {faster}"
        f"{'the same' if stays else 'another'} first prediction."
    )


def numbers(comparison: Comparison, times: Times | None) -> str:
    """Both models' predictions, what they cost, and how many tokens they have where; times may still be missing."""
    return (
        "<h2>Predictions</h2><div class='beside'>"
        f"{predictions('Unreduced', comparison.unreduced)}{predictions('Reduced', comparison.reduced)}</div>"
        f"<div class='tables'><section><h2>Cost</h2>{costs(comparison, times)}</section>"
        f"<section><h2>Tokens</h2>{tokens(comparison)}</section></div>"
    )


def predictions(title: str, answer: Answer) -> str:
    """A model's predictions, the most probable one first, with bars."""
    rows = "".join(
        f"<li><span>{escape(each.label)}</span> <b>{each.probability:.1%}</b>"
        f"<i style='width:{each.probability:.1%}'></i></li>"
        for each in answer.predictions
    )
    return f"<section><h3>{title}</h3><ol>{rows}</ol></section>"


def costs(comparison: Comparison, times: Times | None) -> str:
    """Multiply-accumulates and milliseconds of both models, and how these were measured."""
    before, after = comparison.unreduced, comparison.reduced
    milliseconds = (f"{times.unreduced:.1f}", f"{times.reduced:.1f}") if times else ("…", "…")
    rows = [
        ("Million multiply-accumulates", f"{before.macs / 1e6:,.1f}", f"{after.macs / 1e6:,.1f}"),
        ("Milliseconds", *milliseconds),
    ]
    device = f" on {times.device}" if times else ""
    note = (
        f"Milliseconds of a forward pass over this one picture{device}: the median of {ROUNDS} rounds, in which both "
        "models take turns, after a warm-up. They change with whatever else the machine does."
    )
    return f"{table(('', 'Unreduced', 'Reduced'), rows)}<p class='note'>{escape(note)}</p>"


def tokens(comparison: Comparison) -> str:
    """How many tokens leave the layers of both models, in stretches of layers with the same numbers."""
    layers = zip(comparison.unreduced.schedule, comparison.reduced.schedule, strict=True)
    rows = []
    for counts, stretch in groupby(layers, key=lambda pair: tuple(str(tokens.tokens_out) for tokens in pair)):
        numbers = [tokens.layer for tokens, _ in stretch]
        rows.append((f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0]), *counts))
    return table(("After layer", "Unreduced", "Reduced"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names the rows."""
    columns = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for first, *cells in rows
    )
    return f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"


def pictures(comparison: Comparison) -> str:
    """The picture as the models get it, and what is left of it after each reduction."""
    seen = what_is_seen(comparison)
    figures = [figure(seen, drawing(comparison.pixels, seen))]
    figures += [left_after(each, comparison.pixels) for each in comparison.reduced.patches]
    return (
        f"<h2>Kept patches</h2><div class='pictures'>{''.join(figures)}</div>"
        "<p class='note'>In detail: patches with a token of their own. Flat and hatched: patches that share one, in "
        "their mean colour, paler the more there are. Lines part different tokens.</p>"
    )


def what_is_seen(comparison: Comparison) -> str:
    """What the image processor made of the picture."""
    width, height = comparison.picture_size
    rows, columns = comparison.pixels.shape[:2]
    # A processor rounds the sides to whole pixels.
    keeps_shape = abs(width / height - columns / rows) < 0.02 * width / height
    shape = "" if keeps_shape else ", stretched or cropped"
    return f"What the model sees: {width}×{height} pixels made {columns}×{rows}{shape}"


def left_after(patches: PatchMap, pixels: Tensor) -> str:
    """What is left of a picture after a layer."""
    kept, total = int(patches.own.sum()), patches.own.numel()
    caption = f"After layer {patches.layer}: {kept} of {total} patches, {patches.tokens_out} tokens"
    lines = [(hatching(patches), 0.35), (token_boundaries(patches), 1.0)]
    drawn = "".join(stroke(segments, patches, pixels, opacity) for segments, opacity in lines)
    return figure(caption, drawing(reduced_pixels(pixels, patches), caption, drawn))


def figure(caption: str, content: str) -> str:
    """A drawing with its caption, which is also its text for those who do not see it."""
    return f"<figure>{content}<figcaption aria-hidden='true'>{escape(caption)}</figcaption></figure>"


def drawing(pixels: Tensor, label: str, lines: str = "") -> str:
    """Pixels (height, width, 3) in [0, 1] with lines over them, as an ``svg`` element."""
    height, width = pixels.shape[:2]
    file = io.BytesIO()
    PIL.Image.fromarray((pixels * 255).round().byte().numpy()).save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{escape(label)}'>"
        f"<image width='{width}' height='{height}' href='data:image/png;base64,{data}'/>{lines}</svg>"
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
