"""What is refused before the first step, and data that must be left as they are."""

import copy

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, Subset
from transformers import ViTImageProcessor, ViTModel

from fatr_hf.training import guards
from fatr_hf.training.keep_ratio_callbacks import ElasticKeepRatio, KeepRatioWarmup
from fatr_hf.training.preprocessing import MixingCollator, ReproducibleImages, collate, image_transform
from fatr_hf.training.reduction_log import ReductionLogCallback
from fatr_hf.training.trainer import FATRTrainer

HALF = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("part", ["whole", "classifier"])
def test_weights_in_half_precision_are_not_trained(make_fatr, make_trainer, dtype, part):
    model = make_fatr()
    (model if part == "whole" else model.classifier).to(dtype)
    with pytest.raises(ValueError, match=rf"that are to be trained are {dtype}, .*dtype=torch.float32"):
        make_trainer(model).train()


def test_frozen_weights_may_be_in_half_precision(make_fatr, make_trainer):
    model = make_fatr()
    model.vit.requires_grad_(False).to(torch.bfloat16)
    before = model.classifier.weight.clone()
    make_trainer(model, bf16=True).train()
    assert not torch.equal(model.classifier.weight, before)
    assert model.classifier.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [*HALF, torch.float64], ids=str)
@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "autocast"])
def test_teacher_of_another_number_format_teaches(make_fatr, make_trainer, dtype, mixed):
    teacher, start, trained = make_fatr().to(dtype), make_fatr(), []
    for each in (copy.deepcopy(teacher).float(), teacher):
        model = copy.deepcopy(start)
        make_trainer(model, {"teacher": each}, bf16=mixed).train()
        trained.append(model.classifier.weight)
    assert torch.equal(*trained)
    assert {weight.dtype for weight in teacher.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["bf16_full_eval", "fp16_full_eval"])
@pytest.mark.parametrize("average", [None, 0.5], ids=["weights", "average"])
def test_evaluation_in_half_precision_leaves_the_weights(make_fatr, make_trainer, images, kind, average):
    model = make_fatr()
    trainer = make_trainer(model, {"ema_decay": average}, **{kind: True})
    dtype = torch.bfloat16 if kind.startswith("bf16") else torch.float16
    for train in (False, True):
        if train:
            trainer.train()
        before = copy.deepcopy(model.state_dict())
        predictions = torch.tensor(trainer.predict(images[:8]).predictions)
        trainer.evaluate()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
        with trainer.averaged_weights(), torch.no_grad():
            half = copy.deepcopy(model).to(dtype)
            expected = half(collate(images[:8])["pixel_values"]).logits
        assert torch.equal(predictions.float(), expected.float())
    start = copy.deepcopy(model)
    trainer.train()
    assert not torch.equal(start.vit.layers[0].mlp.fc1.weight, model.vit.layers[0].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be a number above 0"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001 must be a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a number above 0"),
        ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs=0 must be above 0"),
        ({"max_steps": -1, "num_train_epochs": -3}, "num_train_epochs=-3 must be above 0"),
        ({"max_steps": -1, "num_train_epochs": float("nan")}, "num_train_epochs=nan must be a number, above 0"),
        ({"max_steps": 0}, "max_steps=0 trains nothing"),
        ({"max_steps": 2.5}, "max_steps=2.5 must be an integer"),
        ({"max_steps": -2}, "max_steps=-2 must be at least -1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0 must be at least 1"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(f"{name}={each}" for name, each in value.items()),
)
def test_runs_that_train_nothing_are_refused(make_fatr, make_trainer, arguments, words):
    model = make_fatr()
    trainer = make_trainer(model, **arguments)
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    with pytest.raises(ValueError, match=words):
        trainer.train()


