"""Models beside each other on the same images: what they cost, how alike they answer, what becomes of their tokens."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..baselines.arguments import check_kind, reading, several
from ..baselines.macs import count_macs
from .analyze import Analysis, Moments, RunningAnalysis, choose_measures
from .model_inputs import check_finite, model_batches, without_class
from .names import table_text
from .outputs import judge, model_output


class Figure(NamedTuple):
    """A mean over images."""

    mean: float
    standard_error: float | None
    """None for a single image."""
    images: int
    """How many the mean is over: of an accuracy those that have a class of the model."""


@dataclass(frozen=True)
class Contender:
    """One of the models that were compared."""

    name: str
    macs: int
    """Multiply-accumulates of a forward pass over one image."""
    answers: dict[str, Figure]
    """``cosine`` to the outputs of the first model; of classifiers also ``divergence`` in nats and ``agreement``
    (see ``faithfulness``); ``accuracy`` where images have a class of the model. None of what is not finite for any
    image."""
    analysis: Analysis


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found; the first model is the reference of all others."""

    contenders: tuple[Contender, ...]

    @property
    def analyses(self) -> dict[str, Analysis]:
        """By the models' names."""
        return {each.name: each.analysis for each in self.contenders}

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "contenders": [
                asdict(each)
                | {
                    "answers": {name: figure._asdict() for name, figure in each.answers.items()},
                    "analysis": each.analysis.to_dict(),
                }
                for each in self.contenders
            ]
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` gave.

        Raises:
            ValueError: any other text.
        """
        with reading("comparison"):
            return cls(
                tuple(
                    Contender(
                        each["name"],
                        each["macs"],
                        {name: Figure(**figure) for name, figure in each["answers"].items()},
                        Analysis.from_dict(each["analysis"]),
                    )
                    for each in json.loads(text)["contenders"]
                )
            )


def compare(
    models: Mapping[str, PreTrainedModel],
    data: Any,
    measures: Sequence[str] | None = None,
    batch_size: int = 32,
) -> Comparison:
    """Runs models over the same images and measures them alike.

    Args:
        models: by name, all for the same image size and in evaluation mode; the first, say the unreduced one, is the
            reference. ``baselines.matched.matched_rivals`` makes rivals of a FATR model.
        data: see ``images.batches``.
        measures: as for ``analyze``; by default all that every model allows.
        batch_size: images at a time.

    Raises:
        ValueError: no models, outputs of different sizes, outputs of the first model that are not finite, or what
            ``analyze`` refuses.
    """
    check_kind("models", models, Mapping, "a mapping from names to models, such as {'FATR': model}")
    if not models:
        raise ValueError("There are no models to compare: give at least one.")
    for name in models:
        check_kind("the name of a model", name, str, "text")
    measures = None if measures is None else several("measures", measures)
    allowed = [choose_measures(model, measures) for model in models.values()]
    measures = [name for name in allowed[0] if all(name in others for others in allowed)]
    reference = next(iter(models.values()))
    analyses = {name: RunningAnalysis(measures) for name in models}
    moments: dict[str, dict[str, Moments]] = {name: {} for name in models}
    for batch in model_batches(reference, data, batch_size):
        expected = check_finite(reference, model_output(reference, batch.pixel_values))
        for name, model in models.items():
            output = model_output(model, batch.pixel_values)
            check_same_outputs(name, output, expected)
            for question, values in judge(model, batch, output, expected).items():
                new, known = Moments.of(values), moments[name]
                known[question] = known[question].merge(new) if question in known else new
            analyses[name].add(model, batch.pixel_values)
    return Comparison(
        tuple(
            Contender(
                name,
                count_macs(model),
                {question: to_figure(each) for question, each in moments[name].items() if each.number},
                analyses[name].finish(),
            )
            for name, model in models.items()
        )
    )


def check_same_outputs(name: str, output: Tensor, expected: Tensor) -> None:
    """Raises a ValueError for outputs of another size than the first model's."""
    if output.shape != expected.shape:
        raise ValueError(
            f"{name} gives {output.shape[1]} numbers for an image and the first model {expected.shape[1]}: "
            "only models with the same classes, or encoders of the same width, can be compared."
        )


def to_figure(moments: Moments) -> Figure:
    """Mean and standard error of a single number."""
    error = moments.standard_error[0]
    return Figure(float(moments.mean[0]), None if torch.isnan(error) else float(error), int(moments.number[0]))


def comparison_table(comparison: Comparison) -> str:
    """A Markdown table: cost, answers, and the state of the tokens that leave the last layer.

    Below it stands how many images the answers leave out, if any.
    """
    check_kind("comparison", comparison, Comparison, "what fatr_hf.analysis.compare gave")
    contenders = comparison.contenders
    questions = list(dict.fromkeys(question for each in contenders for question in each.answers))
    states = [
        name
        for name in ("high_frequency_share", "effective_rank", "pairwise_cosine")
        if any(leaving(each.analysis, name) for each in contenders)
    ]
    heads = ["model", "multiply-accumulates", *questions, "tokens left", *(name.replace("_", " ") for name in states)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for each in contenders:
        cells = [table_text(each.name), f"{each.macs / 1e6:.1f} M ({each.macs / contenders[0].macs:.2f})"]
        cells += [with_error(each.answers.get(name)) for name in questions]
        cells.append(str(each.analysis.tokens[-1]))
        cells += [with_error(leaving(each.analysis, name)) for name in states]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(line for note in left_out(contenders) for line in ("", note))]) + "\n"


def left_out(contenders: Sequence[Contender]) -> Iterator[str]:
    """Sentences on the images that answers are not over."""
    labelled = [each.answers["accuracy"].images for each in contenders if "accuracy" in each.answers]
    if labelled and max(labelled) < contenders[0].analysis.images:
        yield without_class(max(labelled), contenders[0].analysis.images)
    for each in contenders:
        answered, images = each.answers["cosine"].images if "cosine" in each.answers else 0, each.analysis.images
        if answered < images:
            yield f"{table_text(each.name)}: the outputs of {images - answered} of {images} images are NaN or infinite."


def leaving(analysis: Analysis, measure: str) -> Figure | None:
    """A measure of the tokens that leave the last layer; None where it was not taken or is undefined."""
    rows = analysis.select(measure, len(analysis.tokens) - 1)
    return Figure(rows[0].mean, rows[0].standard_error, rows[0].images) if rows else None


def with_error(figure: Figure | None) -> str:
    """A mean and, where there are several images, its standard error; nothing for what is undefined."""
    if figure is None:
        return ""
    error = "" if figure.standard_error is None else f" ± {figure.standard_error:.2g}"
    return f"{figure.mean:.4g}{error}"
