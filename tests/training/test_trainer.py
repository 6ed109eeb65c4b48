import copy

import pytest
import torch
from huggingface_hub import ModelCard
from rounding import assert_rounded_alike
from torch.nn import functional
from transformers import ViTForImageClassification

from fatr_hf.training.losses import distillation_loss
from fatr_hf.training.preprocessing import MixingCollator, ReproducibleImages, collate

# transformers 5.17 does not know the new name yet.
ignore_old_name = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


def assert_same_weights(one, other):
    for name, parameter in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], parameter), name


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_loss_is_the_scaled_divergence(temperature):
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64).float()
    expected = torch.zeros(())
    for row_student, row_teacher in zip(student, teacher, strict=True):
        p, q = (row_teacher / temperature).softmax(0), (row_student / temperature).softmax(0)
        expected += (p * (p / q).log()).sum() * temperature**2 / len(student)
    assert_rounded_alike(distillation_loss(student, teacher, temperature), expected)
    assert distillation_loss(teacher, teacher, temperature).abs() < 1e-6
    assert distillation_loss(student.bfloat16(), teacher, temperature).dtype == torch.float32


def test_loss_is_smoothed_cross_entropy_plus_distillation_in_training_only(make_fatr, stock, make_trainer, images):
    model, stock = make_fatr().double(), stock.double()
    options = {"teacher": copy.deepcopy(stock), "distillation_weight": 0.5, "distillation_temperature": 2.0}
    trainer = make_trainer(model, options, label_smoothing_factor=0.1)
    batch = collate(images[:8])
    logits, teacher_logits = model(batch["pixel_values"]).logits, stock(batch["pixel_values"]).logits
    expected = functional.cross_entropy(logits, batch["labels"], label_smoothing=0.1)
    expected = expected + 0.5 * distillation_loss(logits, teacher_logits, 2.0)
    assert_rounded_alike(trainer.compute_loss(model.train(), dict(batch)), expected, torch.float32)
    plain = functional.cross_entropy(logits, batch["labels"])
    assert_rounded_alike(trainer.compute_loss(model.eval(), dict(batch)), plain, torch.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["plain", "smoothed"])
@pytest.mark.parametrize("distils", [True, False], ids=["distilled", "no-teacher"])
def test_accumulation_of_8x4_equals_32x1(make_fatr, stock, make_trainer, smoothing, distils):
    start, stock = make_fatr().double(), stock.double()
    trained = []
    for batch_size, steps in ((8, 4), (32, 1)):
        model = copy.deepcopy(start)
        options = {"teacher": copy.deepcopy(stock)} if distils else {}
        make_trainer(
            model,
            options,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            label_smoothing_factor=smoothing,
        ).train()
        trained.append(model)
    assert_rounded_alike(*(model.state_dict() for model in trained))
    change = trained[0].classifier.weight - start.classifier.weight
    assert change.abs().max() > 1e-4


def test_training_moves_every_parameter_and_leaves_the_teacher(make_fatr, stock, make_trainer):
    model = make_fatr(reduction_layers=[1, 2])  # what DC tokens hold after the last attention reaches no class
    before, teacher_before = copy.deepcopy(model.state_dict()), copy.deepcopy(stock.state_dict())
    trainer = make_trainer(model, {"teacher": stock}, weight_decay=0.0)
    trainer.train()
    assert [name for name, value in model.state_dict().items() if torch.equal(value, before[name])] == []
    assert all(torch.equal(value, teacher_before[name]) for name, value in stock.state_dict().items())
    assert not stock.training
    assert not any(parameter.requires_grad for parameter in stock.parameters())
    assert trainer.args.ddp_find_unused_parameters is False


