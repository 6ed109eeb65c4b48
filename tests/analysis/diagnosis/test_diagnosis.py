"""The diagnosis of tiny models: every number beside a plain computation, and what is refused."""

import weakref

import pytest
import torch
from rounding import FLOAT32
from torch.nn import functional

from fatr_hf import FATRViTConfig, FATRViTModel
from fatr_hf.analysis.diagnosis.diagnose import diagnose, find_fixed_sinks
from fatr_hf.analysis.diagnosis.result import Diagnosis, FixedSink
from fatr_hf.analysis.images import Batch
from fatr_hf.analysis.outputs import model_output

LABELS = torch.tensor([0, 3, 1])


@pytest.fixture
def model(make_sharp_fatr):
    return make_sharp_fatr(reduction_layers=[0, 2], keep_ratio=[0.6, 0.5], dc_windows=[2, 1])


@pytest.fixture
def diagnosis(model, pixel_values):
    return diagnose(model, Batch(pixel_values, LABELS))


def test_answers_are_those_of_the_model_beside_itself_unreduced(model, diagnosis, pixel_values):
    reduced = model_output(model, pixel_values)
    with model.reduction(False):
        unreduced = model_output(model, pixel_values)
    expected = {
        "cosine": functional.cosine_similarity(reduced, unreduced),
        "agreement": (reduced.argmax(1) == unreduced.argmax(1)).float(),
        "accuracy": (reduced.argmax(1) == LABELS).float(),
        "unreduced_accuracy": (unreduced.argmax(1) == LABELS).float(),
        "accuracy_lost": (unreduced.argmax(1) == LABELS).float() - (reduced.argmax(1) == LABELS).float(),
    }
    for name, values in expected.items():
        assert diagnosis.answers[name].mean == pytest.approx(values.double().mean().item(), abs=1e-10)
        assert diagnosis.answers[name].standard_error == pytest.approx(values.double().std().item() / 3**0.5, abs=1e-10)


def test_what_a_reduction_keeps_is_what_the_model_keeps(model, diagnosis, pixel_values):
    outputs = model(pixel_values, output_attentions=True, output_token_sources=True)
    first = outputs.token_sources[0]
    kept = (first >= 1) & (first < 1 + 38)
    mass = outputs.attentions[0].mean(dim=(1, 2))[:, 1:]
    expected = ((mass * kept).sum(dim=1) / mass.sum(dim=1)).mean().item()
    assert diagnosis.reduction_layers == (0, 2)
    assert diagnosis.by_layer("mass_kept")[0].mean == pytest.approx(expected, rel=1e-10)
    assert diagnosis.by_layer("patches_kept")[0].mean == pytest.approx(38 / 64)
    assert diagnosis.by_layer("patches_kept")[2].mean == pytest.approx(19 / 38)


def test_attractors_are_those_of_the_unreduced_model(make_sharp_fatr, pixel_values):
    model = make_sharp_fatr(reduction_layers=[0])
    with torch.no_grad():
        model.vit.embeddings.position_embeddings[0, 1 + 10] *= 1000
    diagnosis = diagnose(model, pixel_values)
    with model.reduction(False):
        outputs = model(pixel_values, output_attentions=True, output_hidden_states=True)
    mass = outputs.attentions[1].mean(dim=(1, 2))[:, 1:]
    norms = outputs.hidden_states[2][:, 1:].norm(dim=2)
    high = norms >= 3 * norms.median(dim=1, keepdim=True).values
    assert high[:, 10].all()
    assert diagnosis.by_layer("high_norms")[1].mean == pytest.approx(high.sum(dim=1).double().mean().item())
    expected = (mass * high).sum(dim=1).mean().item()
    assert diagnosis.by_layer("mass_of_high_norms")[1].mean == pytest.approx(expected, rel=1e-10)
    sinks = mass * 65 >= 10
    assert diagnosis.by_layer("sinks")[1].mean == pytest.approx(sinks.sum(dim=1).double().mean().item())


def test_fixed_sinks_are_places_that_are_sinks_in_half_of_the_images():
    counts = torch.zeros(3, 2, 4, dtype=torch.int64)
    counts[1, 0, 3], counts[2, 1, 1], counts[0, 0, 0] = 20, 40, 19
    assert find_fixed_sinks(counts, 40) == (FixedSink(1, 0, 3, 0.5), FixedSink(2, 1, 1, 1.0))


