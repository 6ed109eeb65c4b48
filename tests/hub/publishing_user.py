"""A user with fatr_hf, who publishes: ``publishing_user.py FOLDER``, in an environment with a token of ``someone``.

Every step publishes tiny models as the documentation says and returns what it published; ``FOLDER/published.json``
holds all of it. The models' own parameters are not zero, as after training.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.hub.publish import check_access, publish_folder
from fatr_hf.training.metrics import classification_metrics
from fatr_hf.training.preprocessing import collate
from fatr_hf.training.trainer import FATRTrainer
from fatr_hf_cli import app

FIELDS = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
FIELDS |= {"image_size": 16, "patch_size": 4, "num_labels": 5}
PIXEL_VALUES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
IMAGE = PIL.Image.fromarray(np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3))
PROCESSOR = ViTImageProcessor(size={"height": 16, "width": 16})


def new_model(seed: int) -> FATRViTForImageClassification:
    torch.manual_seed(seed)
    model = FATRViTForImageClassification(FATRViTConfig(**FIELDS)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("omega1", "omega2", "dc_position_embeddings")):
                parameter.normal_(std=0.3)
    return model


def answers(model: ViTForImageClassification, revision: str) -> dict[str, Any]:
    """What the published model must answer wherever it is loaded."""
    model.eval()
    with torch.no_grad():
        logits = model(PIXEL_VALUES).logits.tolist()
    scores = pipeline("image-classification", model=model, image_processor=PROCESSOR)(IMAGE, top_k=5)
    return {"revision": revision, "logits": logits, "scores": {each["label"]: each["score"] for each in scores}}


def push_model(folder: Path) -> dict[str, Any]:
    model = new_model(0)
    commit = model.push_to_hub("pushed", image_processor=PROCESSOR, tags=["demonstration"])
    return answers(model, commit.oid)


def push_from_trainer(folder: Path) -> dict[str, Any]:
    examples = [{"pixel_values": torch.randn(3, 16, 16), "labels": number % 5} for number in range(8)]
    settings: dict[str, Any] = {"max_steps": 2, "use_cpu": True, "report_to": "none", "remove_unused_columns": False}
    arguments = TrainingArguments(str(folder), hub_model_id="someone/trained", **settings)
    trainer = FATRTrainer(
        new_model(1),
        arguments,
        data_collator=collate,
        train_dataset=examples,
        eval_dataset=examples,
        compute_metrics=classification_metrics,
        processing_class=PROCESSOR,
    )
    trainer.train()
    accuracy = trainer.evaluate()["eval_accuracy"]
    commit = trainer.push_to_hub(dataset="digits", license="mit", finetuned_from="google/vit-base-patch16-224")
    return {**answers(trainer.model, commit.oid), "accuracy": accuracy}


def publish_two_revisions(folder: Path) -> list[dict[str, Any]]:
    """Two saved folders, one after the other, with other weights and other code, a sibling's included."""
    published = []
    for number in (1, 2):
        model, saved = new_model(10 + number), folder / str(number)
        model.save_pretrained(saved)
        PROCESSOR.save_pretrained(saved)
        for name in ("modeling_fatr_vit.py", "token_reduction.py"):
            (saved / name).write_text((saved / name).read_text() + f"\nMARK = {number}\n")
        published.append(answers(model, publish_folder(saved, "someone/revised").oid))
    return published


def push_privately(folder: Path) -> dict[str, Any]:
    """The model first and its image processor afterwards, which must leave the card as it is."""
    model = new_model(3)
    model.push_to_hub("someone/hidden", private=True)
    return answers(model, PROCESSOR.push_to_hub("someone/hidden").oid)


def convert_and_publish(folder: Path) -> dict[str, Any]:
    """``fatr-hf convert`` of a revision of a stock model, whose main branch has moved on; the folder is published."""
    models = [ViTForImageClassification(ViTConfig(**FIELDS)) for _ in range(2)]
    PROCESSOR.push_to_hub("someone/stock")
    revisions = [model.push_to_hub("someone/stock").oid for model in models]
    app(["convert", "someone/stock", str(folder), "--revision", revisions[0]], standalone_mode=False)
    weights = FATRViTForImageClassification.from_pretrained(folder).state_dict()
    matches = [all(torch.equal(weights[name], value) for name, value in each.state_dict().items()) for each in models]
    publish_folder(folder, "someone/converted")
    return {"matches": matches}


def write_card(folder: Path) -> str:
    """``fatr-hf card`` of a published model."""
    path = folder.with_suffix(".md")
    app(["card", "someone/pushed", "--revision", "main", "--output", str(path)], standalone_mode=False)
    return path.read_text()


STEPS = (push_model, push_from_trainer, publish_two_revisions, push_privately, convert_and_publish, write_card)


def main(folder: Path) -> None:
    check_access("someone/pushed")
    report = {step.__name__: step(folder / step.__name__) for step in STEPS}
    (folder / "published.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
