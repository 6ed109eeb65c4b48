"""YOLOS beyond what holds for every family: positions between layers, the order of tokens, detection and its loss."""

import pytest
import torch
from family_cases import DETECTORS, ENCODERS, built, images, yolos
from PIL import Image
from rounding import assert_rounded_alike
from transformers import AutoModelForObjectDetection, YolosForObjectDetection, YolosImageProcessor, pipeline
from transformers.utils import is_scipy_available

import fatr_hf
from fatr_hf.analysis.trace import trace
from fatr_hf.baselines.macs import count_macs
from fatr_hf.modeling import schedule_macs
from fatr_hf.modeling.encoder import run_layers
from fatr_hf.modeling.patch_embedding import stretch_positions
from fatr_hf.modeling.positions import Positions, add_positions
from fatr_hf.modeling.token_reduction import dense_layout, dense_sequence, reduce_tokens, with_residual

REDUCTION = {"reduction_layers": [1, 2], "keep_ratio": [0.6, 0.5], "dc_windows": [4, 2]}
SIMILAR = {"reduction_layers": [1, 2], "keep_ratio": 0.7, "fold": "similar"}
folds = pytest.mark.parametrize("reduction", [REDUCTION, SIMILAR], ids=["windows", "similar"])


@torch.no_grad()
def test_states_and_maps_are_in_stocks_order():
    stock = built(ENCODERS["yolos"])
    for model in (stock, reduced := fatr_hf.convert(stock, **REDUCTION)):
        model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    with reduced.reduction(False):
        found = reduced(images(2), **asked)
    expected = stock(images(2), **asked)
    assert_rounded_alike(found.hidden_states, expected.hidden_states)
    assert_rounded_alike(found.attentions, expected.attentions)
    assert_rounded_alike(reduced.eval()(images(2), return_dict=False)[0], reduced(images(2)).last_hidden_state)


@folds
@torch.no_grad()
def test_sources_are_places_of_the_sequence_that_is_given_back(reduction):
    """What is restored by them keeps every kept patch, so that a reduction in the last layer shows where they point."""
    stock = built(ENCODERS["yolos"])
    late = {**reduction, "reduction_layers": [3], "keep_ratio": 0.9, "reweight_attention": False}
    late["dc_windows"] = 0 if "fold" in reduction else 2
    model = fatr_hf.convert(stock, **late, dc_position_embeddings=False)
    outputs = model(images(2), output_token_sources=True, output_token_sizes=True)
    sources, sizes = outputs.token_sources[-1], outputs.token_sizes
    for image, own in zip(sources, sizes, strict=True):
        assert torch.bincount(image, minlength=len(own)).tolist() == own.tolist()
    assert not sizes[:, :1].any()
    assert not sizes[:, -5:].any()
    detector = fatr_hf.convert(built(DETECTORS["yolos"]), **reduction)
    found = detector(images(2), output_token_sources=True).token_sources
    assert all(map(torch.equal, found, detector.vit(images(2), output_token_sources=True).token_sources))


@pytest.mark.parametrize("windows", [3, 1], ids="windows{}".format)
def test_added_before_or_behind_a_reduction_is_the_same_on_the_grid(windows):
    """A residual holds what the mean of a table's rows leaves out: on the full grid every patch gets its own row."""
    tokens, table = (torch.randn(*shape, 2 + 25, 6, dtype=torch.float64) for shape in ((2,), (1,)))
    scores = torch.rand(2, 25, dtype=torch.float64)
    layout = with_residual(dense_layout(2, (5, 5), 2, tokens.device), tokens)
    early, _ = add_positions(tokens, layout, Positions(added=table), 1)
    expected, _ = reduce_tokens(early, scores, layout, 9, windows)
    reduced, after = reduce_tokens(tokens, scores, layout, 9, windows)
    after = after._replace(residual=layout.residual)
    late, last = add_positions(reduced, after, Positions(added=table), 1)
    assert_rounded_alike(late, expected)
    gained = dense_sequence(late, last) - dense_sequence(reduced, after)
    assert_rounded_alike(gained, table[0].expand(2, -1, -1))
    assert add_positions(tokens, layout, Positions(added=table), 0)[0] is tokens


@torch.no_grad()
def test_dense_stages_of_an_unreduced_encoder_are_its_states():
    model = fatr_hf.convert(built(ENCODERS["yolos"]), **REDUCTION)
    tokens, layout, positions = model.start(images(2))
    plan = model.config.plan(reduce=False)
    encoded = run_layers(model.layers, tokens, layout, plan, positions, dense_stages=range(5))
    with model.reduction(False):
        states = model(images(2), output_hidden_states=True).hidden_states
    for own, state in zip(encoded.dense, states, strict=True):
        assert_rounded_alike(torch.cat([own[:, :1], own[:, 6:], own[:, 1:6]], dim=1), state)