def test_evaluation_gives_accuracy(make_fatr, make_trainer, images):
    model = make_fatr().double()
    metrics = make_trainer(model).evaluate()
    batch = collate(images)
    expected = (model(batch["pixel_values"]).logits.argmax(1) == batch["labels"]).double().mean().item()
    assert metrics["eval_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("distils", [True, False], ids=["distilled", "no-teacher"])
def test_soft_labels_that_are_certain_are_class_numbers(make_fatr, stock, make_trainer, images, distils):
    model = make_fatr().double().train()
    trainer = make_trainer(model, {"teacher": stock.double()} if distils else {}, label_smoothing_factor=0.1)
    batch = collate(images[:8])
    soft = batch | {"labels": functional.one_hot(batch["labels"], 5).double()}
    assert_rounded_alike(trainer.compute_loss(model, dict(soft)), trainer.compute_loss(model, dict(batch)))


def test_mixing_is_for_training_alone_and_leaves_the_problem_type(make_fatr, make_trainer):
    model = make_fatr()
    trainer = make_trainer(model, {"train_collator": MixingCollator(5, "deit")})
    assert next(iter(trainer.get_train_dataloader()))["labels"].shape == (8, 5)
    assert next(iter(trainer.get_eval_dataloader()))["labels"].shape == (8,)
    before = copy.deepcopy(model.state_dict())
    trainer.train()
    trainer.evaluate()
    assert model.config.problem_type is None
    assert not torch.equal(model.classifier.weight, before["classifier.weight"])


@pytest.mark.parametrize("labels", [torch.rand(8), torch.rand(8, 4)], ids=["no-classes", "other-classes"])
def test_soft_labels_of_another_shape_are_refused(make_fatr, make_trainer, images, labels):
    model = make_fatr()
    batch = collate(images[:8]) | {"labels": labels}
    with pytest.raises(ValueError, match=r"labels of type torch.float32 must be \(batch, classes\) \(8, 5\)"):
        make_trainer(model).compute_loss(model, batch)


def test_repeats_come_in_a_row(make_fatr, make_trainer):
    indices = list(range(60))
    options = {"repeats": 3, "train_dataset": indices, "data_collator": lambda batch: {"labels": torch.tensor(batch)}}
    trainer = make_trainer(make_fatr(num_labels=60), options, per_device_train_batch_size=6)
    batches = [batch["labels"].tolist() for batch in trainer.get_train_dataloader()]
    assert len(batches) == 10
    for batch in batches:
        assert batch[0] == batch[1] == batch[2] != batch[3] == batch[4] == batch[5]


def test_resuming_goes_on_in_the_order_of_the_repeats(make_fatr, make_trainer, images):
    """In the middle of the second epoch of four steps."""
    start, seen = make_fatr(), []
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 6, "per_device_train_batch_size": 16}
    numbered = [example | {"number": number} for number, example in enumerate(images)]
    for checkpoint in (None, "checkpoint-6"):
        order = []

        def note(examples, order=order):
            order.append([example["number"] for example in examples])
            return collate(examples)

        options = {"repeats": 3, "train_dataset": numbered, "train_collator": note}
        trainer = make_trainer(copy.deepcopy(start), options, **settings)
        trainer.train(resume_from_checkpoint=checkpoint and f"{trainer.args.output_dir}/{checkpoint}")
        seen.append(order)
    assert seen[0][4:] != seen[0][:4]
    assert seen[0][-2:] == seen[1][-2:]


