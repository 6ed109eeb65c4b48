"""Checkpoints become folders of FATR, whole or not at all."""

import pytest
import torch
from huggingface_hub import ModelCard
from rounding import assert_rounded_alike
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BertConfig,
    BertModel,
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
    ViTMSNConfig,
    ViTMSNForImageClassification,
)

from fatr_hf import FATRViTModel
from fatr_hf.hub.convert import conversion_card, convert_checkpoint
from fatr_hf.hub.load import load_reduced
from fatr_hf.hub.publish import REQUIRED_FILES
from fatr_hf.modeling import schedule_macs

CLASSIFIERS = {
    "ViT": lambda size, stock_config: ViTForImageClassification(stock_config),
    "MSN": lambda size, stock_config: ViTMSNForImageClassification(ViTMSNConfig(**size)),
}

ENCODERS = {
    "ViT": lambda size, stock_config: ViTModel(stock_config),
    "ViT-without-pooler": lambda size, stock_config: ViTModel(stock_config, add_pooling_layer=False),
    "MAE": lambda size, stock_config: ViTMAEForPreTraining(
        ViTMAEConfig(**size, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
    ),
}


@pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_a_classifier_stays_one(make, tiny, stock_config, pixel_values, tmp_path):
    saved = make(tiny, stock_config).eval()
    saved.save_pretrained(tmp_path / "saved")
    conversion = convert_checkpoint(tmp_path / "saved", tmp_path / "fatr")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "fatr", trust_remote_code=True)
    assert conversion.architecture == type(model).__name__ == "FATRViTForImageClassification"
    with model.reduction(False):
        assert_rounded_alike(model.double()(pixel_values).logits, saved.double()(pixel_values).logits)


@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)
def test_an_encoder_stays_one(make, tiny, stock_config, pixel_values, tmp_path):
    make(tiny, stock_config).save_pretrained(tmp_path / "saved")
    conversion = convert_checkpoint(str(tmp_path / "saved"), str(tmp_path / "fatr"), keep_ratio=0.6)
    model = AutoModel.from_pretrained(tmp_path / "fatr", trust_remote_code=True)
    assert conversion.architecture == type(model).__name__ == "FATRViTModel"
    expected = FATRViTModel.from_pretrained(tmp_path / "saved", keep_ratio=0.6)
    assert_rounded_alike(model(pixel_values).last_hidden_state, expected(pixel_values).last_hidden_state)


def test_a_converted_folder_can_be_published(stock, tmp_path):
    stock.save_pretrained(tmp_path / "saved")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "saved")
    (tmp_path / "fatr").mkdir()
    assert convert_checkpoint(tmp_path / "saved", tmp_path / "fatr").has_image_processor
    assert {*REQUIRED_FILES} <= {path.name for path in (tmp_path / "fatr").iterdir()}
    assert ViTImageProcessor.from_pretrained(tmp_path / "fatr").size["height"] == 32
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "fatr"}


def test_tokens_and_multiply_accumulates(stock, make_fatr, tmp_path):
    stock.save_pretrained(tmp_path / "saved")
    conversion = convert_checkpoint(tmp_path / "saved", tmp_path / "fatr", size_exponent=0.5)
    assert not conversion.has_image_processor
    reduced, unreduced = make_fatr(size_exponent=0.5).config, make_fatr(reduction_layers=[], dc_windows=[]).config
    assert conversion.plan == reduced.plan()
    assert (conversion.macs_before, conversion.macs_after) == (schedule_macs(unreduced), schedule_macs(reduced))


def test_the_card_claims_no_training(stock, tmp_path):
    stock.save_pretrained(tmp_path / "saved")
    convert_checkpoint(tmp_path / "saved", tmp_path / "fatr")
    card = ModelCard.load(tmp_path / "fatr" / "README.md")
    assert card.data.base_model is None
    assert "The model has not been fine-tuned" in card.text
    assert str(tmp_path) not in str(card)


def test_the_card_names_a_checkpoint_of_the_hub(make_fatr):
    card = conversion_card(make_fatr(), "user/vit")
    assert "\nbase_model: user/vit\n" in str(card)
    assert "The weights are those of `user/vit`." in card.text
    assert "Fine-tuned from" not in card.text


def test_what_fails_half_way_leaves_nothing(stock, tmp_path, monkeypatch):
    def fail(name, revision, folder):
        raise OSError("No space left on device")

    stock.save_pretrained(tmp_path / "saved")
    ViTImageProcessor().save_pretrained(tmp_path / "saved")
    monkeypatch.setattr("fatr_hf.hub.convert.copy_image_processor", fail)
    with pytest.raises(OSError, match="No space left"):
        convert_checkpoint(tmp_path / "saved", tmp_path / "fatr")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_what_is_there_is_never_overwritten(stock, tmp_path, taken):
    stock.save_pretrained(tmp_path / "saved")
    target = tmp_path / "saved" if taken == "folder" else tmp_path / "saved" / "config.json"
    before = target.stat()
    with pytest.raises(FileExistsError, match="is there already"):
        convert_checkpoint(tmp_path / "saved", target)
    assert target.stat() == before


def test_another_architecture_is_refused(tmp_path):
    BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path / "saved"
    )
    with pytest.raises(ValueError, match=r"BertModel cannot be reduced as a whole\. These can: CLIPForImage"):
        convert_checkpoint(tmp_path / "saved", tmp_path / "fatr")


def test_a_reduced_checkpoint_is_refused(make_fatr, tmp_path):
    make_fatr().save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="is reduced already"):
        convert_checkpoint(tmp_path / "saved", tmp_path / "fatr")


def test_a_classifier_without_weights_is_refused(stock, tmp_path):
    stock.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "model.safetensors"
    weights = load_file(path)
    save_file({name: weight for name, weight in weights.items() if "classifier" not in name}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="names a classifier"):
        convert_checkpoint(tmp_path / "saved", tmp_path / "fatr")


@pytest.mark.parametrize("content", [None, "null", "[]", "{", '{"hidden_size": 8}'])
def test_a_folder_without_a_checkpoint_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(FileNotFoundError, match="No checkpoint can be read from"):
        convert_checkpoint(tmp_path, tmp_path / "fatr")


def test_a_dinov2_is_counted_at_the_size_of_its_images(tmp_path):
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=2, image_size=64, patch_size=4
    )
    Dinov2Model(config).save_pretrained(tmp_path / "saved")
    processor = BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "saved")
    conversion = convert_checkpoint(tmp_path / "saved", tmp_path / "fatr", keep_ratio=0.5)
    assert (conversion.architecture, conversion.plan[0].tokens_in) == ("FATRDinov2Model", 65)
    model, own = load_reduced(str(tmp_path / "fatr"))
    assert model(torch.randn(1, 3, 32, 32)).last_hidden_state.shape[1] == conversion.plan[-1].tokens_out
    assert own.crop_size["height"] == 32
