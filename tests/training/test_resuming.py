"""Checkpoints that a run goes on from, searches, and training twice."""

import copy
import json
from pathlib import Path

import pytest
import torch

from fatr_hf.training.resuming import BATCH_FILE

SAVED = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "per_device_train_batch_size": 8}


@pytest.fixture
def checkpoint(make_fatr, make_trainer):
    """Of a run of four steps, the second."""
    trainer = make_trainer(make_fatr(), **SAVED)
    trainer.train()
    return Path(trainer.args.output_dir) / "checkpoint-2"


def test_another_total_batch_is_refused(make_fatr, make_trainer, checkpoint):
    assert json.loads((checkpoint / BATCH_FILE).read_text()) == {"batch": 8, "accumulation_steps": 1, "total": 8}
    was = r"was trained with 8 images a step \(batch 8 x accumulation 1 x processes 1\)"
    for batch, accumulation in ((16, 1), (4, 1), (8, 2)):
        settings = SAVED | {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        has = rf"this run has {batch * accumulation} images a step \(batch {batch} x accumulation {accumulation} x"
        with pytest.raises(ValueError, match=f"checkpoint-2 {was}, and {has}"):
            make_trainer(make_fatr(), **settings).train(str(checkpoint))
        with pytest.raises(ValueError, match=has):
            make_trainer(make_fatr(), **settings).train(True)


def test_the_same_total_batch_is_resumed(make_fatr, make_trainer, checkpoint):
    settings = SAVED | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = make_trainer(make_fatr(), **settings)
    trainer.train(str(checkpoint))
    assert trainer.state.global_step == 4


def test_of_a_checkpoint_without_record_the_batch_is_compared(make_fatr, make_trainer, checkpoint):
    (checkpoint / BATCH_FILE).unlink()
    with pytest.raises(ValueError, match="per_device_train_batch_size of 8, and this run has 16"):
        make_trainer(make_fatr(), **SAVED | {"per_device_train_batch_size": 16}).train(str(checkpoint))
    trainer = make_trainer(make_fatr(), **SAVED)
    trainer.train(str(checkpoint))
    assert trainer.state.global_step == 4


def test_a_finished_run_has_nothing_left_to_train(make_fatr, make_trainer, checkpoint, caplog):
    model = make_fatr()
    trainer = make_trainer(model, **SAVED | {"max_steps": 2})
    trainer.train(str(checkpoint))
    assert "is of step 2, and training ends at step 2 (max_steps, num_train_epochs): nothing is left" in caplog.text
    assert trainer.state.global_step == 2
    saved = type(model).from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_a_run_beyond_its_last_step_is_refused(make_fatr, make_trainer, checkpoint):
    with pytest.raises(ValueError, match=r"is of step 2, and training ends at step 1 .*: resume from an earlier one"):
        make_trainer(make_fatr(), **SAVED | {"max_steps": 1}).train(str(checkpoint))


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "trainer_state.json"])
def test_a_checkpoint_without_all_that_resuming_needs_is_refused(make_fatr, make_trainer, checkpoint, file):
    (checkpoint / file).unlink()
    with pytest.raises(ValueError, match=r"does not hold all that resuming needs.*save_only_model=True"):
        make_trainer(make_fatr(), **SAVED).train(str(checkpoint))


def test_sharded_weights_of_a_stock_model_are_restored(stock, make_trainer, tmp_path):
    options = SAVED | {"max_steps": 2}
    make_trainer(stock, **options).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (checkpoint / "model.safetensors").unlink()
    stock.save_pretrained(checkpoint, max_shard_size="40KB")
    again = type(stock)(stock.config)
    make_trainer(again, **options).train(str(checkpoint))
    weights = stock.state_dict()
    assert [name for name, value in again.state_dict().items() if not torch.equal(value, weights[name])] == []


def test_checkpoints_of_other_models_are_refused(make_fatr, make_trainer, checkpoint):
    with pytest.raises(ValueError, match=r"is of another model: classifier.bias is \(5,\) there and \(7,\) here"):
        make_trainer(make_fatr(num_labels=7), **SAVED).train(str(checkpoint))
    with pytest.raises(ValueError, match=r"is of another model: .* is absent there and \("):
        make_trainer(make_fatr(num_hidden_layers=5), **SAVED).train(str(checkpoint))
    config = json.loads((checkpoint / "config.json").read_text())
    config["id2label"] = dict(enumerate("abcde"))
    config["label2id"] = {name: place for place, name in config["id2label"].items()}
    (checkpoint / "config.json").write_text(json.dumps(config))
    named = make_fatr(id2label=dict(enumerate("abced")))
    with pytest.raises(ValueError, match="other classes, or another order of them: class 3 is 'd' and not 'e'"):
        make_trainer(named, **SAVED).train(str(checkpoint))


def search(trainer):
    seen = []

    def objective(metrics):
        average = None if getattr(trainer, "ema", None) is None else trainer.ema.updates
        seen.append((metrics["eval_loss"], average))
        return metrics["eval_loss"]

    best = trainer.hyperparameter_search(
        direction="minimize",
        n_trials=2,
        backend="optuna",
        compute_objective=objective,
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-3)},
    )
    return best, seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.5}, {"teacher": True}], ids=["plain", "average", "teacher"])
def test_trials_of_a_search_do_not_see_each_other(make_fatr, make_trainer, options):
    pytest.importorskip("optuna")
    start = make_fatr()
    options = {name: make_fatr() if name == "teacher" else value for name, value in options.items()}
    options |= {"model_init": lambda trial=None: copy.deepcopy(start)}
    trainer = make_trainer(None, options, eval_strategy="steps", eval_steps=2)
    best, seen = search(trainer)
    assert best.run_id == "0"
    assert seen[0] == seen[1]
    assert seen[0][1] == (2 if "ema_decay" in options else None)


@pytest.mark.filterwarnings("ignore")
def test_every_model_of_a_search_is_checked(make_fatr, make_trainer):
    pytest.importorskip("optuna")
    models = iter([make_fatr(), make_fatr(), make_fatr(num_labels=4)])
    options = {"model_init": lambda: next(models), "teacher": make_fatr()}
    trainer = make_trainer(None, options, eval_strategy="steps", eval_steps=2)
    with pytest.raises(ValueError, match="teacher has 5 classes, the model has 4"):
        search(trainer)


@pytest.mark.parametrize("made", [False, True], ids=["model", "model_init"])
def test_training_twice_is_training_longer_or_anew(make_fatr, make_trainer, made):
    start = make_fatr()
    options = {"ema_decay": 0.5} | ({"model_init": lambda: copy.deepcopy(start)} if made else {})
    trainer = make_trainer(None if made else copy.deepcopy(start), options)
    results = []
    for _ in range(2):
        trainer.train()
        results.append((trainer.model.classifier.weight.detach().clone(), trainer.ema.updates))
    assert torch.equal(results[0][0], results[1][0]) is made
    assert results[0][1] == results[1][1] == 2