@ignore_old_name
@pytest.mark.parametrize("precision", [{}, {"bf16": True}], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_training_learns(make_fatr, stock, make_trainer, images, precision, checkpointing):
    """Brightness tells the class."""
    bright = [example | {"pixel_values": example["pixel_values"] + example["labels"]} for example in images]
    settings = {"max_steps": 12, "optim": "adamw_torch", "learning_rate": 3e-3, "logging_steps": 1, **precision}
    options = {"teacher": stock, "distillation_weight": 0.1, "ema_decay": 0.9, "train_dataset": bright}
    trainer = make_trainer(make_fatr(), options, gradient_checkpointing=checkpointing, **settings)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


@ignore_old_name
def test_recomputed_gradients_are_the_stored_ones(make_fatr, make_trainer):
    start, trained = make_fatr().double(), []
    for checkpointing in (False, True):
        model = copy.deepcopy(start)
        make_trainer(model, gradient_checkpointing=checkpointing).train()
        trained.append(model)
    assert_rounded_alike(*(model.state_dict() for model in trained))


def test_compiled_training_is_the_eager_one(make_fatr, make_trainer):
    start, trained = make_fatr().double(), []
    for compiles in (False, True):
        model = copy.deepcopy(start)
        trainer = make_trainer(
            model, {"ema_decay": 0.5}, torch_compile=compiles, torch_compile_backend="aot_eager" if compiles else None
        )
        trainer.train()
        trainer.evaluate()
        trained.append(model)
    assert_rounded_alike(*(model.state_dict() for model in trained))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_within_an_epoch_augments_as_the_unbroken_run(make_fatr, make_trainer, images, workers):
    """Though the loader has fetched a batch ahead when the checkpoint is written."""

    class NoisyImages(list):
        def __getitem__(self, place):
            example = super().__getitem__(place)
            return example | {"pixel_values": example["pixel_values"] + torch.randn(3, 32, 32)}

    options = {"train_dataset": ReproducibleImages(NoisyImages(images), 3), "train_collator": MixingCollator(5, "deit")}
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
    settings |= {"per_device_train_batch_size": 16, "dataloader_num_workers": workers}
    start, trained = make_fatr(hidden_dropout_prob=0.1), []
    for checkpoint in (None, "checkpoint-6"):  # in the second epoch of 4 steps
        model = copy.deepcopy(start)
        trainer = make_trainer(model, options, **settings)
        trainer.train(resume_from_checkpoint=checkpoint and f"{trainer.args.output_dir}/{checkpoint}")
        trained.append(model)
    assert_same_weights(*trained)


@pytest.mark.parametrize("kind", ["stock", "fatr"])
def test_resuming_gives_the_unbroken_result(make_fatr, stock_config, make_trainer, kind):
    """Stock ViT's files hold older names, from which the Trainer alone would restore nothing."""
    make = make_fatr if kind == "fatr" else lambda: ViTForImageClassification(stock_config)
    start = make()
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "optim": "adamw_torch"}
    unbroken = copy.deepcopy(start)
    trainer = make_trainer(unbroken, per_device_train_batch_size=16, **settings)
    trainer.train()
    resumed = make()
    trainer = make_trainer(resumed, per_device_train_batch_size=16, **settings)
    trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-3")
    assert_same_weights(unbroken, resumed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"distillation_weight": -1.0}, "distillation_weight=-1.0 must be at least 0"),
        ({"distillation_temperature": 0.0}, "distillation_temperature=0.0 must be above 0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 must be at least 0 and below 1"),
        ({"repeats": 0}, "repeats=0 must be at least 1"),
        ({"teacher": "ema"}, "teacher='ema' is the average of the student's weights: set ema_decay"),
        ({"teacher": "mean"}, "teacher='mean' must be a model, or 'ema'"),
    ],
    ids=["weight", "temperature", "decay", "repeats", "teacher-without-average", "unknown-teacher"],
)
def test_bad_options_are_refused(make_fatr, make_trainer, options, words):
    with pytest.raises(ValueError, match=words):
        make_trainer(make_fatr(), options)


def test_unfit_teachers_are_refused(make_fatr, make_trainer):
    model = make_fatr()
    with pytest.raises(ValueError, match="teacher is the model itself"):
        make_trainer(model, {"teacher": model})
    with pytest.raises(ValueError, match="teacher has 7 classes, the model has 5"):
        make_trainer(model, {"teacher": make_fatr(num_labels=7)})
    with pytest.raises(ValueError, match="teacher takes images of 64 x 64 pixels, the model of 32 x 32"):
        make_trainer(model, {"teacher": make_fatr(image_size=64)})
    names = [{"id2label": dict(enumerate(labels))} for labels in ("abcde", "abdce")]
    with pytest.raises(ValueError, match="class 2 is 'd' and not 'c'; class 3 is 'c' and not 'd'; 2 of 5 differ"):
        make_trainer(make_fatr(**names[0]), {"teacher": make_fatr(**names[1])})
    make_trainer(make_fatr(**names[0]), {"teacher": make_fatr()})  # a teacher whose classes have no names


def test_teacher_that_shares_weights_is_refused(make_fatr, make_trainer):
    model, teacher = make_fatr(), make_fatr()
    teacher.classifier = model.classifier
    with pytest.raises(ValueError, match="shares weights with it"):
        make_trainer(model, {"teacher": teacher})


def test_resuming_from_an_empty_folder_is_refused(make_fatr, make_trainer):
    with pytest.raises(ValueError, match=r"resume_from_checkpoint=True, but .*run holds no complete checkpoint"):
        make_trainer(make_fatr()).train(resume_from_checkpoint=True)


def test_card_of_the_trainer_is_the_models(make_fatr, make_trainer, tmp_path):
    trainer = make_trainer(make_fatr())
    trainer.evaluate()
    (tmp_path / "run").mkdir(exist_ok=True)
    trainer.create_model_card(model_name="vit-fatr", license="mit", dataset="digits", tags="tiny")
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.data.license == "mit"
    assert {"tiny", "fatr"} <= set(card.data.tags)
    assert card.data.eval_results[0].metric_value == pytest.approx(trainer.state.log_history[-1]["eval_accuracy"])
