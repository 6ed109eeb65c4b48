"""Which files the demo takes as pictures and videos, and what it reads from them."""

import wave

import av
import numpy as np
import PIL.Image
import pytest

SIZE = (40, 20)


def save_rotated(path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    PIL.Image.new("RGB", SIZE[::-1]).save(path, "jpeg", exif=exif)


def save_transparent(path):
    PIL.Image.new("RGBA", SIZE, (200, 0, 0, 10)).save(path, "png")


def save_animation(path):
    frames = [PIL.Image.new("RGB", SIZE, colour) for colour in ("red", "lime", "blue")]
    frames[0].save(path, "gif", save_all=True, append_images=frames[1:])


def save_for_print(path):
    PIL.Image.new("CMYK", SIZE).save(path, "jpeg")


def save_grey(path):
    PIL.Image.new("L", SIZE, 128).save(path, "tiff")


KINDS = {
    save_rotated: (0, 0, 0),
    save_transparent: (200, 0, 0),
    save_animation: (255, 0, 0),
    save_for_print: (255, 255, 255),
    save_grey: (128, 128, 128),
}


@pytest.mark.parametrize(("save", "colour"), KINDS.items(), ids=[save.__name__.removeprefix("save_") for save in KINDS])
def test_pictures_of_all_kinds_become_rgb(demo, tmp_path, save, colour):
    save(tmp_path / "picture")
    picture = demo.sources.open_picture(tmp_path / "picture")
    assert (picture.mode, picture.size) == ("RGB", SIZE)
    np.testing.assert_allclose(np.asarray(picture).mean(axis=(0, 1)), colour, atol=2)


def cut(path):
    PIL.Image.effect_noise((90, 90), 50).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    "write",
    [lambda path: path.write_text("text"), lambda path: path.touch(), cut],
    ids=["text", "empty", "cut off"],
)
def test_files_that_are_no_pictures_are_refused_by_name(demo, tmp_path, write):
    write(tmp_path / "cat.png")
    with pytest.raises(ValueError, match=r"^cat.png cannot be read as a picture"):
        demo.sources.open_picture(tmp_path / "cat.png")


@pytest.mark.parametrize("limit", ["MAX_PIXELS", "MAX_IMAGE_PIXELS"])
def test_huge_pictures_are_refused_before_they_are_read(demo, tmp_path, monkeypatch, limit):
    module = demo.sources if limit == "MAX_PIXELS" else PIL.Image
    monkeypatch.setattr(module, limit, 100)
    PIL.Image.new("1", (10, 21)).save(tmp_path / "wall.png")
    with pytest.raises(ValueError, match=r"^wall.png has more than the \d+ megapixels that are taken"):
        demo.sources.open_picture(tmp_path / "wall.png")


@pytest.mark.parametrize("size", [(1, 21), (42, 2)])
def test_strips_are_refused(demo, tmp_path, size):
    PIL.Image.new("RGB", size).save(tmp_path / "strip.png")
    with pytest.raises(ValueError, match=r"^strip.png has \d+ x \d+ pixels: a side may be 20 times as long"):
        demo.sources.open_picture(tmp_path / "strip.png")


def test_an_upload_that_has_been_deleted_is_asked_for_again(demo, tmp_path):
    for read in (demo.sources.open_picture, lambda path: demo.sources.read_video(path, 4)):
        with pytest.raises(ValueError, match=r"^cat.gif is no longer here: upload it again.$"):
            read(tmp_path / "cat.gif")


def test_no_sample_is_asked_for(demo):
    assert demo.sources.sample_photograph("rocket").size == (640, 427)
    with pytest.raises(ValueError, match="Choose a sample photograph"):
        demo.sources.sample_photograph(None)


GREYS = (0, 60, 120, 180, 240)


def save_gif(path):
    frames = [PIL.Image.new("RGB", (32, 16), (grey,) * 3) for grey in GREYS]
    frames[0].save(path, "gif", save_all=True, append_images=frames[1:])


def save_mp4(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for grey in GREYS:
            frame = av.VideoFrame.from_image(PIL.Image.new("RGB", (32, 16), (grey,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("save", [save_gif, save_mp4])
@pytest.mark.parametrize(("count", "places"), [(3, (0, 2, 4)), (5, range(5)), (9, (0, 0, 1, 2, 2, 2, 3, 4, 4))])
def test_frames_are_spread_over_a_video(demo, tmp_path, save, count, places):
    save(tmp_path / "video")
    frames = demo.sources.read_video(tmp_path / "video", count)
    assert {frame.size for frame in frames} == {(32, 16)}
    greys = [np.asarray(frame).mean() for frame in frames]
    np.testing.assert_allclose(greys, [GREYS[place] for place in places], atol=4)


def test_only_the_beginning_of_a_long_video_is_read(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(demo.sources, "MAX_FRAMES", 3)
    save_gif(tmp_path / "video.gif")
    greys = [np.asarray(frame).mean() for frame in demo.sources.read_video(tmp_path / "video.gif", 2)]
    np.testing.assert_allclose(greys, [GREYS[0], GREYS[2]], atol=4)


def save_sound(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(800))


@pytest.mark.parametrize(
    "write",
    [lambda path: path.write_text("text"), lambda path: path.touch(), save_sound],
    ids=["text", "empty", "sound"],
)
def test_files_that_are_no_videos_are_refused_by_name(demo, tmp_path, write):
    write(tmp_path / "cat.mp4")
    with pytest.raises(ValueError, match=r"^cat.mp4 cannot be read as a video"):
        demo.sources.read_video(tmp_path / "cat.mp4", 4)


def test_huge_frames_are_refused_before_they_are_decoded(demo, tmp_path, monkeypatch):
    save_gif(tmp_path / "wall.gif")
    monkeypatch.setattr(demo.sources, "MAX_PIXELS", 500)
    with pytest.raises(ValueError, match=r"^wall.gif has more than the 0 megapixels that are taken"):
        demo.sources.read_video(tmp_path / "wall.gif", 2)


def test_in_the_drawn_clip_a_disc_moves_to_the_right(demo):
    frames = np.stack([np.asarray(frame).astype(int) for frame in demo.sources.draw_clip(8)])
    assert frames.shape == (8, 240, 240, 3)
    changes = np.abs(np.diff(frames, axis=0)).sum(axis=(1, 3))
    middles = (changes * np.arange(240)).sum(axis=1) / changes.sum(axis=1)
    assert middles[0] + 40 < middles[-1]
