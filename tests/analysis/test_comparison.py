import math

import numpy as np
import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf import FATRViTModel
from fatr_hf.analysis.analyze import Analysis, Row, analyze
from fatr_hf.analysis.compare import Comparison, Contender, Figure, compare, comparison_table
from fatr_hf.analysis.images import Batch
from fatr_hf.analysis.model_measures import LAYER_MEASURES
from fatr_hf.analysis.outputs import is_classifier, model_output
from fatr_hf.baselines.macs import count_macs
from fatr_hf.baselines.matched import matched_rivals

MEASURES = ["effective_rank", "column_mass"]
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])


@pytest.fixture
def images():
    return torch.randn(7, 3, 32, 32)


@pytest.fixture
def models(make_sharp_fatr):
    """The unreduced model, FATR and a rival of its cost."""
    fatr = make_sharp_fatr()
    rivals = matched_rivals(fatr, ["unreduced", "evit"])
    return {"unreduced": rivals["unreduced"], "FATR": fatr, "evit": rivals["evit"]}


def with_error(values):
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return pytest.approx((np.mean(values), error, len(values)), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("batch_size", [3, 32], ids="batches-of-{}".format)
@torch.no_grad()
def test_answers_are_those_of_the_models(models, images, batch_size):
    comparison = compare(models, Batch(images, LABELS), MEASURES, batch_size)
    logits = {name: model(images).logits.double().numpy() for name, model in models.items()}
    shares = {name: np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for name, each in logits.items()}
    first = next(iter(logits))
    assert [each.name for each in comparison.contenders] == list(models)
    for each in comparison.contenders:
        own, reference = logits[each.name], logits[first]
        norms = np.linalg.norm(own, axis=1) * np.linalg.norm(reference, axis=1)
        divergence = (shares[first] * np.log(shares[first] / shares[each.name])).sum(axis=1)
        assert list(each.answers) == ["cosine", "divergence", "agreement", "accuracy"]
        assert each.answers["cosine"] == with_error((own * reference).sum(axis=1) / norms)
        assert each.answers["divergence"] == with_error(divergence)
        assert each.answers["agreement"] == with_error(own.argmax(axis=1) == reference.argmax(axis=1))
        assert each.answers["accuracy"] == with_error(own.argmax(axis=1) == LABELS.numpy())
        assert each.macs == count_macs(models[each.name])
        assert each.analysis == analyze(models[each.name], images, MEASURES, batch_size)
    assert comparison.analyses == {each.name: each.analysis for each in comparison.contenders}


def test_the_reference_agrees_with_itself_and_others_less(models, images):
    reference, *others = compare(models, images, MEASURES).contenders
    assert {name: figure.mean for name, figure in reference.answers.items()} == {
        "cosine": pytest.approx(1),
        "divergence": 0,
        "agreement": 1,
    }
    for each in others:
        assert each.answers["cosine"].mean < 0.999
        assert each.answers["divergence"].mean > 1e-3
        assert each.macs < reference.macs


def test_a_generator_and_a_single_image_will_do(models, images):
    comparison = compare(models, ({"pixel_values": image} for image in images[:1]), MEASURES)
    for each in comparison.contenders:
        assert each.analysis.images == 1
        assert {figure.standard_error for figure in each.answers.values()} == {None}


def test_by_default_everything_is_measured_that_all_models_allow(models, images):
    assert "attention_entropy" in compare(models, images[:2]).contenders[0].analysis.measures
    models["evit"].set_attn_implementation("sdpa")
    comparison = compare(models, images[:2])
    for each in comparison.contenders:
        assert not any(
            LAYER_MEASURES[name].needs_attention for name in each.analysis.measures if name in LAYER_MEASURES
        )
        assert "collapse_ratio" in each.analysis.measures


@pytest.mark.parametrize("pooling", [True, False], ids=["pooler", "first-token"])
@torch.no_grad()
def test_encoders_have_a_cosine_alone(make_sharp_fatr, images, pooling):
    config = make_sharp_fatr().config
    fatr = FATRViTModel(config, add_pooling_layer=pooling).double().eval()
    models = matched_rivals(fatr, ["unreduced"]) | {"FATR": fatr}
    assert isinstance(models["unreduced"], FATRViTModel)
    reference, other = compare(models, Batch(images, LABELS), ["stable_rank"]).contenders
    assert set(reference.answers) == set(other.answers) == {"cosine"}
    outputs = [model(images) for model in models.values()]
    features = [each.pooler_output if pooling else each.last_hidden_state[:, 0] for each in outputs]
    expected = torch.cosine_similarity(*features, dim=1).mean()
    assert other.answers["cosine"].mean == pytest.approx(float(expected), rel=1e-10)


def test_a_classifier_without_classes_is_an_encoder(make_sharp_fatr, images):
    model = make_sharp_fatr(num_labels=0)
    assert not is_classifier(model)
    assert_rounded_alike(model_output(model, images), model.vit(images).last_hidden_state[:, 0])
    assert is_classifier(make_sharp_fatr())


def test_outputs_are_in_float32_or_better_and_without_gradient(models, images):
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        output = model_output(models["FATR"].to(dtype), images)
        assert (output.dtype, output.requires_grad) == (expected, False)


# Refusals


def untouched():
    """Data that nobody may look at."""
    raise AssertionError("data was read before the arguments were checked")
    yield


def test_no_models_and_unknown_measures_are_refused_at_once(models):
    with pytest.raises(ValueError, match="There are no models to compare"):
        compare({}, untouched())
    with pytest.raises(ValueError, match="Unknown measure 'rank': choose from spectrum"):
        compare(models, untouched(), ["rank"])
    models["evit"].set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="'column_mass' needs attention maps"):
        compare(models, untouched(), MEASURES)


