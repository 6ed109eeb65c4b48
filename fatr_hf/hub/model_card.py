"""The model card of a FATR repository: metadata for the Hub, how to load the model, its tokens and results."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..families import family_of
from ..modeling.budget import schedule_macs, with_keep_ratio
from ..modeling.hub_repository import PLAIN_TAGS, TASKS, HubRepositoryMixin, base_model_of, task_of
from ..modeling.reduction_config import ReductionConfig
from ..modeling.token_plan import LayerPlan
from .checkpoints import is_classifier, read_config

PAPER = "arXiv 2511.21477"

TEMPLATE = """---
{metadata}
---

# {name}

A Vision Transformer with frequency-aware token reduction (FATR): in layers {reduction_layers} the patch tokens that
carry high frequencies are kept and the others are averaged into a few DC tokens, as proposed in *Frequency-Aware Token
Reduction for Efficient Vision Transformer* ({paper}). {origin}

## Use

The repository holds the model's code, which needs `torch` and `transformers` and nothing else. Pin the revision that
you have read: the code runs on your machine.

```python
{use}
```

`AutoConfig`, `AutoModel` and `{auto_classifier}` load it in the same way. `model.reduction(False)` is a
context manager that switches the reduction off; `output_token_sources=True` returns which token stands for each patch.

## Tokens

{grid} patches. Counts include the CLS token.

{token_table}
{results}"""

USE = """from transformers import pipeline

classifier = pipeline("{task}", model="{repo_id}", trust_remote_code=True, revision="{revision}")
print(classifier("{file}"))"""

USE_IN_GREY = """from PIL import Image
from transformers import AutoImageProcessor, {auto_class}