@pytest.mark.parametrize(("images", "found"), [(29, 0), (30, 8)], ids=["too-few", "enough"])
def test_few_images_do_not_tell_a_place(images, found):
    assert len(find_fixed_sinks(torch.full((1, 2, 4), images), images)) == found


def test_state_by_layer_of_all_three(diagnosis):
    assert {name: each.tokens for name, each in diagnosis.analyses.items()} == {
        "unreduced": (65, 65, 65, 65, 65),
        "reduced": (65, 43, 43, 21, 21),
        "random": (65, 43, 43, 21, 21),
    }
    ranks = [row.mean for row in diagnosis.analyses["unreduced"].select("effective_rank")]
    assert len(ranks) == 5


def test_batches_do_not_change_the_diagnosis(model, diagnosis, pixel_values):
    one_by_one = diagnose(model, Batch(pixel_values, LABELS), batch_size=1)
    assert one_by_one.images == diagnosis.images == 3
    assert one_by_one.answers.keys() == diagnosis.answers.keys()
    assert [row[:2] for row in one_by_one.rows] == [row[:2] for row in diagnosis.rows]
    for row, other in zip(one_by_one.rows, diagnosis.rows, strict=True):
        assert row.mean == pytest.approx(other.mean, rel=FLOAT32, abs=FLOAT32)  # of eager attention's softmax


def test_images_are_not_held(model):
    held = []

    def data():
        for seed in range(3):
            batch = Batch(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
            held.append(weakref.ref(batch.pixel_values))
            yield batch
            del batch
            assert all(reference() is None for reference in held[:-1])

    assert diagnose(model, data()).images == 3


def test_the_model_is_left_as_it_was(model, pixel_values):
    before, config = model_output(model, pixel_values), model.config.to_dict()
    diagnose(model, pixel_values)
    assert model.config.to_dict() == config
    assert torch.equal(model_output(model, pixel_values), before)


def test_goes_to_json_and_back(diagnosis):
    assert Diagnosis.from_json(diagnosis.to_json()) == diagnosis


def test_an_encoder_is_judged_by_its_cosine(tiny, pixel_values):
    model = FATRViTModel(FATRViTConfig(**tiny)).eval()
    model.set_attn_implementation("eager")
    diagnosis = diagnose(model, Batch(pixel_values, LABELS))
    assert "cosine" in diagnosis.answers
    assert not {"agreement", "accuracy", "divergence"} & diagnosis.answers.keys()


def test_without_labels_there_is_no_accuracy(model, pixel_values):
    assert not any("accuracy" in name for name in diagnose(model, pixel_values).answers)


def test_a_single_image_has_no_standard_error(model, pixel_values):
    diagnosis = diagnose(model, pixel_values[:1])
    assert {figure.standard_error for figure in diagnosis.answers.values()} == {None}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda model: model.set_attn_implementation("sdpa") or model, "needs attention maps: .* not 'sdpa'"),
        (lambda model: model.train(), "model in training mode"),
        (lambda model: model.fuse(), "A fused model cannot be diagnosed"),
        (lambda model: model.set_reduction(keep_ratio=1.0) or model, "keep_ratio=1.0 reduces nothing"),
        (
            lambda model: model.set_reduction(reduction_layers=[], keep_ratio=0.7, dc_windows=[]) or model,
            "layers=\\[\\]",
        ),
    ],
    ids=["no-maps", "training", "fused", "keeps-all", "no-layers"],
)
def test_what_cannot_be_diagnosed_is_refused(model, pixel_values, spoil, words):
    with pytest.raises(ValueError, match=words):
        diagnose(spoil(model), pixel_values)


def test_no_images_are_refused(model):
    with pytest.raises(ValueError, match="no images"):
        diagnose(model, [])


def test_outputs_that_are_not_finite_are_refused(model, pixel_values):
    with torch.no_grad():
        model.classifier.bias[0] = torch.inf
    with pytest.raises(ValueError, match=r"in torch\.float64 are NaN or infinite"):
        diagnose(model, pixel_values)
