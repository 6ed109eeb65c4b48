"""The average of the weights: its values, and that it is evaluated, saved, resumed and taught with."""

import copy

import pytest
import torch
from rounding import FLOAT32, assert_rounded_alike
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

from fatr_hf.training.ema import EMA_FILE, EMACallback
from fatr_hf.training.losses import distillation_loss
from fatr_hf.training.preprocessing import collate


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(other[name], value), name


@pytest.mark.parametrize("warmup", [False, True], ids=["constant", "warm-up"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_average_after_some_steps(warmup, dtype):
    model = torch.nn.Linear(3, 2).to(dtype)
    callback = EMACallback(0.9, warmup=warmup)
    callback.start(model)
    expected = model.weight.detach().double()
    for step in range(1, 8):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
        callback.update(model)
    average = callback.local_averages(model)["weight"]
    assert average.dtype == torch.float32
    assert_rounded_alike(average, expected, torch.float32)
    assert callback.updates == 7


def test_average_counts_optimiser_steps_and_not_accumulated_batches(make_fatr, make_trainer):
    trainer = make_trainer(make_fatr(), {"ema_decay": 0.9}, gradient_accumulation_steps=3, max_steps=4)
    trainer.train()
    assert trainer.ema.updates == 4


def test_average_is_evaluated_and_the_weights_come_back(make_fatr, make_trainer, images):
    model = make_fatr().double()
    trainer = make_trainer(model, {"ema_decay": 0.9}, learning_rate=0.3, max_steps=4)
    before_training = trainer.evaluate()["eval_loss"]
    trainer.train()
    trained = weights(model)
    measured = trainer.evaluate()["eval_loss"]
    logits = trainer.predict(images).predictions
    assert_equal(trained, weights(model))
    averaged = copy.deepcopy(model).eval()
    averaged.load_state_dict(trainer.ema.local_averages(model))
    batch = collate(images)
    expected = averaged(batch["pixel_values"]).logits.detach()
    assert measured == pytest.approx(functional.cross_entropy(expected, batch["labels"]).item(), rel=FLOAT32)
    assert_rounded_alike(torch.from_numpy(logits), expected)
    own = functional.cross_entropy(model.eval()(batch["pixel_values"]).logits, batch["labels"]).item()
    assert abs(own - measured) > 1e-4
    assert before_training != measured
    trainer.use_averaged_weights()
    assert_equal(weights(averaged), weights(model))


def test_weights_come_back_from_an_evaluation_that_fails(make_fatr, make_trainer):
    def fail(prediction):
        raise RuntimeError("no metric")

    model = make_fatr()
    trainer = make_trainer(model, {"ema_decay": 0.9, "compute_metrics": fail}, learning_rate=0.3)
    trainer.train()
    trained = weights(model)
    with pytest.raises(RuntimeError, match="no metric"):
        trainer.evaluate()
    assert_equal(trained, weights(model))


def test_checkpoint_holds_the_average_and_resuming_goes_on_with_it(make_fatr, make_trainer):
    """In the middle of an epoch of four steps."""
    start, finished = make_fatr(hidden_dropout_prob=0.1), []
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
    settings |= {"per_device_train_batch_size": 16, "learning_rate": 1e-3}
    for checkpoint in (None, "checkpoint-2"):
        model = copy.deepcopy(start) if checkpoint is None else make_fatr(hidden_dropout_prob=0.1)
        trainer = make_trainer(model, {"ema_decay": 0.9}, **settings)
        folder = trainer.args.output_dir
        trainer.train(resume_from_checkpoint=checkpoint and f"{folder}/{checkpoint}")
        finished.append((weights(model), trainer.ema.local_averages(model), trainer.ema.updates))
    assert_equal(finished[0][0], finished[1][0])
    assert_equal(finished[0][1], finished[1][1])
    assert finished[0][2] == finished[1][2] == 6
    with safe_open(f"{folder}/checkpoint-4/{EMA_FILE}", framework="pt") as file:
        assert file.metadata()["updates"] == "4"
        assert set(file.keys()) == set(finished[0][0])


def test_checkpoints_without_a_fitting_average_are_refused(make_fatr, make_trainer, tmp_path):
    trainer = make_trainer(make_fatr(), save_strategy="steps", save_steps=2)
    trainer.train()
    checkpoint = f"{trainer.args.output_dir}/checkpoint-2"
    with pytest.raises(ValueError, match="holds no average of the weights"):
        make_trainer(make_fatr(), {"ema_decay": 0.9}, max_steps=4).train(resume_from_checkpoint=checkpoint)
    callback, other = EMACallback(), torch.nn.Linear(2, 2)
    callback.start(other)
    callback.save(tmp_path, other)
    callback.start(trainer.model)
    with pytest.raises(ValueError, match="is of another model"):
        callback.load(tmp_path, trainer.model)


def test_best_model_comes_with_its_average(make_fatr, make_trainer):
    """The loss falls; as the highest is asked for, the first checkpoint is the best."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    settings |= {"per_device_train_batch_size": 64, "learning_rate": 0.1}
    model = make_fatr()
    trainer = make_trainer(model, {"ema_decay": 0.9}, **settings)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best.endswith("checkpoint-2")
    assert trainer.ema.updates == 2
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[0], rel=FLOAT32)
    assert_equal(load_file(f"{best}/model.safetensors"), weights(model))


def test_several_evaluation_sets_are_each_evaluated_with_the_average(make_fatr, make_trainer, images):
    model = make_fatr()
    trainer = make_trainer(model, {"ema_decay": 0.9, "eval_dataset": {"one": images, "other": images[:8]}})
    trainer.train()
    trained = weights(model)
    metrics = trainer.evaluate()
    assert_equal(trained, weights(model))
    trainer.use_averaged_weights()
    assert trainer.evaluate()["eval_other_loss"] == pytest.approx(metrics["eval_other_loss"], rel=FLOAT32)


@pytest.fixture
def one_process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_sharded_parameters_are_averaged_as_plain_ones(make_fatr, pixel_values, tmp_path, one_process_group):
    plain, callbacks = make_fatr().double(), [EMACallback(0.9), EMACallback(0.9)]
    sharded = copy.deepcopy(plain)
    for layer in sharded.vit.layers:
        fully_shard(layer)
    fully_shard(sharded)
    for callback, model in zip(callbacks, (plain, sharded), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        callback.start(model)
        for _ in range(3):
            model(pixel_values).logits.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            callback.update(model)
        callback.save(tmp_path / type(model).__name__, model)
    files = [load_file(tmp_path / type(model).__name__ / EMA_FILE) for model in (plain, sharded)]
    assert_rounded_alike(*files, roundings=8)  # the average is in float32
    with torch.no_grad():
        own = sharded(pixel_values).logits
        with callbacks[1].averaged_weights(sharded):
            averaged = sharded(pixel_values).logits
        assert_rounded_alike(sharded(pixel_values).logits, own)
        callbacks[0].copy_to(plain)
        assert_rounded_alike(averaged, plain(pixel_values).logits, torch.float32)
    assert (own - averaged).abs().max() > 1e-3
    resumed = EMACallback(0.9)
    resumed.start(sharded)
    resumed.load(tmp_path / type(plain).__name__, sharded)
    assert_rounded_alike(callbacks[1].local_averages(sharded), resumed.local_averages(sharded), roundings=8)
    assert resumed.updates == 3


def test_average_as_teacher(make_fatr, make_trainer, images):
    model = make_fatr().double()
    options = {"ema_decay": 0.9, "teacher": "ema", "distillation_weight": 0.5}
    trainer = make_trainer(model, options, learning_rate=0.3)
    trainer.train()
    averaged = copy.deepcopy(model).eval()
    averaged.load_state_dict(trainer.ema.local_averages(model))
    batch = collate(images[:8])
    logits = model.train()(batch["pixel_values"]).logits
    expected = functional.cross_entropy(logits, batch["labels"])
    expected = expected + 0.5 * distillation_loss(logits, averaged(batch["pixel_values"]).logits, 1.0)
    assert_rounded_alike(trainer.compute_loss(model, dict(batch)), expected, torch.float32)
    assert model.training