@folds
@torch.no_grad()
def test_a_trace_ends_where_the_encoder_does(reduction):
    model = fatr_hf.convert(built(ENCODERS["yolos"]), **reduction)
    *_, last = trace(model, images(2))
    tokens = last.leaving.tokens
    state = model(images(2), output_hidden_states=True).hidden_states[-1]
    assert_rounded_alike(torch.cat([tokens[:, :1], tokens[:, 6:], tokens[:, 1:6]], dim=1), state)


def test_tables_of_several_layers_stretch_one_by_one():
    tables = torch.randn(3, 2 + 20, 6, dtype=torch.float64)
    together = stretch_positions(tables, (4, 5), (6, 3))
    assert_rounded_alike(together, torch.stack([stretch_positions(each, (4, 5), (6, 3)) for each in tables]))


@torch.no_grad()
def test_pipeline_and_post_processing_of_stock():
    stock = built(DETECTORS["yolos"]).float()
    model = fatr_hf.convert(stock, **REDUCTION)
    processor = YolosImageProcessor(size={"shortest_edge": 40, "longest_edge": 60})
    picture = Image.effect_noise((70, 50), 90).convert("RGB")
    given = processor(picture, return_tensors="pt")
    with model.reduction(False):
        found = processor.post_process_object_detection(model(**given), threshold=0.0, target_sizes=[(50, 70)])[0]
        detected = pipeline("object-detection", model=model, image_processor=processor)(picture, threshold=0.0)
    expected = processor.post_process_object_detection(stock(**given), threshold=0.0, target_sizes=[(50, 70)])[0]
    assert_rounded_alike((found["scores"], found["boxes"]), (expected["scores"], expected["boxes"]))
    assert torch.equal(found["labels"], expected["labels"])
    assert len(detected) == len(expected["scores"]) == 5
    assert {each["label"] for each in detected} <= set(stock.config.id2label.values())


@pytest.mark.skipif(not is_scipy_available(), reason="stock's loss matches boxes and objects with scipy")
def test_the_loss_is_stocks():
    stock = built(DETECTORS["yolos"]).float()  # the only dtype that it takes
    model = fatr_hf.convert(stock, **REDUCTION)
    objects = {"class_labels": torch.tensor([0, 2]), "boxes": torch.rand(2, 4) / 2 + 0.2}
    labels = [objects, {"class_labels": torch.tensor([1]), "boxes": torch.rand(1, 4) / 2 + 0.2}]
    pixel_values = images(2).float()
    with model.reduction(False):
        found = model(pixel_values, labels=labels)
    expected = stock(pixel_values, labels=labels)
    assert_rounded_alike(found.loss, expected.loss)
    assert_rounded_alike(found.loss_dict, expected.loss_dict)
    model.train()(pixel_values, labels=labels).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_new_classes_renew_the_last_layer_of_the_head_alone(tmp_path):
    stock = built(DETECTORS["yolos"])
    stock.save_pretrained(tmp_path)
    model = fatr_hf.FATRYolosForObjectDetection.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert model.class_labels_classifier.layers[-1].out_features == 8
    kept = model.class_labels_classifier.layers[0].weight
    assert_rounded_alike(kept, stock.class_labels_classifier.layers[0].weight.to(kept.dtype))
    assert isinstance(AutoModelForObjectDetection.from_config(model.config), fatr_hf.FATRYolosForObjectDetection)


@pytest.mark.parametrize("size", [(32, 32), (40, 56)], ids=["own-size", "another-size"])
def test_multiply_accumulates_are_those_that_are_counted(size):
    model = fatr_hf.convert(YolosForObjectDetection(yolos()), **REDUCTION)
    sums = 4 * sum(step.tokens_in * 32 for step in model.config.plan(size) if step.follows_reduction)
    assert schedule_macs(model.config, size) == pytest.approx(count_macs(model, size), abs=sums)


def test_what_a_configuration_cannot_be_is_refused_in_words():
    with pytest.raises(Exception, match="num_detection_tokens=0 must be an integer from 1"):
        fatr_hf.FATRYolosConfig(num_detection_tokens=0)
    with pytest.raises(Exception, match="auxiliary_loss=True is not supported"):
        fatr_hf.FATRYolosConfig(auxiliary_loss=True)
    with pytest.raises(ValueError, match="cannot be loaded as a FATR Yolos: its encoder must be Yolos's"):
        fatr_hf.FATRYolosConfig.from_dict({"model_type": "vit"})


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"image_size": (48, 64)}, "Keep the checkpoint's image_size"),
        ({"num_labels": 7}, "For new classes give ignore_mismatched_sizes=True."),
        ({"intermediate_size": 32}, "Keep the checkpoint's own configuration."),
    ],
    ids=["size", "classes", "width"],
)
def test_weights_of_other_shapes_are_refused_with_advice_that_helps(tmp_path, fields, advice):
    built(DETECTORS["yolos"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds weights of other shapes") as refused:
        fatr_hf.FATRYolosForObjectDetection.from_pretrained(tmp_path, **fields)
    assert str(refused.value).partition(" and must be ")[2].partition(". ")[2].startswith(advice)
