"""InternVL, Idefics3 and SmolVLM, which have towers of their own: what they take, and what they refuse in words."""

import pytest
import torch
from composite_cases import COMPOSITES, IMAGE_TOKEN, answer_of, arguments_of
from family_cases import TOWER, built, images
from PIL import Image
from rounding import assert_rounded_alike
from transformers import (
    AutoConfig,
    AutoModel,
    Idefics3ImageProcessor,
    Idefics3Model,
    InternVLConfig,
    InternVLVisionConfig,
    InternVLVisionModel,
    SmolVLMVisionConfig,
)
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionTransformer

import fatr_hf

REDUCTION = {"reduction_layers": [1, 2], "keep_ratio": 0.6}

of_whole_images = pytest.mark.parametrize("name", ["idefics3", "smolvlm"])


@of_whole_images
@pytest.mark.parametrize("splitting", [True, False], ids=["tiles", "one"])
@torch.no_grad()
def test_what_the_image_processor_makes_is_whole(name, splitting):
    """Pictures of other shapes, and samples of other numbers of tiles, of which the lacking ones are padding."""
    processor = Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=splitting
    )
    gradient = Image.linear_gradient("L").convert("RGB")
    pictures = [[gradient.resize((90, 40))], [gradient.resize((30, 70)), gradient.resize((20, 20))]]
    given = processor(pictures, return_tensors="pt")
    given["pixel_values"] = given["pixel_values"].double()
    tiles = given["pixel_attention_mask"].flatten(2).amax(dim=2).sum(dim=1)
    rows = [[1, *[IMAGE_TOKEN] * (16 * int(count))] for count in tiles]
    length = max(map(len, rows)) + 2
    given["input_ids"] = torch.tensor([row + [5] * (length - len(row)) for row in rows])
    stock = built(COMPOSITES[name])
    model = fatr_hf.convert(stock, **REDUCTION)
    with model.tower.reduction(False):
        assert_rounded_alike(answer_of(model(**given)), answer_of(stock(**given)))
    assert not torch.allclose(answer_of(model(**given)), answer_of(stock(**given)))


@of_whole_images
def test_padded_images_are_refused(name):
    model, given = fatr_hf.convert(built(COMPOSITES[name]), **REDUCTION), arguments_of(name)
    given["pixel_attention_mask"][0, 1, :, 20:] = 0
    with pytest.raises(ValueError, match=r"leaves out 24 of 256 patches: images padded to a common size are not taken"):
        model(**given)
    with pytest.raises(ValueError, match="leaves out 1 of 64 patches"):
        model.tower(images(1), patch_attention_mask=(torch.arange(64) < 63).reshape(1, 8, 8))


@of_whole_images
@torch.no_grad()
def test_images_of_other_sizes_and_a_mask_of_them(name):
    stock = built(COMPOSITES[name])
    model, given = fatr_hf.convert(stock, **REDUCTION), arguments_of(name)
    given["pixel_values"] = torch.stack([images(2, 48, 48)] * 2, dim=1)
    given["pixel_attention_mask"] = torch.ones(2, 2, 48, 48, dtype=torch.bool)
    given["input_ids"] = torch.tensor([[1, *[IMAGE_TOKEN] * 72, 5]] * 2)
    with model.tower.reduction(False):
        assert_rounded_alike(answer_of(model(**given)), answer_of(stock(**given)))


@of_whole_images
def test_no_layer_of_the_stock_tower_is_left(name):
    model = fatr_hf.convert(built(COMPOSITES[name]), **REDUCTION)
    assert type(model.model.vision_model) is type(model.tower)
    assert not any("EncoderLayer" in type(module).__name__ for module in model.modules())


def test_a_tower_may_go_by_the_name_of_the_whole_model():
    """As in the first checkpoints, which hold fields of the image processor too."""
    fields = COMPOSITES["idefics3"]().config.to_dict()
    fields["vision_config"] |= {"model_type": "idefics3", "size": {"longest_edge": 64}, "use_base_siglip": True}
    config = fatr_hf.FATRIdefics3Config.from_dict(fields, keep_ratio=0.5)
    assert type(config.tower) is fatr_hf.FATRIdefics3VisionConfig
    assert (config.tower.keep_ratio, config.tower.hidden_size, config.tower.dense_outputs) == (0.5, 32, True)


