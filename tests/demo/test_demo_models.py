"""The demo's models: what is compared at every budget, of every family, and what is refused in words."""

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    BitImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    VideoMAEImageProcessor,
    ViTImageProcessor,
)

from fatr_hf import FATRVideoMAEForVideoClassification
from fatr_hf.baselines.macs import count_macs, plan_macs
from fatr_hf.benchmark.frontier import plan_within
from fatr_hf.hub.load import load_reduced
from fatr_hf.modeling import schedule_macs

SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
METHODS = ["FATR, faithful", "FATR, as published", "ToMe"]


@pytest.fixture
def faithful_alone(demo, monkeypatch):
    """Leaves out the other methods, whose plans take longer to find."""
    monkeypatch.setattr(demo.loaded_model, "METHODS", ("faithful",))


def test_contestants_are_the_frontiers_plans_at_the_same_cost(loaded):
    unreduced, *reduced = loaded.contestants(0.65)
    assert (unreduced.label, unreduced.macs) == ("Unreduced", 1.0)
    assert [each.label for each in reduced] == METHODS
    whole = schedule_macs(loaded.model.config)
    for name, each in zip(("faithful", "paper", "tome"), reduced, strict=True):
        assert each.plan == plan_within(loaded.model, name, 0.65 * whole)
        assert each.macs == plan_macs(loaded.model, each.plan) / whole
        assert each.macs == pytest.approx(0.65, abs=0.03)


def test_plans_are_made_once_and_models_once_for_all_budgets(demo, loaded, monkeypatch):
    first = loaded.contestants(0.65)
    monkeypatch.setattr(demo.loaded_model, "METHODS", ("faithful",))
    other = loaded.contestants(0.58)
    assert {id(each.runner) for each in first + other} == {id(loaded.runner)}
    monkeypatch.setattr(demo.loaded_model, "plan_within", None)
    assert loaded.contestants(0.65) == first


def test_a_method_that_cannot_meet_a_budget_is_left_out_and_nothing_at_all_is_refused(demo, loaded, monkeypatch):
    plan = loaded.contestants(0.65)[1].plan

    def plan_within(model, name, macs):
        if name in refused:
            raise ValueError(f"{name} cannot")
        return plan

    monkeypatch.setattr(demo.loaded_model, "plan_within", plan_within)
    refused = ["paper"]
    assert [each.label for each in loaded.contestants(0.6)] == ["Unreduced", "FATR, faithful", "ToMe"]
    refused = ["faithful", "paper", "tome"]
    with pytest.raises(ValueError, match=r"^Nothing can be compared at 0.7 of the cost: faithful cannot$"):
        loaded.contestants(0.7)


@pytest.mark.usefixtures("faithful_alone")
def test_a_saved_reduction_is_a_contestant_with_its_own_parameters_and_cost(demo, make_fatr, tmp_path):
    make_fatr(keep_ratio=[0.9, 0.6, 0.4]).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    loaded = demo.loaded_model.load(str(tmp_path))
    _, saved, faithful = loaded.contestants(0.65)
    model, _ = load_reduced(str(tmp_path))
    assert (saved.label, faithful.label) == ("FATR, as saved", "FATR, faithful")
    assert saved.plan == model.config.plan()
    assert saved.macs == count_macs(model) / count_macs(loaded.model)
    assert saved.model.config.reweight_attention


@pytest.mark.usefixtures("faithful_alone")
def test_a_saved_model_that_reduces_nowhere_is_only_the_reference(demo, make_fatr, tmp_path):
    make_fatr(reduction_layers=[], dc_windows=[], keep_ratio=[]).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    labels = [each.label for each in demo.loaded_model.load(str(tmp_path)).contestants(0.65)]
    assert labels == ["Unreduced", "FATR, faithful"]


def test_pictures_have_the_size_of_a_model_that_takes_any(demo, tmp_path):
    Dinov2Model(Dinov2Config(**SHAPE, image_size=42, patch_size=7)).save_pretrained(tmp_path)
    BitImageProcessor(size={"height": 56, "width": 56}, do_center_crop=False).save_pretrained(tmp_path)
    loaded = demo.loaded_model.load(str(tmp_path))
    picture = demo.sources.sample_photograph("cat")
    assert demo.comparison.picture_input(loaded, picture).pixel_values.shape == (1, 3, 42, 42)


def test_an_oblong_size_is_refused_where_positions_are_square(demo, tmp_path):
    Dinov2Model(Dinov2Config(**SHAPE, image_size=42, patch_size=7)).save_pretrained(tmp_path)
    sides = {"height": 28, "width": 42}
    BitImageProcessor(size=sides, crop_size=sides).save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match=r"must be a square .* or let the image processor crop squares"):
        demo.loaded_model.load(str(tmp_path))


@pytest.mark.usefixtures("faithful_alone")
def test_an_encoder_of_another_family_is_taken(demo, tmp_path):
    config = CLIPVisionConfig(**SHAPE, intermediate_size=64, image_size=32, patch_size=4)
    CLIPVisionModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert len(demo.loaded_model.load(str(tmp_path)).contestants(0.65)) == 2


def test_videos_have_a_model_of_their_own(loaded, loaded_video):
    assert loaded_video.is_for_videos
    assert not loaded.is_for_videos
    unreduced, *reduced = loaded_video.contestants(0.75)
    assert unreduced.plan[0].patches_in == 4 * 4 * 4
    assert [each.label for each in reduced] == METHODS
    assert all(each.plan[-1].tokens_out < 64 for each in reduced)


def save_other_architecture(folder, stock):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=2)
    ResNetForImageClassification(config).save_pretrained(folder)


def save_without_processor(folder, stock):
    stock.save_pretrained(folder)


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (save_other_architecture, "model type 'resnet', which cannot be reduced"),
        (save_without_processor, "has no image processor"),
    ],
    ids=["no ViT", "no image processor"],
)
def test_models_that_cannot_be_shown_are_refused_in_words(demo, stock, tmp_path, save, words):
    save(tmp_path, stock)
    with pytest.raises(ValueError, match=words):
        demo.loaded_model.load(str(tmp_path))


def test_a_model_that_is_not_there_is_named(demo, tmp_path):
    for load in (demo.loaded_model.load, demo.loaded_model.load_video):
        with pytest.raises(FileNotFoundError, match=r"No checkpoint can be read from .*nothing"):
            load(str(tmp_path / "nothing"))


def test_pictures_and_videos_are_not_mixed_up(demo, model_folder, video_folder):
    with pytest.raises(ValueError, match="which takes videos, and this is for images"):
        demo.loaded_model.load(str(video_folder))
    with pytest.raises(ValueError, match=r"--video_model .* is of model type 'vit', which takes no videos"):
        demo.loaded_model.load_video(str(model_folder))


def test_a_model_of_videos_needs_an_image_processor_of_its_size(demo, video_folder, tmp_path):
    model = FATRVideoMAEForVideoClassification.from_pretrained(video_folder)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no image processor, which frames need: save one beside it"):
        demo.loaded_model.load_video(str(tmp_path))
    VideoMAEImageProcessor(size={"shortest_edge": 48}, crop_size=48).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"gives frames of the shape \(3, 48, 48\), and the model takes \(3, 32, 32\)"):
        demo.loaded_model.load_video(str(tmp_path))
