import PIL.Image
import pytest
import torch
from picture_cases import PROCESSOR, noise, noise_image
from rounding import assert_rounded_alike
from transformers import ViTImageProcessor

from fatr_hf.analysis.image_trace import (
    PatchMap,
    boundaries,
    hatching,
    reduced_pixels,
    seen_pixels,
    token_boundaries,
    trace_image,
    trace_rivals,
)
from fatr_hf.analysis.images import NamedImage, to_batch

PROCESSORS = {
    "usual": {},
    "other mean and deviation": {"image_mean": [0.1, 0.5, 0.9], "image_std": [0.2, 0.3, 0.4]},
    "not normalised": {"do_normalize": False},
    "not rescaled": {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3},
    "rescaled to twice the range": {"rescale_factor": 1 / 127.5},
}


@pytest.fixture
def image():
    return noise_image()


@pytest.fixture
def model(make_sharp_fatr):
    return make_sharp_fatr()


def patch_map(source, own):
    source, own = torch.tensor(source), torch.tensor(own, dtype=torch.bool)
    return PatchMap(3, 65, 20, source, own, None)


@pytest.mark.parametrize("fields", PROCESSORS.values(), ids=PROCESSORS)
def test_the_processors_arithmetic_is_undone(fields):
    picture = noise(32, 32)
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, **fields)
    pixels = seen_pixels(to_batch([NamedImage("noise", picture)], processor).pixel_values[0], processor)
    expected = torch.tensor(list(picture.get_flattened_data())).view(32, 32, 3) / 255
    assert_rounded_alike(pixels, expected)


def test_the_picture_is_what_the_model_gets_of_an_image_of_another_shape():
    processor = ViTImageProcessor(size={"height": 16, "width": 32}, image_mean=[0.3], image_std=[0.6])
    picture = noise(50, 90)
    pixels = seen_pixels(to_batch([NamedImage("noise", picture)], processor).pixel_values[0], processor)
    expected = picture.convert("L").resize((32, 16), PIL.Image.Resampling.BILINEAR)
    expected = torch.tensor(list(expected.get_flattened_data())).view(16, 32, 1).expand(-1, -1, 3) / 255
    torch.testing.assert_close(pixels, expected, atol=1.5 / 255, rtol=0)


def test_sources_and_tokens_are_the_models(model, image):
    trace = trace_image(model, image, PROCESSOR)
    outputs = model(to_batch([image], PROCESSOR).pixel_values, output_token_sources=True)
    schedule = model.config.plan()
    assert trace.tokens == 65
    assert [patches.tokens_out for patches in trace.layers] == [layer.tokens_out for layer in schedule]
    for layer, source in zip([1, 2, 3], outputs.token_sources, strict=True):
        assert torch.equal(trace.layers[layer].source.flatten(), source[0])
        # Behind CLS and the patches come the DC tokens.
        assert torch.equal(trace.layers[layer].own.flatten(), source[0] < 1 + schedule[layer].patches_out)
    assert trace.layers[0].own.all()


def test_scores_are_column_means_times_the_number_of_tokens(model, image):
    trace = trace_image(model, image, PROCESSOR)
    pixel_values = to_batch([image], PROCESSOR).pixel_values
    attentions = model(pixel_values, output_attentions=True).attentions
    for layer in (0, 1):
        expected = sum(head[:, 1:].sum(dim=0) for head in attentions[layer][0]) / attentions[layer].shape[1]
        assert_rounded_alike(trace.layers[layer].scores.flatten(), expected, torch.float32)
    assert torch.equal(~trace.layers[2].scores.isnan(), trace.layers[1].own)


def test_without_attention_maps_there_are_no_scores(make_fatr, image):
    assert all(patches.scores is None for patches in trace_image(make_fatr(), image, PROCESSOR).layers)


def test_rivals_are_named_and_show_their_own_groups(model, image):
    fatr, random, evit, tome, pooling = trace_rivals(model, image, PROCESSOR)
    assert [each.name for each in (fatr, random, evit, tome, pooling)] == ["FATR", "random", "EViT", "ToMe", "pooling"]
    assert random.layers[1].tokens_out == fatr.layers[1].tokens_out
    assert not torch.equal(random.layers[1].own, fatr.layers[1].own)
    fused = evit.layers[1].source[~evit.layers[1].own]
    assert fused.unique().tolist() == [evit.layers[1].tokens_out - 1]
    merged = tome.layers[0].source[~tome.layers[0].own]
    assert len(merged.unique()) == 64 - int(tome.layers[0].own.sum()) - (65 - tome.layers[0].tokens_out)
    assert not pooling.layers[3].own.all()


def test_flat_patches_take_the_groups_mean_colour():
    # Two rows of three patches, of 4 x 2 pixels each; place 7 is shared by three patches, and one is dropped.
    patches = patch_map([[1, 7, 7], [7, 2, -1]], [[1, 0, 0], [0, 1, 0]])
    pixels = torch.rand(8, 6, 3)
    reduced = reduced_pixels(pixels, patches)
    shared = torch.cat([pixels[:4, 2:].reshape(-1, 3), pixels[4:, :2].reshape(-1, 3)]).mean(dim=0)
    strength = 3**-0.5
    expected = pixels.clone()
    expected[:4, 2:] = expected[4:, :2] = strength * shared + 1 - strength
    expected[4:, 4:] = 1
    assert_rounded_alike(reduced, expected)


def test_large_groups_keep_some_colour():
    source = torch.full((10, 10), 5)
    reduced = reduced_pixels(torch.zeros(20, 20, 3), PatchMap(0, 101, 2, source, torch.zeros(10, 10).bool(), None))
    assert_rounded_alike(reduced, torch.full((20, 20, 3), 0.65))


def test_boundaries_part_neighbours_with_different_labels():
    labels = torch.randint(0, 3, (4, 6))
    expected = set()
    for row in range(4):
        for column in range(6):
            if column < 5 and labels[row, column] != labels[row, column + 1]:
                expected.add(((column + 1, row), (column + 1, row + 1)))
            if row < 3 and labels[row, column] != labels[row + 1, column]:
                expected.add(((column, row + 1), (column + 1, row + 1)))
    lines = [tuple(line) for line in boundaries(labels)]
    assert len(lines) == len(expected)
    assert set(lines) == expected


def test_token_boundaries_are_those_of_dc_windows_and_of_what_is_kept():
    # Windows 20 and 21, left and right; two neighbours are kept in the upper row, each in its own window.
    patches = patch_map([[20, 1, 2, 21], [20, 20, 21, 21]], [[0, 1, 1, 0], [0, 0, 0, 0]])
    assert sorted(token_boundaries(patches)) == [
        [(1, 0), (1, 1)],
        [(1, 1), (2, 1)],
        [(2, 1), (2, 2)],
        [(2, 1), (3, 1)],
        [(3, 0), (3, 1)],
    ]
    assert sorted(line[0] for line in hatching(patches)) == [(0, 1), (0, 2), (1, 2), (2, 2), (3, 1), (3, 2)]
