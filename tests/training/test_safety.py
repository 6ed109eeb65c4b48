"""What stops a run, and what is left of it."""

import errno
from pathlib import Path

import pytest
import torch

from fatr_hf import FATRViTForImageClassification
from fatr_hf.training.run_folder import last_checkpoint
from fatr_hf.training.safety import is_full_disk


@pytest.fixture
def poisoned(images):
    """Training images of which one, in the second epoch's or an early batch's turn, is not finite."""

    class Poisoned(list):
        def __getitem__(self, place):
            example = super().__getitem__(place)
            self.taken = getattr(self, "taken", 0) + 1
            if self.taken <= 32:
                return example
            return example | {"pixel_values": torch.full_like(example["pixel_values"], torch.nan)}

    return Poisoned(images)


def test_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(make_fatr, make_trainer, poisoned):
    model = make_fatr()
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 8}
    trainer = make_trainer(model, {"train_dataset": poisoned}, **settings)
    with pytest.raises(FloatingPointError) as raised:
        trainer.train()
    words = str(raised.value)
    assert "nan or inf in training step 5, in epoch 1" in words
    assert "Batch 5 of 8 of the epoch: nan for 8 images" in words
    assert "pixel_values not finite in 24576 of 24576 places" in words
    folder = Path(trainer.args.output_dir)
    assert f"The last complete checkpoint is {folder / 'checkpoint-4'}" in words
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_accumulated_batches_are_all_looked_at(make_fatr, make_trainer, poisoned):
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "max_steps": 4}
    with pytest.raises(FloatingPointError, match=r"training step 2, in epoch 1.*There is no complete checkpoint"):
        make_trainer(make_fatr(), {"train_dataset": poisoned}, **settings).train()


def test_weights_that_are_no_numbers_are_not_saved(make_fatr, make_trainer):
    model = make_fatr()
    trainer = make_trainer(model, learning_rate=float("inf"), max_grad_norm=0.0, max_steps=1, save_strategy="epoch")
    with pytest.raises(FloatingPointError, match=r"Weights are nan or inf \(.*checkpoint-1 is not saved"):
        trainer.train()
    assert last_checkpoint(Path(trainer.args.output_dir)) is None


def test_full_disk_leaves_the_checkpoint_before(make_fatr, make_trainer, monkeypatch):
    model = make_fatr()
    trainer = make_trainer(model, max_steps=6, save_strategy="steps", save_steps=2)
    write = torch.save

    def write_to_a_disk_that_fills_up(content, path, *arguments, **options):
        if str(path).endswith("checkpoint-4/optimizer.pt"):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(content, path, *arguments, **options)

    monkeypatch.setattr(torch, "save", write_to_a_disk_that_fills_up)
    with pytest.raises(
        OSError, match=r"The disk is full, so the checkpoint .*checkpoint-4 could not be written"
    ) as raised:
        trainer.train()
    folder = Path(trainer.args.output_dir)
    assert f"The last complete checkpoint is {folder / 'checkpoint-2'}." in str(raised.value)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.setattr(torch, "save", write)
    FATRViTForImageClassification.from_pretrained(folder / "checkpoint-2")
    make_trainer(make_fatr(), max_steps=3).train(resume_from_checkpoint=str(folder / "checkpoint-2"))


def test_other_errors_of_saving_pass_as_they_are(make_fatr, make_trainer, monkeypatch):
    def fail(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    trainer = make_trainer(make_fatr(), max_steps=2, save_strategy="steps", save_steps=2)
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(PermissionError, match="Permission denied"):
        trainer.train()
    assert not list(Path(trainer.args.output_dir).glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), True),
        (RuntimeError("basic_ios::clear: iostream error"), True),
        (OSError(errno.EACCES, "x"), False),
        (RuntimeError("shape mismatch"), False),
    ],
    ids=["no-space", "quota", "safetensors", "torch", "torch-at-the-end", "access", "other"],
)
def test_what_a_full_disk_looks_like(error, full):
    assert is_full_disk(error) is full
