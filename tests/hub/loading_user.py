"""A user without fatr_hf, who loads what others have published: ``loading_user.py PUBLISHED FOUND STEP...``.

PUBLISHED is what ``publishing_user.py`` wrote. Every step returns what it found; FOUND becomes all of it by step.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from huggingface_hub import model_info, snapshot_download
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedModel, pipeline

PIXEL_VALUES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
IMAGE = PIL.Image.fromarray(np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3))


@torch.no_grad()
def logits(model: PreTrainedModel) -> list[list[float]]:
    return model(PIXEL_VALUES).logits.tolist()


def answers(repo_id: str, **options: Any) -> dict[str, Any]:
    """What a published model answers here, loaded by its own code."""
    options["trust_remote_code"] = True
    config = AutoConfig.from_pretrained(repo_id, **options)
    encoder = AutoModel.from_pretrained(repo_id, **options)
    classifier = AutoModelForImageClassification.from_pretrained(repo_id, **options)
    assert type(config) is type(encoder.config) is type(classifier.config)
    scores = pipeline("image-classification", model=repo_id, **options)(IMAGE, top_k=5)
    return {"logits": logits(classifier), "scores": {each["label"]: each["score"] for each in scores}}


def load_model(published: dict[str, Any]) -> dict[str, Any]:
    return answers("someone/pushed", revision=published["push_model"]["revision"])


def load_main_branch(published: dict[str, Any]) -> dict[str, Any]:
    return answers("someone/trained")


def load_two_revisions(published: dict[str, Any]) -> dict[str, Any]:
    """Side by side, the older one after the newer; ``marks`` are those of their code."""
    revisions = [each["revision"] for each in published["publish_two_revisions"]]
    older, newer = (
        AutoModelForImageClassification.from_pretrained("someone/revised", revision=revision, trust_remote_code=True)
        for revision in revisions
    )
    modules = [sys.modules[type(model).__module__] for model in (older, newer)]
    siblings = [sys.modules[f"{module.__package__}.token_reduction"] for module in modules]
    marks = [[module.MARK, sibling.MARK] for module, sibling in zip(modules, siblings, strict=True)]
    return {"logits": [logits(older), logits(newer)], "marks": marks}


def download_older_revision(published: dict[str, Any]) -> list[str]:
    revision = published["publish_two_revisions"][0]["revision"]
    return sorted(os.listdir(snapshot_download("someone/revised", revision=revision)))


def load_older_revision(published: dict[str, Any]) -> dict[str, Any]:
    return answers("someone/revised", revision=published["publish_two_revisions"][0]["revision"])


def load_without_trust(published: dict[str, Any]) -> str:
    return refusal(AutoModelForImageClassification.from_pretrained, "someone/pushed")


def load_private_without_token(published: dict[str, Any]) -> str:
    return refusal(AutoConfig.from_pretrained, "someone/hidden", trust_remote_code=True)


def load_private(published: dict[str, Any]) -> dict[str, Any]:
    return answers("someone/hidden", token="writer")


def read_page(published: dict[str, Any]) -> dict[str, Any]:
    """What the page of a trained model shows."""
    info = model_info("someone/trained")
    card, [result] = info.card_data, info.card_data.eval_results
    return {
        "sha": info.sha,
        "pipeline_tag": info.pipeline_tag,
        "library_name": info.library_name,
        "tags": info.tags,
        "license": card.license,
        "base_model": card.base_model,
        "result": [result.task_type, result.dataset_name, result.metric_type, result.metric_value],
    }


def push_a_copy(published: dict[str, Any]) -> dict[str, Any]:
    """A model that was loaded by its own code is published anew, and loaded by the code that went with it."""
    model = AutoModelForImageClassification.from_pretrained("someone/pushed", trust_remote_code=True)
    commit = model.push_to_hub("someone/copy", token="writer")
    copy = AutoModelForImageClassification.from_pretrained("someone/copy", trust_remote_code=True, revision=commit.oid)
    return {"module": type(copy).__module__, "logits": logits(copy)}


def refusal(load: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The words in which loading is refused."""
    try:
        load(*arguments, **options)
    except (OSError, ValueError) as error:
        return str(error)
    raise AssertionError(f"{arguments} was not refused.")


def main(published: str, found: str, *steps: str) -> None:
    sys.modules["fatr_hf"] = None  # type: ignore[assignment]  # importing it is an error from here on
    report = json.loads(Path(published).read_text())
    Path(found).write_text(json.dumps({step: globals()[step](report) for step in steps}))


if __name__ == "__main__":
    main(*sys.argv[1:])