def test_models_and_data_without_anything_to_train_are_refused(make_fatr, make_trainer, images):
    with pytest.raises(ValueError, match="All parameters of the model are frozen"):
        make_trainer(make_fatr().requires_grad_(False)).train()
    with pytest.raises(ValueError, match="The training set holds no images"):
        make_trainer(make_fatr(), {"train_dataset": []}).train()
    with pytest.raises(ValueError, match="The training set holds 3 images, a step needs 8"):
        make_trainer(make_fatr(), {"train_dataset": images[:3]}, dataloader_drop_last=True).train()


def test_own_optimiser_brings_its_own_learning_rate(make_fatr, make_trainer):
    model = make_fatr()
    before = model.classifier.weight.clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    make_trainer(model, {"optimizers": (optimiser, None)}, learning_rate=0.0).train()
    assert optimiser.state_dict()["param_groups"][0]["lr"] == pytest.approx(0.1)
    assert not torch.equal(model.classifier.weight, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"distillation_weight": float("nan")}, "distillation_weight=nan must be a number, at least 0"),
        ({"distillation_weight": "1"}, "distillation_weight='1' must be a number"),
        ({"distillation_temperature": "hot"}, "distillation_temperature='hot' must be a number, above 0"),
        ({"distillation_temperature": float("inf")}, "distillation_temperature=inf must be a number"),
        ({"distillation_temperature": None}, "distillation_temperature=None must be a number"),
        ({"repeats": 2.5}, "repeats=2.5 must be an integer, at least 1"),
        ({"repeats": "3"}, "repeats='3' must be an integer"),
        ({"repeats": True}, "repeats=True must be an integer"),
        ({"ema_decay": "0.99"}, "ema_decay='0.99' must be a number, at least 0"),
        ({"ema_decay": 99.98}, "ema_decay=99.98 must be at least 0 and below 1"),
        ({"train_collator": "deit"}, "train_collator='deit' must be a function"),
        ({"compute_metrics": "accuracy"}, "compute_metrics='accuracy' must be a function"),
        ({"compute_loss_func": "focal"}, "compute_loss_func='focal' must be a function"),
        ({"teacher": "google/vit-base-patch16-224"}, "teacher='google/vit-base-patch16-224' must be a model, or 'ema'"),
        ({"teacher": ViTImageProcessor()}, "teacher is a ViTImageProcessor, and must be a model"),
        ({"teacher": ViTModel}, "teacher is a ViTModel, and must be a model"),
        ({"teacher": torch.nn.Linear(2, 2)}, "teacher is a Linear, and must be a model"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(f"{name}" for name in value),
)
def test_mistaken_options_are_refused(make_fatr, make_trainer, options, words):
    with pytest.raises(ValueError, match=words):
        make_trainer(make_fatr(), options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"label_smoothing_factor": 10}, "label_smoothing_factor=10 must be at most 1"),
        ({"label_smoothing_factor": -0.1}, "label_smoothing_factor=-0.1 must be at least 0"),
        ({"label_names": ["target"]}, r"label_names=\['target'\] must be \['labels'\] or None"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy='group_by_length' is for texts"),
    ],
    ids=["smoothing", "negative-smoothing", "label-names", "lengths"],
)
def test_mistaken_arguments_are_refused(make_fatr, make_trainer, arguments, words):
    with pytest.raises(ValueError, match=words):
        make_trainer(make_fatr(), **arguments)


def test_models_and_arguments_of_another_kind_are_refused(make_fatr, images):
    with pytest.raises(ValueError, match="model is 'facebook/deit-tiny-patch16-224', and must be a model"):
        FATRTrainer("facebook/deit-tiny-patch16-224")
    with pytest.raises(ValueError, match="args is a list, and must be TrainingArguments"):
        FATRTrainer(make_fatr(), images)


