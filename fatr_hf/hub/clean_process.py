"""A script that classifies images with a saved folder, in a process where fatr_hf cannot be imported.

Run by path, so that nothing of the package is loaded: ``python clean_process.py FOLDER IMAGES OUTPUT DEVICE``. FOLDER
holds the model, IMAGES a data set on disk with a column ``image`` of pictures in the mode that the processor takes;
OUTPUT becomes a JSON list of predicted classes. Where the folder does not load, the exit code is ``NOT_LOADED``.
"""

import json
import sys
import traceback
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from transformers import AutoImageProcessor, AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel

BATCH_SIZE = 64

NOT_LOADED = 3


@torch.inference_mode()
def predict_classes(model: PreTrainedModel, processor: BaseImageProcessor, images: Dataset) -> list[int]:
    """The predicted class of every image, in the model's own dtype and on its device."""
    classes: list[int] = []
    model.eval()
    for batch in images.select_columns("image").iter(BATCH_SIZE):
        pixel_values = processor(batch["image"], return_tensors="pt")["pixel_values"].to(model.device)
        classes += model(pixel_values).logits.argmax(dim=1).tolist()
    return classes


def main(folder: str, images: str, output: str, device: str) -> None:
    """Classifies with the folder's own code."""
    sys.modules["fatr_hf"] = None  # type: ignore[assignment]  # importing it is an error from here on
    try:
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True, device_map={"": device})
        processor = AutoImageProcessor.from_pretrained(folder)
    except Exception:  # noqa: BLE001 - of whatever kind: it is printed, and the code says when it happened
        traceback.print_exc()
        raise SystemExit(NOT_LOADED) from None
    Path(output).write_text(json.dumps(predict_classes(model, processor, load_from_disk(images))))


if __name__ == "__main__":
    main(*sys.argv[1:])
