"""What is particular to videos: grids of three axes, clips of another length or size, heads, stock's odd files."""

import json

import pytest
import torch
from family_cases import (
    CLASSIFIERS,
    ENCODERS,
    HAS_VIDEOMAE,
    VIDEO_CLASSIFIERS,
    VIDEO_ENCODERS,
    built,
    inputs_of,
    samples,
)
from rounding import assert_rounded_alike
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForVideoClassification,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
)
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

import fatr_hf
from fatr_hf.analysis.trace import trace
from fatr_hf.baselines.macs import count_macs
from fatr_hf.hub.convert import convert_checkpoint
from fatr_hf.hub.load import load_model, load_reduced
from fatr_hf.modeling import schedule_macs
from fatr_hf.modeling.modeling_fatr_videomae import sinusoid_table
from fatr_hf.modeling.reduction_config import UNREDUCED

encoders = pytest.mark.parametrize("name", VIDEO_ENCODERS)
classifiers = pytest.mark.parametrize("name", VIDEO_CLASSIFIERS)
needs_videomae = pytest.mark.skipif(
    not HAS_VIDEOMAE, reason="transformers 5.17's VideoMAE drops biases of every checkpoint, and adds others"
)


def config_of(name="vjepa2", **fields):
    """The configuration of a small FATR classifier, 8 frames of 32 x 32 pixels in patches of 2 x 8 x 8."""
    model = built(CLASSIFIERS[name])
    return fatr_hf.convert(model, **(fields or {"preset": "paper"})).config


@classifiers
@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (None, [(2, 2, 2), (1, 1, 1), (1, 1, 1)]),
        (1, [(1, 1, 1)] * 3),
        ([(2, 4, 2), [1, 2, 2], 1], [(2, 4, 2), (1, 2, 2), (1, 1, 1)]),
    ],
    ids=["default", "one-number", "triples"],
)
def test_windows_are_a_number_or_a_triple_for_each_reduction(name, windows, expected):
    config = config_of(name, dc_windows=windows)
    assert [step.windows_out for step in config.plan() if step.reduces] == expected
    again = type(config).from_dict(json.loads(config.to_json_string()))
    assert again.plan() == config.plan()


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ([[2, 2], 1, 1], r"triples of at least 1 for frames, rows and columns; \[2, 2\] is neither"),
        ([[2, 2, 0], 1, 1], r"\[2, 2, 0\] is neither"),
        (-1, "-1 is neither"),
        ([2, 1], "has 2 entries, but there are 3 reduction layers"),
        ([[5, 2, 2], 1, 1], r"exceeds the grid of 4 x 4 x 4 patches"),
        ([[2, 2, 2], [2, 1, 3], 1], "does not divide the 2 windows before it"),
        ([[2, 2, 2], 0, 1], "must be 0 in every reduction layer or in none"),
    ],
    ids=["pair", "zero", "negative", "too-few", "too-many", "not-nested", "some-dropped"],
)
def test_other_windows_are_refused_in_words(windows, words):
    with pytest.raises(Exception, match=words):
        config_of(dc_windows=windows)


def test_images_take_no_triples():
    with pytest.raises(Exception, match="dc_windows"):
        fatr_hf.FATRViTConfig(dc_windows=[[2, 2], 1, 1])


def test_the_preset_local_halves_every_axis():
    config = fatr_hf.FATRVideoMAEConfig.from_preset("local")
    assert [step.windows_out for step in config.plan() if step.reduces] == [(4, 7, 7)] * 3
    config = fatr_hf.FATRVivitConfig.from_preset("local", reduction_layers=[5])
    assert [step.windows_out for step in config.plan() if step.reduces] == [(8, 7, 7)]
    assert fatr_hf.FATRVJEPA2Config.from_preset("faithful").plan()[-1].tokens_out < 8192 * 0.4


def test_token_counts_of_well_known_sizes():
    """Of 1,568, 3,137 and 8,192 tokens, with the paper's setting."""
    left = {
        "videomae": fatr_hf.FATRVideoMAEConfig().plan()[-1].tokens_out,
        "vivit": fatr_hf.FATRVivitConfig().plan()[-1].tokens_out,
        "vjepa2": fatr_hf.FATRVJEPA2Config().plan()[-1].tokens_out,
    }
    assert left == {"videomae": 537, "vivit": 1077, "vjepa2": 2810}


@pytest.mark.parametrize("name", [name for name in ("videomae", "vivit") if name in ENCODERS])
def test_clips_of_another_length_or_size_are_refused(name):
    model = fatr_hf.convert(built(ENCODERS[name]))
    for shape in ((2, 4, 3, 32, 32), (2, 8, 3, 40, 32), (2, 16, 3, 32, 32)):
        with pytest.raises(
            ValueError, match=rf"A video of {shape[1]} frames of {shape[3]} x 32 pixels does not fit: .* 8"
        ):
            model(torch.randn(shape, dtype=torch.float64))


