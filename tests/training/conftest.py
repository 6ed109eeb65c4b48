import datasets
import pytest
import torch
from transformers import TrainingArguments

from fatr_hf.training.metrics import classification_metrics
from fatr_hf.training.preprocessing import collate
from fatr_hf.training.trainer import FATRTrainer


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What is converted in one test is not found by another."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(64, 3, 32, 32, generator=generator)
    labels = torch.randint(5, (64,), generator=generator).tolist()
    return [{"pixel_values": image, "labels": label} for image, label in zip(pixel_values, labels, strict=True)]


@pytest.fixture
def make_trainer(images, tmp_path):
    """Builds trainers that take two steps of plain gradient descent unless told otherwise."""

    def make(model, options=None, **arguments):
        settings = {"learning_rate": 1e-2, "optim": "sgd", "lr_scheduler_type": "constant", "max_steps": 2}
        settings |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "seed": 3}
        settings |= {"remove_unused_columns": False, "dataloader_pin_memory": False}
        return FATRTrainer(
            model,
            TrainingArguments(output_dir=str(tmp_path / "run"), **{**settings, **arguments}),
            **{
                "data_collator": collate,
                "train_dataset": images,
                "eval_dataset": images,
                "compute_metrics": classification_metrics,
                **(options or {}),
            },
        )

    return make
