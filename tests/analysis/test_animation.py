import PIL.Image
import pytest
from matplotlib.animation import FFMpegWriter
from picture_cases import PROCESSOR, noise_image

from fatr_hf.analysis.animation import check_animation_file, save_animation
from fatr_hf.analysis.image_trace import trace_image


@pytest.fixture
def trace(make_fatr):
    return trace_image(make_fatr(), noise_image(), PROCESSOR)


def durations(path):
    with PIL.Image.open(path) as animation:
        result = []
        for frame in range(animation.n_frames):
            animation.seek(frame)
            result.append(animation.info["duration"])
        return result


def test_each_layer_takes_effect_and_stays(trace, tmp_path):
    save_animation([trace], tmp_path / "kept.gif", layers=[1, 3], dpi=40)
    # Still frames are one long one: the input, then for both layers two on the way and the third, which stays.
    assert durations(tmp_path / "kept.gif") == [1000, 200, 200, 1200, 200, 200, 2200]


def test_images_are_side_by_side(trace, tmp_path):
    sizes = []
    for number in (1, 2):
        save_animation([trace] * number, tmp_path / "kept.gif", layers=[1], dpi=40)
        with PIL.Image.open(tmp_path / "kept.gif") as animation:
            sizes.append(animation.size)
    assert sizes[1][0] > 1.7 * sizes[0][0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kept.avi", "must end in one of .gif, .mp4"),
        ("missing/kept.gif", "there is no folder"),
        ("kept.mp4", "ffmpeg is not installed"),
    ],
)
def test_what_cannot_be_written_is_refused(monkeypatch, tmp_path, name, words):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    with pytest.raises(ValueError, match=words):
        check_animation_file(tmp_path / name)


def test_a_failure_leaves_the_earlier_file(trace, tmp_path):
    path = tmp_path / "kept.gif"
    path.write_text("earlier")
    with pytest.raises(ValueError, match="integers from 0 to 3"):
        save_animation([trace], path, layers=[9])
    assert [each.name for each in tmp_path.iterdir()] == ["kept.gif"]
    assert path.read_text() == "earlier"