@encoders
def test_what_is_no_batch_of_videos_is_refused(name):
    model = fatr_hf.convert(built(ENCODERS[name]))
    with pytest.raises(ValueError, match=r"must be \(batch, frames, channels, height, width\)"):
        model(torch.randn(2, 3, 32, 32))
    with pytest.raises(ValueError, match="have 1 channels, but the model takes 3"):
        model(torch.randn(2, 8, 1, 32, 32))
    with pytest.raises(ValueError, match="bool_masked_pos is for pretraining"):
        model(samples(model), bool_masked_pos=torch.zeros(3, 64, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be of floating point"):
        model(torch.zeros(2, 8, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("config_class", "fields", "words"),
    [
        (fatr_hf.FATRVideoMAEConfig, {"num_frames": 15}, "frames=15 of a video must be a positive multiple of 2"),
        (fatr_hf.FATRVideoMAEConfig, {"image_size": 220}, "height=220 of a video must be a positive multiple of 16"),
        (fatr_hf.FATRVideoMAEConfig, {"tubelet_size": 0}, "frames=16 of a video must be a positive multiple of 0"),
        (
            fatr_hf.FATRVivitConfig,
            {"tubelet_size": [2, 16]},
            r"tubelet_size=\[2, 16\] must be frames, height and width",
        ),
        (fatr_hf.FATRVJEPA2Config, {"crop_size": 250}, "height=250 of a video must be a positive multiple of 16"),
    ],
    ids=["frames", "height", "no-tubelet", "two-sides", "crop"],
)
def test_sizes_that_do_not_divide_are_refused(config_class, fields, words):
    with pytest.raises(Exception, match=words):
        config_class(**fields)


@pytest.mark.parametrize("frames", [1, 4, 8, 12])
@torch.no_grad()
def test_vjepa2_takes_clips_of_any_length(frames):
    stock = built(ENCODERS["vjepa2"])
    model = fatr_hf.convert(stock, dc_windows=1)
    clip = torch.randn(2, frames, 3, 32, 32, dtype=torch.float64)
    expected = stock(clip, skip_predictor=True).last_hidden_state
    with model.reduction(False):
        assert_rounded_alike(model(clip).last_hidden_state, expected)
        assert_rounded_alike(model.get_vision_features(clip), expected)
    outputs = model(clip, output_token_sources=True)
    assert outputs.last_hidden_state.shape[1] == model.config.plan((frames, 32, 32))[-1].tokens_out
    assert outputs.token_sources[-1].shape == (2, expected.shape[1])


def test_vjepa2_refuses_what_its_positions_are_not_for():
    model = fatr_hf.convert(built(ENCODERS["vjepa2"]), dc_windows=1)
    with pytest.raises(ValueError, match="this model takes any number of frames of 32 x 32 pixels"):
        model(torch.randn(2, 8, 3, 32, 40, dtype=torch.float64))
    with pytest.raises(ValueError, match="frames=5 of a video must be a positive multiple of 2"):
        model(torch.randn(2, 5, 3, 32, 32, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"image_size=\(1, 2, 3, 4\) must be one number, height and width, or frames"):
        model.config.plan((1, 2, 3, 4))


def test_the_predictor_is_refused_in_words():
    model = fatr_hf.convert(built(ENCODERS["vjepa2"]))
    clip = samples(model)
    for asked in (
        {"skip_predictor": False},
        {"context_mask": [torch.zeros(3, 4)]},
        {"target_mask": [torch.zeros(3, 4)]},
    ):
        with pytest.raises(ValueError, match="are for the predictor, which needs the whole grid"):
            model(clip, **asked)


def test_vjepa2_has_the_names_of_other_models_sizes():
    config = fatr_hf.FATRVJEPA2Config.from_dict({}, image_size=64, num_frames=8)
    assert (config.crop_size, config.frames_per_clip, config.num_channels) == (64, 8, 3)
    assert config.patch_grid() == (4, 4, 4)
    assert config.input_shape() == (8, 3, 64, 64)
    assert "image_size" not in config.to_dict()


def test_drop_path_rises_with_depth():
    config = config_of("vjepa2").from_dict(config_of("vjepa2").to_dict(), drop_path_rate=0.3)
    rates = [getattr(layer.drop_path, "rate", 0.0) for layer in fatr_hf.FATRVJEPA2Model(config).layers]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@needs_videomae
@torch.no_grad()
def test_the_first_patch_is_classified_by_the_token_that_stands_for_it():
    model = fatr_hf.convert(built(CLASSIFIERS["videomae-first-patch"]), keep_ratio=0.3)
    clip = samples(model)
    outputs = model.videomae(clip, output_token_sources=True)
    source = outputs.token_sources[-1][:, 0]
    first = outputs.last_hidden_state[torch.arange(3), source]
    assert_rounded_alike(model(clip).logits, model.classifier(first))
    assert model(clip).token_sources is None
    assert len(model(clip, output_token_sources=True).token_sources) == 3


@pytest.mark.parametrize("hidden_size", [384, 768, 1024])
def test_positions_of_videomae_are_stocks(hidden_size):
    table = sinusoid_table(1568, hidden_size)
    assert_rounded_alike(table, get_sinusoid_encoding_table(1568, hidden_size))


@needs_videomae
def test_positions_of_videomae_are_a_buffer(tmp_path):
    model = fatr_hf.convert(built(ENCODERS["videomae"]))
    buffers = dict(model.named_buffers())
    expected = get_sinusoid_encoding_table(64, 32)
    assert_rounded_alike(buffers["embeddings.position_embeddings"].float(), expected)
    assert not any("position_embeddings" in name and "dc_" not in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    for again in (type(model).from_pretrained(tmp_path), type(model)(model.config)):
        assert_rounded_alike(again.embeddings.position_embeddings.float(), expected)
    assert model.to("meta").embeddings.position_embeddings.is_meta


@needs_videomae
@torch.no_grad()
def test_biases_of_videomae_under_the_names_of_the_hub(tmp_path):
    """Files of the Hub hold ``q_bias`` and ``v_bias``."""
    stock = built(CLASSIFIERS["videomae"]).float()
    stock.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    renamed = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value for name, value in weights.items()
    }
    assert sum("q_bias" in name for name in renamed) == 4
    save_file(renamed, path, {"format": "pt"})
    for model in (
        fatr_hf.convert(tmp_path, keep_ratio=0.7),
        fatr_hf.FATRVideoMAEForVideoClassification.from_pretrained(tmp_path).eval(),
    ):
        with model.reduction(False):
            expected = stock(samples(stock).float()).logits
            assert_rounded_alike(model(samples(model).float()).logits, expected, torch.float32)


@needs_videomae
@torch.no_grad()
def test_the_encoder_of_a_pretraining_checkpoint_loads(tmp_path):
    pretrained = VideoMAEForPreTraining(built(ENCODERS["videomae-normed"]).config).double().eval()
    pretrained.save_pretrained(tmp_path)
    model = fatr_hf.FATRVideoMAEModel.from_pretrained(tmp_path).double().eval()
    with model.reduction(False):
        expected = pretrained.videomae(samples(pretrained)).last_hidden_state
        assert_rounded_alike(model(samples(model)).last_hidden_state, expected)


@pytest.mark.parametrize("name", VIDEO_CLASSIFIERS)
def test_a_classifier_starts_from_an_encoder(name, tmp_path):
    stock = built(CLASSIFIERS[name])
    stock.base_model.save_pretrained(tmp_path)
    target = type(fatr_hf.convert(stock))
    model, info = target.from_pretrained(tmp_path, output_loading_info=True)
    assert {key.split(".")[0] for key in info["missing_keys"]} <= {
        *("classifier", *target.head_parts, target.base_model_prefix)
    }
    assert model(samples(model, 1).float()).logits.shape == (1, 5)


@pytest.mark.parametrize("name", [name for name in ("videomae", "vjepa2") if name in ENCODERS])
def test_another_number_of_classes_keeps_the_rest_of_the_head(name, tmp_path):
    stock = built(CLASSIFIERS[name]).float()
    stock.save_pretrained(tmp_path)
    target = type(fatr_hf.convert(stock))
    model = target.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    part = target.head_parts[0]
    for own, given in zip(getattr(model, part).parameters(), getattr(stock, part).parameters(), strict=True):
        assert torch.equal(own, given)
    assert model.classifier.out_features == 3


@pytest.mark.parametrize("lost", ["all-of-the-part", "one-of-the-part", "one-of-the-layer"])
@pytest.mark.parametrize("name", [name for name in ("videomae", "vjepa2") if name in ENCODERS])
def test_a_part_of_a_head_is_refused(name, lost, tmp_path):
    stock = built(CLASSIFIERS[name])
    target = type(fatr_hf.convert(stock))
    weights = stock.state_dict()
    part = [key for key in weights if key.split(".")[0] in target.head_parts]
    dropped = {"all-of-the-part": part, "one-of-the-part": part[:1], "one-of-the-layer": ["classifier.bias"]}[lost]
    if lost == "one-of-the-part":
        dropped = [*dropped, "classifier.weight", "classifier.bias"]
    kept = {key: value for key, value in weights.items() if key not in dropped}
    stock.save_pretrained(tmp_path, state_dict=kept, save_original_format=False)
    with pytest.raises(ValueError, match="holds a part of its classifier only"):
        target.from_pretrained(tmp_path)


def left_out(config, size=None):
    """What counting finds beside the arithmetic: the weighted mean of the patches."""
    plan = config.plan(size)
    reads_mean = config.model_type == "fatr_videomae" and config.use_mean_pooling
    return plan[-1].tokens_out * config.hidden_size if reads_mean and any(step.reduces for step in plan) else 0


@classifiers
@pytest.mark.parametrize(
    "fields",
    [{}, {"dc_windows": [[2, 2, 1], [1, 2, 1], 1]}, {"size_exponent": 0.5}, UNREDUCED],
    ids=["default", "triples", "sized", "unreduced"],
)
def test_costs_by_arithmetic_are_those_by_counting(name, fields):
    model = fatr_hf.convert(built(CLASSIFIERS[name]), **{"reweight_attention": True, **fields})
    assert schedule_macs(model.config) + left_out(model.config) == count_macs(model)
    if fields != UNREDUCED:
        budget = 0.9 * schedule_macs(model.config)
        assert schedule_macs(model.for_budget(macs=budget).config) <= budget


def test_costs_of_a_clip_of_another_length():
    model = fatr_hf.convert(built(CLASSIFIERS["vjepa2"]), dc_windows=1)
    size = (12, 32, 32)
    assert schedule_macs(model.config, size) + left_out(model.config, size) == count_macs(model, size)
    assert schedule_macs(model.config, 32) == schedule_macs(model.config, (8, 32, 32)) == schedule_macs(model.config)


@classifiers
@torch.no_grad()
def test_names_load_through_the_auto_classes(name, tmp_path):
    stock = built(CLASSIFIERS[name])
    stock.save_pretrained(tmp_path / "stock")
    model = fatr_hf.convert(tmp_path / "stock", keep_ratio=0.6).double()
    assert isinstance(model, type(stock))
    model.save_pretrained(tmp_path / "reduced")
    assert type(AutoConfig.from_pretrained(tmp_path / "reduced")) is type(model.config)
    again = AutoModelForVideoClassification.from_pretrained(tmp_path / "reduced").double().eval()
    given = inputs_of(stock)
    assert type(again) is type(model)
    assert_rounded_alike(again(**given).logits, model(**given).logits)
    card = (tmp_path / "reduced" / "README.md").read_text()
    assert "pipeline_tag: video-classification" in card
    assert "AutoModelForVideoClassification.from_pretrained" in card


@classifiers
def test_it_learns(name):
    model = fatr_hf.convert(built(CLASSIFIERS[name]), preset="paper").train()
    loss = model(samples(model), labels=torch.tensor([0, 3, 4])).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for key, parameter in model.named_parameters() if "embeddings" not in key)


@needs_videomae
def test_stocks_own_model_for_pretraining_is_refused():
    stock = VideoMAEForPreTraining(built(ENCODERS["videomae"]).config)
    with pytest.raises(ValueError, match=r"VideoMAEForPreTraining cannot be reduced as a whole.*VideoMAEModel"):
        fatr_hf.convert(stock)
    assert isinstance(fatr_hf.convert(built(CLASSIFIERS["videomae"])), VideoMAEForVideoClassification)


def test_what_is_for_images_refuses_videos(tmp_path):
    stock = built(CLASSIFIERS["vivit"])
    stock.save_pretrained(tmp_path)
    model = fatr_hf.convert(stock)
    for work in (lambda: next(trace(model, samples(model))), lambda: next(trace(stock, samples(model)))):
        with pytest.raises(ValueError, match=r"Only models of images are analysed, and '(fatr_)?vivit' takes videos"):
            work()
    for load in (load_model, load_reduced):
        with pytest.raises(ValueError, match="of model type 'vivit', which takes videos, and this is for images"):
            load(str(tmp_path))
    with pytest.raises(ValueError, match="which takes videos, and this is for images"):
        convert_checkpoint(tmp_path, tmp_path / "converted", image_size=64)


def test_a_converted_checkpoint_keeps_the_processor_of_its_videos(tmp_path):
    built(CLASSIFIERS["vjepa2"]).save_pretrained(tmp_path / "stock")
    (tmp_path / "stock" / "video_preprocessor_config.json").write_text('{"crop_size": 32}')
    conversion = convert_checkpoint(tmp_path / "stock", tmp_path / "reduced", preset="paper")
    assert conversion.has_image_processor
    assert conversion.architecture == "FATRVJEPA2ForVideoClassification"
    assert conversion.macs_after < conversion.macs_before
    assert (tmp_path / "reduced" / "video_preprocessor_config.json").read_text() == '{"crop_size": 32}'
    card = (tmp_path / "reduced" / "README.md").read_text()
    assert "4 x 4 x 4 patches" in card
    assert 'pipeline("video-classification"' in card
