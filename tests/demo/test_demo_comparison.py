"""What the demo computes: the library's answers by the plans of the contestants."""

import numpy as np
import PIL.Image
import pytest
import torch
from rounding import FLOAT32, assert_rounded_alike
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPVisionConfig,
    CLIPVisionModel,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from fatr_hf.analysis import trace_image, trace_video
from fatr_hf.analysis.images import NamedImage
from fatr_hf.baselines import Rival, ToMe
from fatr_hf.benchmark.frontier import outputs_of
from fatr_hf.benchmark.timing import Timing

SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def picture():
    # A seed with which no two scores are near enough for rounding to reorder them.
    pixels = np.random.default_rng(2).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).resize((90, 60))


@pytest.fixture
def compare(demo):
    """Compares a picture, or frames of a video, at a budget."""

    def run(loaded, given, budget=0.65):
        read = demo.comparison.video_input if loaded.is_for_videos else demo.comparison.picture_input
        return demo.comparison.compare(loaded, read(loaded, given), loaded.contestants(budget))

    return run


def test_the_reference_is_the_stock_model(compare, loaded, model_folder, picture):
    comparison = compare(loaded, picture)
    stock = AutoModelForImageClassification.from_pretrained(model_folder).eval()
    pixel_values = AutoImageProcessor.from_pretrained(model_folder)(picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        top = stock(pixel_values).logits[0].softmax(dim=0).topk(3)
    unreduced = comparison.answers[0]
    assert [each.label for each in unreduced.predictions] == [stock.config.id2label[k] for k in top.indices.tolist()]
    assert [each.probability for each in unreduced.predictions] == pytest.approx(top.values.tolist(), rel=FLOAT32)
    assert (unreduced.pooled, unreduced.patches) == pytest.approx((1, 1))
    assert (unreduced.macs, unreduced.layers) == (1, ())
    assert (comparison.size, comparison.pooled_name) == ((90, 60), "CLS token")


def test_answers_are_the_frontiers_outputs(compare, loaded, picture):
    comparison = compare(loaded, picture)
    contestants = loaded.contestants(0.65)
    pixel_values = loaded.processor(picture, return_tensors="pt")["pixel_values"].double()
    with torch.no_grad():
        reference, *others = (outputs_of(each.model, pixel_values, each.plan) for each in contestants)
    for answer, output in zip(comparison.answers[1:], others, strict=True):
        cosine = torch.cosine_similarity(output.pooled[0], reference.pooled[0], dim=0)
        patches = torch.cosine_similarity(output.patches[0], reference.patches[0], dim=1).mean()
        assert (answer.pooled, answer.patches) == pytest.approx((cosine.item(), patches.item()))
        assert answer.patches < 0.9999
        label, share = answer.predictions[0]
        assert label == loaded.model.config.id2label[output.logits.argmax().item()]
        assert share == pytest.approx(output.logits.softmax(dim=1).max().item())


def test_kept_patches_are_those_of_a_trace(compare, loaded, picture):
    comparison = compare(loaded, picture)
    tome = loaded.contestants(0.65)[-1]
    merges = tome.plan[0].patches_in - tome.plan[0].patches_out
    traced = trace_image(
        Rival.of(loaded.model, ToMe(merges_per_layer=merges)), NamedImage("", picture), loaded.processor
    )
    assert torch.equal(comparison.seen.pixels, traced.pixels)
    found = comparison.answers[-1].layers
    assert [each.layer for each in found] == [each.layer for each in traced.layers if each.tokens_out < each.tokens_in]
    for patches in found:
        expected = traced.layers[patches.layer]
        assert patches[:3] == expected[:3]
        assert torch.equal(patches.source, expected.source)
        assert torch.equal(patches.own, expected.own)


def test_a_video_is_a_strip_with_the_answers_of_a_trace(demo, compare, loaded_video):
    frames = demo.sources.draw_clip(8)
    comparison = compare(loaded_video, frames)
    pixel_values = loaded_video.processor(frames, return_tensors="pt")["pixel_values"][0]
    faithful = loaded_video.contestants(0.65)[1]
    traced = trace_video(faithful.model, pixel_values, loaded_video.processor, plan=faithful.plan)
    assert (comparison.seen.frames, comparison.pooled_name) == (4, "")
    assert torch.equal(comparison.seen.pixels, traced.pixels)
    answer = comparison.answers[1]
    assert torch.equal(answer.layers[-1].source, traced.layers[answer.layers[-1].layer].source)
    assert answer.colours.shape == (4, 4 * 4, 3)
    assert answer.pooled is None
    assert {each.label for each in answer.predictions} == {"left", "right"}


def save_clip(folder):
    CLIPVisionModel(CLIPVisionConfig(**SHAPE, image_size=32, patch_size=4)).save_pretrained(folder)


def save_vit(folder):
    ViTModel(ViTConfig(**SHAPE, image_size=32, patch_size=4)).save_pretrained(folder)


@pytest.mark.parametrize(("save", "name"), [(save_clip, "CLS token"), (save_vit, "pooled output")])
def test_encoders_have_cosines_and_no_predictions(demo, compare, picture, monkeypatch, tmp_path, save, name):
    monkeypatch.setattr(demo.loaded_model, "METHODS", ("paper",))
    save(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    comparison = compare(demo.loaded_model.load(str(tmp_path)), picture)
    assert comparison.pooled_name == name
    unreduced, paper = comparison.answers
    assert unreduced.predictions == paper.predictions == ()
    assert 0 < paper.pooled < 0.9999
    assert 0 < paper.patches < 0.9999


def test_an_encoder_that_pools_nothing_has_its_patches_alone(demo, compare, monkeypatch, video_folder, tmp_path):
    monkeypatch.setattr(demo.loaded_model, "METHODS", ("paper",))
    config = VideoMAEConfig(**SHAPE, image_size=32, patch_size=8, num_frames=4)
    VideoMAEModel(config).save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(video_folder).save_pretrained(tmp_path)
    loaded = demo.loaded_model.load_video(str(tmp_path))
    comparison = compare(loaded, demo.sources.draw_clip(4))
    assert (comparison.pooled_name, comparison.answers[1].pooled) == ("", None)
    assert 0 < comparison.answers[1].patches < 0.9999


def test_outputs_that_are_no_numbers_are_refused(demo, compare, monkeypatch, model_folder, picture):
    monkeypatch.setattr(demo.loaded_model, "METHODS", ("paper",))
    loaded = demo.loaded_model.load(str(model_folder))
    loaded.model.base_model.layernorm.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="are NaN or infinite"):
        compare(loaded, picture)


def test_colours_are_the_first_components_of_the_first_patches(demo):
    place = torch.linspace(-1, 1, 101, dtype=torch.float64)
    cubic = place**3 - place * (place**4).sum() / (place**2).sum()
    # Uncorrelated with each other, the first one the widest.
    weights = torch.stack([9 * place, 4 * place.abs(), cubic], dim=1)
    axes = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q[:3]
    first = weights @ axes
    same, moved = demo.comparison.principal_colours([first, first + 100 * axes[0]])
    rising = same[:, 0] if same[-1, 0] > same[0, 0] else 1 - same[:, 0]
    assert_rounded_alike(rising, ((place + 0.98) / 1.96).clamp(0, 1).float())
    assert moved[:, 0].unique().numel() == 1  # beyond the scale of the first
    assert_rounded_alike(moved[:, 1:], same[:, 1:])


@pytest.mark.parametrize("patches", [1, 2])
def test_colours_of_hardly_any_patches_are_colours(demo, patches):
    [colours] = demo.comparison.principal_colours([torch.randn(patches, 4)])
    assert colours.shape == (patches, 3)
    assert ((colours >= 0) & (colours <= 1)).all()


@pytest.mark.parametrize(("seconds", "rounds"), [(1e-9, 15), (0.5, 8), (100, 5)])
def test_fused_contestants_are_timed_in_turn_for_some_seconds(demo, loaded, picture, monkeypatch, seconds, rounds):
    contestants = loaded.contestants(0.65)
    clock, calls = iter((0.0, seconds)), []

    def time_in_turn(tasks, device, rounds, warmup):
        assert [task.func for task in tasks.values()] == [loaded.runner] * 4
        assert [task.keywords["plan"] for task in tasks.values()] == [each.plan for each in contestants]
        calls.append(rounds)
        return {name: Timing((5.0, 4.0 + place, 9.0)) for place, name in enumerate(tasks)}

    monkeypatch.setattr(demo.comparison, "time_in_turn", time_in_turn)
    monkeypatch.setattr(demo.comparison.time, "perf_counter", lambda: next(clock))
    given = demo.comparison.picture_input(loaded, picture)
    times = demo.comparison.measure(given, contestants)
    assert calls == [1, rounds]
    assert times[:2] == ((5.0, 5.0, 6.0, 7.0), rounds)


def test_a_comparison_leaves_the_model_as_it_was(compare, loaded, picture):
    before = loaded.model.config.to_dict()
    compare(loaded, picture)
    assert loaded.model.config.to_dict() == before
