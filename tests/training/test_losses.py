"""Which loss is trained, and which labels each takes."""

import copy

import pytest
import torch
from torch.nn import functional
from transformers import ViTModel

from fatr_hf.training.losses import classification_loss, distillation_loss
from fatr_hf.training.preprocessing import collate

TARGETS = {
    "multi_label_classification": torch.tensor([[1.0, 1, 0, 0, 1], [0, 1, 0, 0, 0]] * 2),
    "regression": torch.tensor([[3.0, -2, 0, 1, 8], [0, 0.5, 0, 0, -1]] * 2),
}


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_other_problems_train_with_the_loss_of_the_model(make_fatr, make_trainer, images, kind):
    """Accumulated, as in one batch."""
    start = make_fatr(problem_type=kind)
    data = [{**image, "labels": labels} for image, labels in zip(images, TARGETS[kind], strict=False)]
    batch = collate(data)
    trainer = make_trainer(start, {"train_dataset": data})
    expected = start(**batch).loss
    target = TARGETS[kind]
    own = functional.mse_loss if kind == "regression" else functional.binary_cross_entropy_with_logits
    assert torch.equal(expected, own(start(batch["pixel_values"]).logits, target))
    assert torch.equal(trainer.compute_loss(start, dict(batch)), expected)
    trained = []
    for size, steps in ((4, 1), (2, 2)):
        model = copy.deepcopy(start)
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1}
        make_trainer(model, {"train_dataset": data, "compute_metrics": None}, **settings).train()
        trained.append(model.classifier.weight)
    torch.testing.assert_close(*trained, atol=1e-6, rtol=0)
    assert (trained[0] - start.classifier.weight).abs().max() > 1e-5


@pytest.mark.parametrize("accumulation", [1, 4])
def test_own_loss_function_is_used_with_the_number_of_images(make_fatr, make_trainer, accumulation):
    calls = []

    def doubled(outputs, labels, num_items_in_batch=None):
        calls.append(int(num_items_in_batch))
        return 2 * functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    start, trained = make_fatr(), []
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": accumulation, "max_steps": 1}
    for options, rate in (({"compute_loss_func": doubled}, 1e-2), ({}, 2e-2)):
        model = copy.deepcopy(start)
        trainer = make_trainer(model, options, learning_rate=rate, max_grad_norm=0.0, **settings)
        trainer.train()
        trained.append(model.classifier.weight)
    torch.testing.assert_close(*trained, atol=1e-6, rtol=0)
    assert calls == [8 * accumulation] * accumulation


@pytest.mark.filterwarnings("ignore:Label smoothing is not compatible:UserWarning")
@pytest.mark.parametrize(
    ("options", "arguments", "fields", "words"),
    [
        ({"compute_loss_func": len, "teacher": True}, {}, {}, "teacher cannot be combined with compute_loss_func"),
        ({"compute_loss_func": len, "teacher": "ema", "ema_decay": 0.9}, {}, {}, "teacher cannot be combined with"),
        ({"teacher": True}, {}, {"problem_type": "regression"}, "combined with config.problem_type='regression'"),
        ({}, {"label_smoothing_factor": 0.1}, {"problem_type": "multi_label_classification"}, "label_smoothing_factor"),
        ({"compute_loss_func": len}, {"label_smoothing_factor": 0.1}, {}, "=0.1 cannot be combined with compute_loss"),
        ({}, {}, {"num_labels": 1}, "The model has one class, of which cross-entropy is always 0"),
    ],
    ids=["function", "function-ema", "regression", "smoothed-labels", "smoothed-function", "one-class"],
)
def test_losses_that_do_not_go_together_are_refused(make_fatr, make_trainer, options, arguments, fields, words):
    if options.get("teacher") is True:
        options = options | {"teacher": make_fatr()}
    with pytest.raises(ValueError, match=words):
        make_trainer(make_fatr(**fields), options, **arguments)


def test_one_number_is_learned_by_regression(make_fatr, make_trainer, images):
    model = make_fatr(num_labels=1, problem_type="regression")
    data = [{**image, "labels": torch.tensor(2.5)} for image in images]
    trainer = make_trainer(model, {"train_dataset": data, "eval_dataset": data, "compute_metrics": None})
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([[1.0, 1, 0, 0, 0]] * 2), r"labels\[0\]=\[1.0, 1.0, 0.0, 0.0, 0.0\] are not the shares"),
        (torch.tensor([[1.0, 0, 0, 0, 0], [2.0, -1, 0, 0, 0]]), r"labels\[1\]=\[2.0, -1.0, .*sum to 1, but sum to 1"),
        (torch.full((2, 5), torch.nan), "sum to nan"),
        (torch.zeros(2, 5, dtype=torch.float16), "but sum to 0"),
        (torch.tensor([[0, 1, 0, 1, 0]] * 2), r"must be class numbers \(batch,\) \(2,\), but are \(2, 5\)"),
        (torch.tensor([1, 5]), "labels hold 5, but the model has 5 classes: class numbers go from 0 to 4"),
        (torch.tensor([-1, 0]), "labels hold -1, but the model has 5 classes"),
    ],
    ids=["several", "negative", "nan", "zero", "several-integers", "from-one", "minus-one"],
)
def test_labels_that_are_no_classes_are_refused(make_fatr, make_trainer, images, labels, words):
    data = [{**image, "labels": label} for image, label in zip(images, labels, strict=False)]
    model = make_fatr()
    for act in (
        lambda: classification_loss(torch.zeros(2, 5), labels),
        lambda: make_trainer(model).compute_loss(model, collate(data)),
        lambda: make_trainer(model, {"train_dataset": data}).train(),
        lambda: make_trainer(model, {"eval_dataset": data}).evaluate(),
    ):
        with pytest.raises(ValueError, match=words):
            act()


