"""Keep ratios that change from step to step, and configurations that do not."""

import copy
from collections import Counter

import pytest
import torch
from transformers import TrainerCallback

from fatr_hf.modeling import admissible_keep_ratios
from fatr_hf.training.keep_ratio_callbacks import ElasticKeepRatio, KeepRatioWarmup


class Witness(TrainerCallback):
    """Notes the keep ratio in every forward pass of training and wherever else a step calls."""

    def __init__(self):
        self.inside, self.between = [], []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        model.vit.register_forward_pre_hook(lambda module, inputs: self.inside.append(module.config.keep_ratio))

    def note(self, args, state, control, model=None, **kwargs):
        self.between.append(model.config.keep_ratio)

    on_step_begin = on_pre_optimizer_step = on_step_end = note


@pytest.fixture
def train(make_trainer):
    """Trains with a callback and returns what a witness saw."""

    def run(model, callback, resume=None, interruption=None, **arguments):
        trainer, witness = make_trainer(model, **arguments), Witness()
        trainer.add_callback(callback)
        trainer.add_callback(witness)
        if interruption is not None:
            trainer.add_callback(interruption)
        trainer.train(resume_from_checkpoint=resume and f"{trainer.args.output_dir}/{resume}")
        return witness

    return run


def test_elastic_draws_every_ratio_and_leaves_the_configuration(make_fatr, train):
    witness = train(make_fatr(), ElasticKeepRatio(0.3, 0.7, seed=1, step=0.1), max_steps=60)
    counts = Counter(witness.inside)
    assert set(counts) == {0.3, 0.4, 0.5, 0.6, 0.7}
    assert max(counts.values()) < 25
    assert set(witness.between) == {0.7}


def test_elastic_draws_depend_on_seed_and_step_alone(make_fatr, train):
    """So that all processes draw the same, and a resumed run the same as an unbroken one."""
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "optim": "adamw_torch"}
    start, resumed = make_fatr(), make_fatr()
    unbroken = copy.deepcopy(start)
    whole = train(unbroken, ElasticKeepRatio(0.3, 0.8, seed=1), **settings)
    rest = train(resumed, ElasticKeepRatio(0.3, 0.8, seed=1), resume="checkpoint-3", **settings)
    assert rest.inside == whole.inside[3:]
    for name, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    other = train(copy.deepcopy(start), ElasticKeepRatio(0.3, 0.8, seed=2), **settings)
    assert other.inside != whole.inside


def test_elastic_training_moves_every_parameter(make_fatr, train):
    model = make_fatr(reduction_layers=[1, 2])
    before = copy.deepcopy(model.state_dict())
    train(model, ElasticKeepRatio(0.3, 0.8))
    assert [name for name, value in model.state_dict().items() if torch.equal(value, before[name])] == []


def test_checkpoints_hold_the_configured_ratio(make_fatr, train, tmp_path):
    train(make_fatr(), ElasticKeepRatio(0.3, 0.5), save_strategy="steps", save_steps=1)
    saved = type(make_fatr()).from_pretrained(tmp_path / "run" / "checkpoint-1")
    assert saved.config.keep_ratio == 0.7


def test_an_error_amid_a_step_leaves_the_configuration(make_fatr, train):
    class Interruption(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            model.classifier.register_forward_hook(lambda *_: 1 / 0)

    model = make_fatr()
    with pytest.raises(ZeroDivisionError):
        train(model, ElasticKeepRatio(0.3, 0.5), interruption=Interruption())
    assert model.config.keep_ratio == 0.7
    model.classifier._forward_hooks.clear()
    witness = train(model, ElasticKeepRatio(0.6, 0.6))
    assert witness.inside == [0.6, 0.6]
    assert model.config.keep_ratio == 0.7
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


@pytest.mark.parametrize(("steps", "reached"), [(4, 4), (0.5, 4)], ids=["steps", "share"])
def test_warmup_comes_down_in_a_straight_line(make_fatr, train, steps, reached):
    model = make_fatr(keep_ratio=[0.5, 0.6, 0.7])
    highest = admissible_keep_ratios(model.config)[-1]
    witness = train(model, KeepRatioWarmup(steps), max_steps=8)
    for step, ratios in enumerate(witness.inside):
        left = max(0.0, 1 - step / reached)
        expected = [ratio + left * (highest - ratio) for ratio in (0.5, 0.6, 0.7)]
        assert ratios == pytest.approx(expected)
    assert witness.between == [[0.5, 0.6, 0.7]] * 3 * 8


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ElasticKeepRatio(0.7, 0.3), r"from 0.7 to 0.3 must be ascending"),
        (lambda: ElasticKeepRatio(0.5, 1.0), r"from 0.5 to 1.0 must be ascending and inside \(0, 1\)"),
        (lambda: ElasticKeepRatio(0.5, 0.7, step=0), "step=0 must be above 0"),
        (lambda: KeepRatioWarmup(0), "keep_ratio_warmup=0 must be above 0"),
    ],
    ids=["descending", "one", "step", "no-steps"],
)
def test_bad_values_are_refused_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_the_model_cannot_do_is_refused(make_fatr, stock, train, make_trainer):
    with pytest.raises(ValueError, match=r"Keep ratios from 0.3 to 0.95 are to be drawn, but the schedule allows from"):
        train(make_fatr(), ElasticKeepRatio(0.3, 0.95))
    with pytest.raises(ValueError, match="which ViTForImageClassification is not"):
        train(stock, ElasticKeepRatio(0.3, 0.5))
    trainer = make_trainer(make_fatr())
    for callback in (ElasticKeepRatio(0.3, 0.4), KeepRatioWarmup(0.5)):
        trainer.add_callback(callback)
    with pytest.raises(ValueError, match="ElasticKeepRatio and KeepRatioWarmup both change the keep ratio"):
        trainer.train()


def test_both_ends_of_the_range_are_drawn_whatever_the_step():
    assert ElasticKeepRatio(0.3, 0.9, step=0.25).ratios == [0.3, 0.55, 0.8, 0.9]
    assert ElasticKeepRatio(0.3, 0.5, step=0.1).ratios == [0.3, 0.4, 0.5]
