"""Stock checkpoints load as FATR exactly, and nothing else does."""

import pytest
import torch
from rounding import assert_rounded_alike
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
    ViTMSNConfig,
    ViTMSNForImageClassification,
    ViTMSNModel,
)

from fatr_hf import FATRViTConfig, FATRViTForImageClassification, FATRViTModel


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy-names", "new-names"])
def test_classifier_checkpoint_gives_exact_logits(stock, pixel_values, tmp_path, legacy):
    stock.save_pretrained(tmp_path, save_original_format=legacy)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert ("vit.encoder.layer.0.attention.attention.query.weight" in set(weights.keys())) == legacy
    model = FATRViTForImageClassification.from_pretrained(tmp_path, dtype=torch.float64)
    expected = stock.double()(pixel_values).logits
    with model.reduction(False):
        assert_rounded_alike(model(pixel_values).logits, expected)
    assert not torch.allclose(model(pixel_values).logits, expected, atol=1e-6)
    unreduced = FATRViTForImageClassification.from_pretrained(tmp_path, keep_ratio=1.0, dtype=torch.float64)
    assert_rounded_alike(unreduced(pixel_values).logits, expected)


@pytest.mark.parametrize("pooler", [True, False], ids=["pooler", "no-pooler"])
def test_encoder_checkpoint_as_of_dino_or_in21k(stock_config, pixel_values, tmp_path, pooler):
    encoder = ViTModel(stock_config, add_pooling_layer=pooler).eval()
    encoder.save_pretrained(tmp_path)
    model = FATRViTModel.from_pretrained(tmp_path, keep_ratio=1.0).double()
    expected, actual = encoder.double()(pixel_values), model(pixel_values)
    assert_rounded_alike(actual.last_hidden_state, expected.last_hidden_state)
    if pooler:
        assert_rounded_alike(actual.pooler_output, expected.pooler_output)
    else:
        assert model.pooler is None
        assert actual.pooler_output is None
    classifier = FATRViTForImageClassification.from_pretrained(tmp_path, keep_ratio=1.0, num_labels=7).double()
    assert_rounded_alike(classifier.vit(pixel_values).last_hidden_state, expected.last_hidden_state)
    assert classifier(pixel_values).logits.shape == (3, 7)


@pytest.mark.parametrize("model_class", [ViTMSNModel, ViTMSNForImageClassification], ids=lambda c: c.__name__)
def test_msn_checkpoint(tiny, pixel_values, tmp_path, model_class):
    msn = model_class(ViTMSNConfig(**tiny)).eval()
    msn.save_pretrained(tmp_path)
    model = FATRViTModel.from_pretrained(tmp_path, keep_ratio=1.0).double()
    expected = msn.double().base_model(pixel_values).last_hidden_state
    assert_rounded_alike(model(pixel_values).last_hidden_state, expected)


def test_mae_checkpoint_gives_its_encoder(tiny, stock_config, pixel_values, tmp_path):
    mae = ViTMAEForPreTraining(
        ViTMAEConfig(**tiny, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
    )
    mae.save_pretrained(tmp_path)
    encoder = ViTModel(stock_config, add_pooling_layer=False).eval()
    encoder.load_state_dict(mae.vit.state_dict())
    encoder.config.layer_norm_eps = mae.config.layer_norm_eps
    model = FATRViTForImageClassification.from_pretrained(tmp_path, keep_ratio=1.0, num_labels=5).double()
    expected = encoder.double()(pixel_values).last_hidden_state
    assert_rounded_alike(model.vit(pixel_values).last_hidden_state, expected)
    assert not hasattr(model.config, "mask_ratio")


def test_fatr_checkpoint_round_trip_keeps_everything(make_fatr, pixel_values, tmp_path):
    model = make_fatr(keep_ratio=[0.6, 0.8], reduction_layers=[1, 2], dc_windows=[4, 2], size_exponent=0.5)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) == set(model.state_dict())
    again = FATRViTForImageClassification.from_pretrained(tmp_path)
    assert_rounded_alike(again(pixel_values).logits, model(pixel_values).logits)
    assert FATRViTConfig.from_pretrained(tmp_path).to_json_string() == model.config.to_json_string()
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is FATRViTModel
    expected = model.vit(pixel_values).last_hidden_state
    assert_rounded_alike(encoder(pixel_values).last_hidden_state, expected)


