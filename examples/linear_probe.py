"""A classifier on a pretrained encoder that stays as it is: logistic regression on what its family's classifier reads.

    python examples/linear_probe.py facebook/dinov2-small path/to/images outputs/probe --train_images 2000
    fatr-hf compare outputs/probe path/to/images --limit 1000

Minutes on a CPU where a fine-tuning takes hours. What is written is a classifier, unreduced, for every command: its
accuracy with a reduction is that of the encoder's features alone. It is of the stock class where that has the same
weights under the same names, else of ours.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetune_base import classifier_class, stock_twin
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor

from fatr_hf.benchmark import choose_device
from fatr_hf.hub.convert import check_free
from fatr_hf.hub.load import quiet_loading, size_of_images
from fatr_hf.images import check_processor
from fatr_hf.modeling.reduction_config import UNREDUCED
from fatr_hf.programs import run_program
from fatr_hf.training.classifier_heads import class_fields, classifiers
from fatr_hf.training.data import load_image_data
from fatr_hf.training.labels import spread_rows
from fatr_hf.training.preprocessing import collate, image_transform
from fatr_hf.training.run_folder import write_folder

Floats = NDArray[np.float64]


def main() -> None:
    """Reads the command line, fits the classifier and writes the model."""
    parser = argparse.ArgumentParser(description="Fits a linear classifier on the features of an encoder.")
    parser.add_argument("model", help="folder or Hub name of a model of one of the families")
    parser.add_argument("dataset", help="digits, a folder of images or of idx files, or a data set on the Hub")
    parser.add_argument("output_dir", type=Path, help="folder to write, new or empty")
    parser.add_argument(
        "--train_images", type=int, help="so many, drawn with a fixed seed and spread over the classes; all by default"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time")
    parser.add_argument("--regularisation", type=float, default=10.0, help="weight of the squared norm")
    arguments = parser.parse_args()
    for name in ("train_images", "batch_size", "regularisation"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} {value} must be above 0.")
    check_free(arguments.output_dir)
    data = load_image_data(arguments.dataset)
    for note in data.notes:
        print(f"Note: {note}")
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    names = data.label_names
    model_class = classifier_class(arguments.model, "main")
    with quiet_loading():  # of a classifier that is not there yet, or is for other classes
        model: Any = model_class.from_pretrained(
            arguments.model,
            ignore_mismatched_sizes=True,
            **size_of_images(arguments.model, "main", model_class),
            **UNREDUCED,
            **class_fields(names),
        )
    if [*classifiers(model)] != ["classifier"]:
        raise ValueError(f"{model_class.__name__} has several classifiers: give a model with one.")
    check_processor(processor, model.config)
    model.to(choose_device(None)).eval()
    train = data.train.shuffle(seed=0)
    train = train.select(spread_rows(train["labels"], arguments.train_images or len(train)))
    train.set_transform(image_transform(processor))
    features, targets = read_features(model, DataLoader(train, arguments.batch_size, collate_fn=collate))
    weight, bias = fit(features, targets, len(names), arguments.regularisation)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(weight))
        model.classifier.bias.copy_(torch.from_numpy(bias))
    hits = (features @ weight.T + bias).argmax(axis=1) == targets
    print(f"{len(targets)} training images, of which {100 * hits.mean():.1f}% are classified as they are labelled.")

    def write(folder: Path) -> None:
        stock_twin(model).save_pretrained(folder)
        processor.save_pretrained(folder)

    write_folder(arguments.output_dir, write)


@torch.inference_mode()
def read_features(model: Any, batches: Iterable[dict[str, torch.Tensor]]) -> tuple[Floats, NDArray[np.int64]]:
    """What the model's classifier reads, (images, width), and (images,) labels."""
    features: list[Floats] = []
    labels = []
    reading = model.classifier.register_forward_pre_hook(
        lambda module, arguments: features.append(arguments[0].double().cpu().numpy())
    )
    for batch in batches:
        model(batch["pixel_values"].to(model.device))
        labels.append(batch["labels"].numpy())
    reading.remove()
    return np.concatenate(features), np.concatenate(labels)


def fit(features: Floats, labels: NDArray[np.int64], classes: int, regularisation: float) -> tuple[Floats, Floats]:
    """Weight (classes, width) and bias (classes,) of a logistic regression on standardised features.

    Raises:
        ValueError: classes without an image.
    """
    missing = sorted(set(range(classes)) - set(labels.tolist()))
    if missing:
        raise ValueError(f"--train_images {len(labels)} leaves class {missing[0]} without an image: take more.")
    scaler = StandardScaler().fit(features)
    regression = LogisticRegression(C=1 / regularisation, max_iter=1000).fit(scaler.transform(features), labels)
    coefficients, intercepts = regression.coef_, regression.intercept_
    if classes == 2:  # scikit-learn then gives the second class alone
        coefficients, intercepts = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * intercepts / 2
    weight = coefficients / scaler.scale_
    return weight, intercepts - weight @ scaler.mean_


if __name__ == "__main__":
    run_program(main)
