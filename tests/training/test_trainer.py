import copy

import pytest
import torch
from huggingface_hub import ModelCard
from torch.nn import functional
from transformers import TrainingArguments, ViTForImageClassification

from fatr_hf.training.metrics import accuracy_of_logits
from fatr_hf.training.preprocessing import collate
from fatr_hf.training.trainer import FATRTrainer, distillation_loss


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(64, 3, 32, 32, generator=generator)
    labels = torch.randint(5, (64,), generator=generator).tolist()
    return [{"pixel_values": image, "labels": label} for image, label in zip(pixel_values, labels, strict=True)]


@pytest.fixture
def make_trainer(images, tmp_path):
    def make(model, options=None, **arguments):
        settings = {"learning_rate": 1e-2, "optim": "sgd", "lr_scheduler_type": "constant", "max_steps": 2}
        settings |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "seed": 3}
        settings |= {"remove_unused_columns": False, "dataloader_pin_memory": False}
        return FATRTrainer(
            model,
            TrainingArguments(output_dir=str(tmp_path / "run"), **{**settings, **arguments}),
            data_collator=collate,
            train_dataset=images,
            eval_dataset=images,
            compute_metrics=accuracy_of_logits,
            **(options or {}),
        )

    return make


def assert_same_weights(one, other, **tolerance):
    for name, parameter in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], parameter, msg=name, **tolerance)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_loss_is_the_scaled_divergence(temperature):
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64).float()
    expected = torch.zeros(())
    for row_student, row_teacher in zip(student, teacher, strict=True):
        p, q = (row_teacher / temperature).softmax(0), (row_student / temperature).softmax(0)
        expected += (p * (p / q).log()).sum() * temperature**2 / len(student)
    torch.testing.assert_close(distillation_loss(student, teacher, temperature), expected)
    assert distillation_loss(teacher, teacher, temperature).abs() < 1e-6
    assert distillation_loss(student.bfloat16(), teacher, temperature).dtype == torch.float32


def test_loss_is_smoothed_cross_entropy_plus_distillation_in_training_only(make_fatr, stock, make_trainer, images):
    model = make_fatr()
    options = {"teacher": copy.deepcopy(stock), "distillation_weight": 0.5, "distillation_temperature": 2.0}
    trainer = make_trainer(model, options, label_smoothing_factor=0.1)
    batch = collate(images[:8])
    logits, teacher_logits = model(batch["pixel_values"]).logits, stock(batch["pixel_values"]).logits
    expected = functional.cross_entropy(logits, batch["labels"], label_smoothing=0.1)
    expected = expected + 0.5 * distillation_loss(logits, teacher_logits, 2.0)
    torch.testing.assert_close(trainer.compute_loss(model.train(), dict(batch)), expected)
    plain = functional.cross_entropy(logits, batch["labels"])
    torch.testing.assert_close(trainer.compute_loss(model.eval(), dict(batch)), plain)


@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["plain", "smoothed"])
@pytest.mark.parametrize("distils", [True, False], ids=["distilled", "no-teacher"])
def test_accumulation_of_8x4_equals_32x1(make_fatr, stock, make_trainer, smoothing, distils):
    start = make_fatr()
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
    assert_same_weights(*trained, atol=1e-6, rtol=0)
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
    model = make_fatr()
    metrics = make_trainer(model).evaluate()
    batch = collate(images)
    expected = (model(batch["pixel_values"]).logits.argmax(1) == batch["labels"]).double().mean().item()
    assert metrics["eval_accuracy"] == pytest.approx(expected)


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
    assert_same_weights(unbroken, resumed, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"distillation_weight": -1.0}, "distillation_weight=-1.0 must be at least 0"),
        ({"distillation_temperature": 0.0}, "distillation_temperature=0.0 must be above 0"),
    ],
    ids=["weight", "temperature"],
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


def test_card_of_the_trainer_is_the_models(make_fatr, make_trainer, tmp_path):
    trainer = make_trainer(make_fatr())
    trainer.evaluate()
    (tmp_path / "run").mkdir(exist_ok=True)
    trainer.create_model_card(model_name="vit-fatr", license="mit", dataset="digits", tags="tiny")
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.data.license == "mit"
    assert {"tiny", "fatr"} <= set(card.data.tags)
    assert card.data.eval_results[0].metric_value == pytest.approx(trainer.state.log_history[-1]["eval_accuracy"])