def test_sharded_and_half_precision_round_trip(make_fatr, pixel_values, tmp_path):
    model = make_fatr().to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again = FATRViTForImageClassification.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert_rounded_alike(again(pixel_values).logits, model(pixel_values).logits)


def test_another_architecture_is_refused(tmp_path):
    bert = BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)
    )
    bert.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model type 'bert' cannot be loaded"):
        FATRViTForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("lost", ["encoder.layer.2.attention.attention.key.weight", "vit.layernorm.bias"])
def test_missing_weights_are_refused(stock, tmp_path, lost):
    stock.save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.pop(next(name for name in weights if name.endswith(lost))))
    with pytest.raises(ValueError, match="lacks 1 of the model's weights"):
        FATRViTForImageClassification.from_pretrained(tmp_path)


def test_lost_reduction_parameters_are_refused(make_fatr, tmp_path):
    make_fatr().save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.pop("vit.layers.2.attention.omega1"))
    with pytest.raises(ValueError, match=r"omega1.*another reduction"):
        FATRViTForImageClassification.from_pretrained(tmp_path)


def test_other_shapes_are_refused_except_for_the_classifier(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"classifier\.weight is \(\d+, 32\) and must be \(9, 32\).*ignore_mismatched"):
        FATRViTForImageClassification.from_pretrained(tmp_path, num_labels=9)
    model = FATRViTForImageClassification.from_pretrained(tmp_path, num_labels=9, ignore_mismatched_sizes=True)
    assert model.classifier.out_features == 9


def test_pickled_weights_are_never_read(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    torch.save(stock.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="use_safetensors=False is not supported"):
        FATRViTForImageClassification.from_pretrained(tmp_path, use_safetensors=False)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        FATRViTForImageClassification.from_pretrained(tmp_path)


def test_a_path_that_leads_nowhere_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint at"):
        FATRViTForImageClassification.from_pretrained(tmp_path / "nowhere")


def test_an_invalid_configuration_writes_nothing(make_fatr, tmp_path):
    model = make_fatr()
    model.config.keep_ratio = 1.5
    with pytest.raises(Exception, match=r"keep_ratio=1\.5 must lie in"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_overrides_are_validated_like_any_field(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    with pytest.raises(Exception, match=r"keep_ratio=1\.5 must lie in \(0, 1\]"):
        FATRViTForImageClassification.from_pretrained(tmp_path, keep_ratio=1.5)
    with pytest.raises(ValueError, match="no field 'keep_ratios': did you mean 'keep_ratio'"):
        FATRViTForImageClassification.from_pretrained(tmp_path, keep_ratios=0.5)


def test_stock_vit_reads_the_weights_back(make_fatr, stock_config, pixel_values, tmp_path):
    """The encoder under stock names: what FATR trained is still a ViT."""
    model = make_fatr(keep_ratio=1.0)
    model.save_pretrained(tmp_path)
    stock = ViTForImageClassification.from_pretrained(tmp_path, config=stock_config).eval()
    assert_rounded_alike(stock.double()(pixel_values).logits, model.double()(pixel_values).logits)


def test_integers_that_are_no_weights_are_not_looked_at(stock, tmp_path):
    """Old files hold position_ids and other counters, which the model does not load."""
    weights = {**stock.state_dict(), "vit.embeddings.position_ids": torch.arange(65), "num_batches": torch.tensor([3])}
    stock.save_pretrained(tmp_path, state_dict=weights)
    assert FATRViTForImageClassification.from_pretrained(tmp_path).num_labels == 5
    weights = {**stock.state_dict(), "vit.layers.1.mlp.fc1.weight": torch.ones(64, 32, dtype=torch.int64)}
    stock.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match="in I64, but weights must be in F64"):
        FATRViTForImageClassification.from_pretrained(tmp_path)


def test_a_configuration_without_a_checkpoint_gives_a_fresh_model(tiny):
    model = FATRViTForImageClassification.from_pretrained(None, config=FATRViTConfig(**tiny), state_dict={})
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_errors_that_callers_of_transformers_catch_keep_their_type(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"classifier\.bias is \(5,\) and must be \(9,\)"):
        FATRViTForImageClassification.from_pretrained(tmp_path, num_labels=9)
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta device"):
        FATRViTForImageClassification.from_pretrained(tmp_path)