def test_models_with_other_classes_are_refused(models, make_sharp_fatr, images):
    models["other"] = make_sharp_fatr(num_labels=6)
    with pytest.raises(ValueError, match="other gives 6 numbers for an image and the first model 5: only models with"):
        compare(models, images)


def test_what_analyze_refuses_is_refused(models, images):
    models["FATR"].train()
    with pytest.raises(ValueError, match="training mode"):
        compare(models, images)
    models["FATR"].eval()
    with pytest.raises(ValueError, match="There are no images"):
        compare(models, [])


# What is given


def test_json_gives_the_comparison_back(models, images):
    for data in (images[:1], Batch(images, LABELS)):
        comparison = compare(models, data, MEASURES)
        assert Comparison.from_json(comparison.to_json()) == comparison


def last_row(measure, layer, mean, error):
    return Row(measure, layer, None, mean, error, 2)


def test_table():
    unreduced = Analysis(
        2, (65, 65, 65), (last_row("effective_rank", 1, 9.0, 0.1), last_row("effective_rank", 2, 20.12345, 0.25))
    )
    reduced = Analysis(2, (65, 40), (last_row("effective_rank", 1, 10.0, None),))
    answers = {"cosine": Figure(1.0, 0.0, 2), "agreement": Figure(1.0, None, 1)}
    comparison = Comparison(
        (
            Contender("unreduced", 4_000_000, answers, unreduced),
            Contender("FATR", 2_600_000, answers | {"cosine": Figure(0.98765, 0.01234, 2)}, reduced),
            Contender("broken", 1_000_000, {}, Analysis(2, (65, 1), ())),
        )
    )
    assert comparison_table(comparison).splitlines() == [
        "| model | multiply-accumulates | cosine | agreement | tokens left | effective rank |",
        "|---|---|---|---|---|---|",
        "| unreduced | 4.0 M (1.00) | 1 ± 0 | 1 | 65 | 20.12 ± 0.25 |",
        "| FATR | 2.6 M (0.65) | 0.9877 ± 0.012 | 1 | 40 | 10 |",
        "| broken | 1.0 M (0.25) |  |  | 1 |  |",
        "",
        "broken: the outputs of 2 of 2 images are NaN or infinite.",
    ]


def test_models_of_other_depth_and_broken_ones_stand_in_the_table(models, make_model, make_sharp_fatr, images):
    models["shallow"], models["broken"] = make_sharp_fatr(num_hidden_layers=2), make_model("evit")
    with torch.no_grad():
        models["broken"].model.vit.layers[3].mlp.fc2.bias.fill_(torch.nan)
    comparison = compare(models, Batch(images, LABELS), ["effective_rank", "pairwise_cosine"])
    # Not-a-number names a class, too, which is no answer.
    assert comparison.contenders[-1].answers == {}
    *_, shallow, broken, _, note = comparison_table(comparison).splitlines()
    assert note == "broken: the outputs of 7 of 7 images are NaN or infinite."
    assert shallow.count("±") == 6
    assert broken.endswith("|  |  |")
    assert Comparison.from_json(comparison.to_json()) == comparison


def test_without_measures_the_table_has_costs_and_answers(models, images):
    header, *_ = comparison_table(compare(models, images, [])).splitlines()
    assert header == "| model | multiply-accumulates | cosine | divergence | agreement | tokens left |"