def test_shares_in_half_precision_and_ignored_labels_are_taken():
    logits = torch.randn(3, 5, dtype=torch.float64).float()
    shares = torch.tensor([[0.3, 0.7, 0, 0, 0], [0.1, 0.2, 0.3, 0.3, 0.1], [1, 0, 0, 0, 0]]).bfloat16()
    expected = -(logits.log_softmax(1) * shares.float()).sum(1).mean()
    torch.testing.assert_close(classification_loss(logits, shares), expected, atol=1e-6, rtol=0)
    ignoring = classification_loss(logits, torch.tensor([1, -100, 2]))
    assert torch.equal(ignoring, functional.cross_entropy(logits[[0, 2]], torch.tensor([1, 2])))


@pytest.mark.parametrize("name", ["labels", "label"])
def test_labels_of_type_bool_are_class_numbers(make_fatr, make_trainer, images, name):
    start, trained = make_fatr(), []
    for kind in (bool, int):
        model = copy.deepcopy(start)
        data = [{"pixel_values": image["pixel_values"], name: kind(image["labels"] > 1)} for image in images]
        make_trainer(model, {"train_dataset": data, "data_collator": None}).train()
        trained.append(model.classifier.weight)
    assert torch.equal(*trained)


@pytest.mark.parametrize("name", ["labels", "label"])
@pytest.mark.parametrize("collator", [None, collate], ids=["default", "collate"])
def test_labels_that_are_text_are_refused(make_fatr, make_trainer, images, name, collator):
    data = [{"pixel_values": image["pixel_values"], name: "cat"} for image in images]
    with pytest.raises(ValueError, match=f"{name}='cat' is text, and must be the number of one of the 5 classes"):
        make_trainer(make_fatr(), {"train_dataset": data, "data_collator": collator}).train()


def test_training_without_labels_is_refused(make_fatr, make_trainer, images):
    data = [{"pixel_values": image["pixel_values"], "class": image["labels"]} for image in images]
    model = make_fatr()
    with pytest.raises(ValueError, match="Training needs labels, but the batch has pixel_values alone"):
        make_trainer(model, {"train_dataset": data}).train()
    with pytest.raises(ValueError, match="The loss needs labels, but the batch has pixel_values alone"):
        make_trainer(model).compute_loss(model, {"pixel_values": torch.zeros(1, 3, 32, 32)})


@pytest.mark.parametrize("collator", [None, collate], ids=["default", "collate"])
def test_images_without_labels_are_predicted(make_fatr, make_trainer, images, collator):
    model = make_fatr()
    data = [{"pixel_values": image["pixel_values"]} for image in images[:16]]
    trainer = make_trainer(model, {"data_collator": collator})
    result = trainer.predict(data)
    with torch.no_grad():
        expected = model(collate(data)["pixel_values"]).logits
    torch.testing.assert_close(torch.tensor(result.predictions), expected, atol=1e-5, rtol=0)
    assert result.label_ids is None
    assert "test_accuracy" not in result.metrics
    metrics = trainer.evaluate(data)
    assert "eval_loss" not in metrics
    assert "eval_accuracy" not in metrics


def test_logits_of_other_classes_are_not_compared():
    with pytest.raises(ValueError, match=r"student_logits are \(2, 5\) and teacher_logits \(2, 1\)"):
        distillation_loss(torch.zeros(2, 5), torch.zeros(2, 1), 1.0)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "2", None, True])
def test_temperatures_that_are_no_positive_numbers_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature="):
        distillation_loss(torch.zeros(2, 5), torch.zeros(2, 5), temperature)


def test_encoders_are_refused(make_fatr, make_trainer, stock_config):
    encoder = make_fatr().base_model
    with pytest.raises(ValueError, match="model is a FATRViTModel, which gives no class logits"):
        make_trainer(encoder)
    with pytest.raises(ValueError, match="teacher is a ViTModel, which gives no class logits"):
        make_trainer(make_fatr(), {"teacher": ViTModel(stock_config)})