where = {{"trust_remote_code": True, "revision": "{revision}"}}
model = {auto_class}.from_pretrained("{repo_id}", **where).eval()
processor = AutoImageProcessor.from_pretrained("{repo_id}", **where)
picture = Image.open("photograph.jpg").convert("L")  # the model takes one channel, and `pipeline` makes three
print(model(**processor(picture, return_tensors="pt"))[0])"""


def build_model_card(
    config: ReductionConfig,
    *,
    task: str = "image-classification",
    repo_id: str = "user/model",
    license: str = "unknown",
    base_model: str | None = None,
    dataset: str | None = None,
    accuracy: float | None = None,
    results: str = "",
    tags: Sequence[str] = (),
) -> ModelCard:
    """The card of a model with this configuration.

    Args:
        task: the Hub's name of the task (``pipeline_tag``).
        repo_id: where the card says the model is.
        license: the Hub's identifier of the weights' license.
        base_model: Hub name of the checkpoint it was fine-tuned from.
        dataset: name of the data set it was fine-tuned and tested on.
        accuracy: top-1 accuracy in [0, 1] on that data set's test split; goes into the model index.
        results: what was measured, in Markdown.
        tags: further tags.

    Raises:
        ValueError: no configuration, or an accuracy outside of [0, 1].
    """
    if not hasattr(config, "plan"):  # its class may be another copy's, of the same code
        raise ValueError(f"config={type(config).__name__} must be a FATR configuration: give model.config.")
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy={accuracy} must lie in [0, 1]: 81.3% is 0.813.")
    name = repo_id.split("/")[-1]
    evaluations = None
    if accuracy is not None and dataset is not None:
        evaluations = [
            EvalResult(
                task_type=task,
                dataset_type=dataset,
                dataset_name=dataset,
                metric_type="accuracy",
                metric_name="Top-1 accuracy",
                metric_value=round(accuracy, 6),
            )
        ]
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        license=license,
        base_model=base_model,
        datasets=[dataset] if dataset else None,
        metrics=["accuracy"] if evaluations else None,
        model_name=name,
        eval_results=evaluations,
        tags=[*PLAIN_TAGS, *tags],
    )
    takes_videos = "frames" in config.input_axes
    auto_classifier = "AutoModelForVideoClassification" if takes_videos else "AutoModelForImageClassification"
    use = (USE_IN_GREY if config.num_channels == 1 else USE).format(
        task=task,
        repo_id=repo_id,
        revision="<commit hash>",
        auto_class=auto_classifier if task.endswith("-classification") else "AutoModel",
        file="video.mp4" if takes_videos else "photograph.jpg",
    )
    return ModelCard(
        TEMPLATE.format(
            metadata=metadata.to_yaml(),
            name=name,
            paper=PAPER,
            origin=f"Fine-tuned from `{base_model}`." if base_model else "",
            reduction_layers=", ".join(map(str, config.reduction_layers or ())),
            use=use,
            auto_classifier=auto_classifier,
            grid=" x ".join(map(str, config.patch_grid())),
            token_table=token_table(config.plan()),
            results=f"\n## Results\n\n{results.strip()}\n" if results else "",
        )
    )


def model_card_of(model: HubRepositoryMixin, **arguments: Any) -> ModelCard:
    """The card of a model in memory: its task, and the Hub checkpoint that it was loaded from, are taken from it.

    Args:
        arguments: as for ``build_model_card``.
    """
    given = {"task": task_of(model), "base_model": base_model_of(model), **arguments}
    return build_model_card(getattr(model.config, "vision_config", model.config), **given)


def checkpoint_card(name: str | os.PathLike[str], *, revision: str | None = None, **arguments: Any) -> ModelCard:
    """The card of a saved FATR model; its weights are not read.

    Args:
        name: folder or Hub name; a Hub name is also the card's ``repo_id``, unless another is given.
        revision: branch, tag or commit of a Hub name; the main branch by default.
        arguments: as for ``build_model_card``; the task is by default the saved model's.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: a model of another kind, or an accuracy without a data set or outside [0, 1].
    """
    fields = read_config(name, revision)
    family = family_of(fields["model_type"])
    if family is None or fields["model_type"] != family.config.model_type:
        raise ValueError(
            f"{str(name)!r} is of model type {fields['model_type']!r} and no FATR model: convert it first."
        )
    accuracy = arguments.get("accuracy")
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy={accuracy:g} must lie in [0, 1].")
    if accuracy is not None and arguments.get("dataset") is None:
        raise ValueError(f"accuracy={accuracy:g} needs the name of the data set that it was measured on.")
    task = TASKS[str(family.classifier._auto_class)] if is_classifier(fields) else "image-feature-extraction"
    arguments.setdefault("task", task)
    if not Path(name).exists():
        arguments.setdefault("repo_id", str(name))
    return build_model_card(family.config.from_dict(fields), **arguments)


def token_table(schedule: Sequence[LayerPlan]) -> str:
    """The token schedule as a Markdown table, one row for each run of layers with equal counts."""
    lines = ["| layers | tokens in | tokens out | of them patches | DC tokens |", "|---|---|---|---|---|"]
    start = 0
    for index, tokens in enumerate(schedule):
        following = schedule[index + 1] if index + 1 < len(schedule) else None
        if following is not None and not tokens.reduces and not following.reduces:
            continue
        layers = f"{start}" if start == index else f"{start}-{index}"
        lines.append(
            f"| {layers} | {tokens.tokens_in} | {tokens.tokens_out} | {tokens.patches_out} | {tokens.dc_out} |"
        )
        start = index + 1
    return "\n".join(lines) + "\n"


def budget_table(config: ReductionConfig, accuracies: Mapping[float, float]) -> str:
    """A Markdown section: the accuracy of one model at several keep ratios (see ``for_budget``).

    Args:
        config: the model's.
        accuracies: top-1 accuracy in [0, 1] by keep ratio, the same in all reduction layers.
    """
    lines = [
        "### Accuracy by budget",
        "",
        "`model.set_reduction(keep_ratio=...)` or `model.for_budget(...)` chooses.",
        "",
    ]
    lines += ["| keep ratio | tokens that leave the last layer | multiply-accumulates | top-1 |", "|---|---|---|---|"]
    for ratio, accuracy in sorted(accuracies.items()):
        chosen = with_keep_ratio(config, ratio)
        tokens, macs = chosen.plan()[-1].tokens_out, schedule_macs(chosen) / 1e6
        lines.append(f"| {ratio:g} | {tokens} | {macs:.1f} M | {100 * accuracy:.2f}% |")
    return "\n".join(lines) + "\n"