def test_images_come_in_their_own_order_if_told_so(make_fatr, make_trainer):
    def order(**arguments):
        options = {"train_dataset": list(range(20)), "data_collator": lambda batch: {"labels": torch.tensor(batch)}}
        trainer = make_trainer(make_fatr(num_labels=20), options, **arguments)
        return torch.cat([batch["labels"] for batch in trainer.get_train_dataloader()]).tolist()

    assert order(train_sampling_strategy="sequential") == list(range(20))
    assert sorted(order()) == list(range(20)) != order()
    assert order() == order(data_seed=3) != order(data_seed=4)
    with pytest.raises(ValueError, match="draws every image once: repeats=2 must be 1"):
        make_trainer(make_fatr(), {"repeats": 2}, train_sampling_strategy="sequential")


def test_repeats_need_a_data_set_that_is_drawn_from(make_fatr, make_trainer, images):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(images)

    class StreamWithLength(Stream):
        def __len__(self):
            return len(images)

    for stream in (Stream(), StreamWithLength()):
        with pytest.raises(ValueError, match="repeats=2 must be 1 for a data set without a length"):
            make_trainer(make_fatr(), {"repeats": 2, "train_dataset": stream})
        trainer = make_trainer(make_fatr(), {"train_dataset": stream})
        trainer.train()
        assert trainer.state.global_step == 2


@pytest.fixture
def pictures():
    """A data set whose transform makes pixel values of the column image, and the pixel values."""
    rng = np.random.default_rng(0)
    given = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(16)]
    features = datasets.Features(
        {"image": datasets.Image(), "labels": datasets.Value("int64"), "place": datasets.Value("int64")}
    )
    columns = {"image": given, "labels": [0, 1] * 8, "place": list(range(16))}
    plain = datasets.Dataset.from_dict(columns, features=features)
    return plain.with_transform(image_transform(ViTImageProcessor(size={"height": 32, "width": 32})))


@pytest.mark.parametrize("collator", [None, collate], ids=["default", "collate"])
@pytest.mark.parametrize("kind", ["transform", "subset", "reproducible"])
def test_transformed_pictures_keep_their_columns(make_fatr, make_trainer, pictures, collator, kind):
    data = {"transform": pictures, "subset": Subset(pictures, range(16))}
    data |= {"reproducible": ReproducibleImages(pictures, 3)}
    trained, start = [], make_fatr()
    examples = [{"pixel_values": each["pixel_values"], "labels": each["labels"]} for each in pictures]
    for dataset in (examples, data[kind]):
        model = copy.deepcopy(start)
        options = {
            "train_dataset": dataset,
            "eval_dataset": {"one": dataset, "two": dataset},
            "data_collator": collator,
        }
        trainer = make_trainer(model, options, remove_unused_columns=True)
        trainer.train()
        metrics = trainer.evaluate()
        assert metrics["eval_one_loss"] == metrics["eval_two_loss"] == trainer.evaluate(dataset)["eval_loss"]
        assert trainer.predict(dataset).predictions.shape == (16, 5)
        assert trainer.args.remove_unused_columns is True
        trained.append(model.classifier.weight)
    assert torch.equal(*trained)


