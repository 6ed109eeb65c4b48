"""A video's trace: a strip of frames that pictures and animations take as an image."""

import re

import PIL.Image
import pytest
import torch
from picture_cases import PROCESSOR
from rounding import assert_rounded_alike

from fatr_hf import FATRVideoMAEConfig, FATRVideoMAEForVideoClassification, FATRVivitConfig, FATRVivitModel
from fatr_hf.analysis import plot_kept, save_animation, save_video, trace_video
from fatr_hf.analysis.image_trace import reduced_pixels
from fatr_hf.analysis.pictures import COLUMNS, PANEL_INCHES
from fatr_hf.analysis.video_trace import frame_of
from fatr_hf.baselines import ToMe
from fatr_hf.baselines.rival import Rival

TUBELETS, ROWS, COLUMNS_OF_PATCHES = 3, 4, 2
SIDES = {"image_size": [16, 8], "patch_size": 4, "num_frames": 6}
SHAPE = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, **SIDES}


@pytest.fixture
def model():
    config = FATRVideoMAEConfig(**SHAPE, tubelet_size=2, num_labels=3, keep_ratio=0.5, initializer_range=0.3)
    return FATRVideoMAEForVideoClassification(config).eval()


@pytest.fixture
def video():
    return torch.randn(6, 3, 16, 8).clamp(-1, 1)


def test_a_strip_has_the_first_frame_of_each_tubelet(model, video):
    trace = trace_video(model, video, PROCESSOR, "walk")
    assert (trace.name, trace.frames, trace.tokens) == ("walk", TUBELETS, 24)
    assert trace.grid == (ROWS, TUBELETS * COLUMNS_OF_PATCHES)
    for number in range(TUBELETS):
        frame = trace.pixels[:, 8 * number : 8 * (number + 1)]
        assert_rounded_alike(frame, (video[2 * number].movedim(0, 2) + 1) / 2)


def test_patches_lie_where_their_tubelets_are(model, video):
    trace = trace_video(model, video, PROCESSOR)
    with torch.no_grad():
        sources = model(video[None], output_token_sources=True).token_sources
    reducing = [layer for layer, step in zip(trace.layers, model.config.plan(), strict=True) if step.reduces]
    assert len(reducing) == len(sources) > 0
    for layer, source in zip(reducing, sources, strict=True):
        grid = source[0].view(TUBELETS, ROWS, COLUMNS_OF_PATCHES)
        for number in range(TUBELETS):
            columns = slice(COLUMNS_OF_PATCHES * number, COLUMNS_OF_PATCHES * (number + 1))
            assert torch.equal(layer.source[:, columns], grid[number])
        assert layer.own.sum() < 24


def test_scores_lie_on_the_strip_too(video):
    config = FATRVivitConfig(**SHAPE, tubelet_size=[2, 4, 4], keep_ratio=0.5, attn_implementation="eager")
    trace = trace_video(FATRVivitModel(config).eval(), video, PROCESSOR)
    assert trace.tokens == 25
    assert {layer.scores.shape for layer in trace.layers} == {(ROWS, TUBELETS * COLUMNS_OF_PATCHES)}


def test_a_plan_and_a_rival_are_followed(model, video):
    whole = trace_video(model, video, PROCESSOR, plan=model.config.plan(reduce=False))
    assert {layer.tokens_out for layer in whole.layers} == {24}
    rival = trace_video(Rival.of(model, ToMe(merges_per_layer=3)), video, PROCESSOR)
    assert [layer.tokens_out for layer in rival.layers] == [21, 18, 15, 12]


def test_strips_are_drawn_below_each_other_with_gaps_between_frames(model, video):
    trace = trace_video(model, video, PROCESSOR, "walk")
    figure = plot_kept(trace)
    panels = figure.axes
    assert len(panels) == 1 + len(model.config.reduction_layers)
    assert len({axes.get_subplotspec().colspan.start for axes in panels}) == 1
    assert figure.get_figwidth() > COLUMNS * PANEL_INCHES
    for axes in panels:
        white = [lines for lines in axes.collections if lines.get_zorder() == 3]
        assert [lines.get_segments()[0][0][0] for lines in white] == [2, 4]


def test_a_strip_can_be_animated(model, video, tmp_path):
    save_animation([trace_video(model, video, PROCESSOR)], tmp_path / "kept.gif", dpi=20)
    assert (tmp_path / "kept.gif").read_bytes().startswith(b"GIF8")


def test_mistakes_are_said_in_words(model, video, make_fatr):
    with pytest.raises(ValueError, match="'fatr_vit' takes images, not videos: use trace_image"):
        trace_video(make_fatr(), video, PROCESSOR)
    with pytest.raises(ValueError, match="must be a model of transformers, not"):
        trace_video(torch.nn.Linear(1, 1), video, PROCESSOR)
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        trace_video(model.train(), video, PROCESSOR)
    model.eval()
    with pytest.raises(ValueError, match="A fused model cannot be traced"):
        trace_video(model.fuse(), video, PROCESSOR)
    with pytest.raises(ValueError, match=re.escape("(1, 1, 6, 3, 16, 8)")):
        trace_video(model, video[None], PROCESSOR)
    with pytest.raises(ValueError, match="does not fit: this model takes 6 frames"):
        trace_video(model, video[:4], PROCESSOR)


def test_a_frame_has_its_part_of_the_strip(model, video):
    trace = trace_video(model, video, PROCESSOR)
    frames = [frame_of(trace, number) for number in range(TUBELETS)]
    assert {(frame.frames, frame.grid, frame.tokens) for frame in frames} == {(1, (ROWS, COLUMNS_OF_PATCHES), 24)}
    assert torch.equal(torch.cat([frame.pixels for frame in frames], dim=1), trace.pixels)
    for number, layer in enumerate(trace.layers):
        parts = [frame.layers[number] for frame in frames]
        assert torch.equal(torch.cat([part.source for part in parts], dim=1), layer.source)
        assert torch.equal(torch.cat([part.own for part in parts], dim=1), layer.own)


def test_a_clip_shows_one_tubelet_after_the_other(model, video, tmp_path):
    trace = trace_video(model, video, PROCESSOR)
    last = trace.layers[-1]
    assert not torch.equal(*(reduced_pixels(trace.pixels, last).chunk(TUBELETS, dim=1)[:2]))
    save_video(trace, tmp_path / "clip.gif", dpi=40)
    with PIL.Image.open(tmp_path / "clip.gif") as clip:
        assert clip.n_frames == TUBELETS
        assert clip.info["duration"] == 400


def test_a_clip_of_one_frame_is_refused(model, video, tmp_path):
    trace = frame_of(trace_video(model, video, PROCESSOR, "walk"), 0)
    with pytest.raises(ValueError, match="'walk' is a single frame, which nothing moves in: use save_animation"):
        save_video(trace, tmp_path / "clip.gif", layers=[1])
    assert not any(tmp_path.iterdir())