def test_a_model_without_its_head_is_refused(tmp_path):
    stock = Idefics3Model(COMPOSITES["idefics3"]().config)
    with pytest.raises(ValueError, match="Idefics3Model cannot be reduced as a whole"):
        fatr_hf.convert(stock)
    stock.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks \d+ of the model's weights"):
        fatr_hf.convert(tmp_path)


@torch.no_grad()
def test_the_tower_of_a_smolvlm_alone(tmp_path):
    stock = built(lambda: SmolVLMVisionTransformer(SmolVLMVisionConfig(**TOWER)))
    stock.save_pretrained(tmp_path / "stock")
    for model in (fatr_hf.convert(stock, **REDUCTION), fatr_hf.convert(tmp_path / "stock", **REDUCTION)):
        assert isinstance(model, SmolVLMVisionTransformer)
        with model.reduction(False):
            found = model(images(2), output_hidden_states=True)
        expected = stock(images(2), output_hidden_states=True)
        assert_rounded_alike(found.last_hidden_state, expected.last_hidden_state)
        assert_rounded_alike(found.hidden_states, expected.hidden_states)
    model.save_pretrained(tmp_path / "reduced")
    again = AutoModel.from_pretrained(tmp_path / "reduced").eval()
    assert_rounded_alike(again(images(2)).last_hidden_state, model(images(2)).last_hidden_state)


@pytest.mark.parametrize("use_mean_pooling", [True, False], ids=["bare", "normed"])
@torch.no_grad()
def test_masked_patches_of_an_internvl_tower(use_mean_pooling):
    fields = {"use_mask_token": True, "use_absolute_position_embeddings": False, "use_mean_pooling": use_mean_pooling}
    stock = built(lambda: InternVLVisionModel(InternVLVisionConfig(**TOWER, **fields)))
    model, masked = fatr_hf.convert(stock, **REDUCTION), torch.arange(128).reshape(2, 64) % 3 == 0
    expected = stock(images(2), bool_masked_pos=masked).last_hidden_state
    with model.reduction(False):
        assert_rounded_alike(model(images(2), bool_masked_pos=masked).last_hidden_state, expected)
    assert not torch.allclose(stock(images(2)).last_hidden_state, expected)


@torch.no_grad()
def test_an_internvl_may_read_an_earlier_layer():
    stock, given = built(COMPOSITES["internvl"]), arguments_of("internvl")
    model = fatr_hf.convert(stock, **REDUCTION)
    with model.tower.reduction(False):
        found = answer_of(model(**given, vision_feature_layer=-2))
    assert_rounded_alike(found, answer_of(stock(**given, vision_feature_layer=-2)))
    reduced = answer_of(model(**given, vision_feature_layer=-2))
    stock.set_submodule(model.tower_name, model.tower)
    assert_rounded_alike(answer_of(stock(**given, vision_feature_layer=-2)), reduced)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"norm_type": "rms_norm"}, "norm_type='rms_norm' must be 'layer_norm': RMS norms are not taken"),
        ({"use_qk_norm": True}, "use_qk_norm=True must be False"),
        ({"projection_dropout": 0.1}, r"projection_dropout=0\.1 must equal hidden_dropout_prob=0\.0"),
    ],
    ids=["rms", "qk", "dropout"],
)
def test_layers_of_other_kinds_are_refused(fields, words):
    with pytest.raises(Exception, match=words):
        fatr_hf.FATRInternVLVisionConfig(**TOWER, **fields)
    with pytest.raises(Exception, match=words):
        fatr_hf.FATRInternVLConfig.from_dict(InternVLConfig(vision_config={**TOWER, **fields}).to_dict())
    with pytest.raises(Exception, match=words):
        fatr_hf.convert(InternVLVisionModel(InternVLVisionConfig(**TOWER, **fields)))


@pytest.mark.parametrize("name", ["internvl", "idefics3", "smolvlm"])
def test_the_grid_is_always_given_back(name, tmp_path):
    stock = COMPOSITES[name]()
    with pytest.raises(ValueError, match=f"dense_outputs=False must be True: 'fatr_{name}' reads the whole grid"):
        fatr_hf.convert(stock, dense_outputs=False)
    model = fatr_hf.convert(stock)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).tower.dense_outputs