def test_collators_see_the_columns_that_they_take(make_fatr, make_trainer, images):
    """The draw of reproducible images, which no model takes, decides how a batch is mixed."""
    batches = []
    for removes in (False, True):
        options = {"train_dataset": ReproducibleImages(images, 3), "train_collator": MixingCollator(5, "deit")}
        trainer = make_trainer(make_fatr(), options, remove_unused_columns=removes)
        torch.manual_seed(len(batches))
        batches.append(next(iter(trainer.get_train_dataloader())))
    assert torch.equal(batches[0]["pixel_values"], batches[1]["pixel_values"])
    assert torch.equal(batches[0]["labels"], batches[1]["labels"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ElasticKeepRatio(30, 90), "range of keep ratios from 30 to 90 must be ascending and inside"),
        (lambda: ElasticKeepRatio("0.3", 0.9), "low='0.3' must be a number"),
        (lambda: ElasticKeepRatio(0.3, None), "high=None must be a number"),
        (lambda: ElasticKeepRatio(float("nan"), 0.9), "low=nan must be a number"),
        (lambda: ElasticKeepRatio(0.3, 0.9, step=5), "step=5 must be at most the range from 0.3 to 0.9"),
        (lambda: ElasticKeepRatio(0.3, 0.9, step="0.1"), "step='0.1' must be a number, above 0"),
        (lambda: ElasticKeepRatio(0.3, 0.9, seed=1.5), "seed=1.5 must be an integer, at least 0"),
        (lambda: KeepRatioWarmup("10"), "keep_ratio_warmup='10' must be a number, above 0"),
        (lambda: KeepRatioWarmup(float("nan")), "keep_ratio_warmup=nan must be a number"),
        (lambda: KeepRatioWarmup(True), "keep_ratio_warmup=True must be a number"),
        (lambda: ReductionLogCallback(None), "trainer is a NoneType, and must be a Trainer"),
    ],
    ids=[
        "percent",
        "text",
        "none",
        "nan",
        "step",
        "step-text",
        "seed",
        "text-steps",
        "nan-steps",
        "bool",
        "no-trainer",
    ],
)
def test_mistaken_callbacks_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("images", [2.5, "8", True, -1])
def test_mistaken_numbers_of_logged_images_are_refused(make_fatr, make_trainer, images):
    trainer = make_trainer(make_fatr())
    with pytest.raises(ValueError, match=f"num_images={images!r} must be"):
        ReductionLogCallback(trainer, num_images=images)


def test_frozen_parameters_of_the_reduction_are_warned_of(make_fatr, monkeypatch):
    messages, model = [], make_fatr()
    monkeypatch.setattr(guards.logger, "warning", messages.append)
    guards.check_trainable(model)
    assert messages == []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("classifier" in name)
    guards.check_trainable(model)
    [message] = messages
    assert "parameters of the reduction are frozen" in message
    assert "FATRPeftModel" in message


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda own, other: torch.optim.SGD(other, lr=0.1), "holds no parameter of the model that is trained"),
        (lambda own, other: torch.optim.SGD(own, lr=0.0), "has a learning rate of 0"),
    ],
    ids=["another-models", "rate-0"],
)
def test_optimizers_that_change_nothing_are_refused(make_fatr, make, words):
    model = make_fatr()
    with pytest.raises(ValueError, match=words):
        guards.check_optimizer(make(model.parameters(), make_fatr().parameters()), model)


def test_an_optimizer_in_its_warm_up_is_none_of_them(make_fatr):
    model = make_fatr()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    guards.check_optimizer(optimizer, model)


def test_compiled_models_and_models_without_classes_are_refused(make_fatr, make_trainer):
    with pytest.raises(ValueError, match=r"model is compiled, .* torch_compile=True in the TrainingArguments"):
        make_trainer(torch.compile(make_fatr(), backend="eager"))
    with pytest.raises(ValueError, match="The model has no classes"):
        make_trainer(make_fatr(num_labels=0))
    model = make_fatr()
    model.config.return_dict = False
    with pytest.raises(ValueError, match=r"config\.return_dict=False gives tuples"):
        make_trainer(model)


def test_images_that_are_not_finite_stop_an_evaluation(make_fatr, make_trainer):
    images = [{"pixel_values": torch.zeros(3, 32, 32), "labels": 0} for _ in range(4)]
    images[2]["pixel_values"] = torch.full((3, 32, 32), torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite in 1 of 4 images of a batch, such as number 2"):
        make_trainer(make_fatr(), per_device_eval_batch_size=4).evaluate(images)


def test_a_trial_that_diverges_is_pruned():
    optuna = pytest.importorskip("optuna")
    trial = optuna.trial.FixedTrial({})
    with pytest.raises(optuna.TrialPruned, match="nan"), guards.pruning(trial):
        raise FloatingPointError("The loss is nan")
    with pytest.raises(FloatingPointError), guards.pruning(None):
        raise FloatingPointError("The loss is nan")
