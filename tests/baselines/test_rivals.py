"""What all rivals have in common: they are ordinary transformers models on stock ViT's weights."""

from dataclasses import fields

import pytest
import torch
from rounding import assert_rounded_alike
from safetensors import safe_open
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    BertConfig,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    ViTMSNConfig,
    ViTMSNForImageClassification,
)

from fatr_hf.baselines import EViTConfig
from fatr_hf.baselines.fused_projections import fuse_projections


class TwelveImages(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": index % 5}


def own_fields(model):
    names = {field.name for field in fields(model.config)} - {field.name for field in fields(ViTConfig)}
    return {name: getattr(model.config, name) for name in sorted(names)}


def test_state_dict_is_stocks(rival, sharp_stock):
    actual = {name: tensor.shape for name, tensor in rival.state_dict().items()}
    assert actual == {name: tensor.shape for name, tensor in sharp_stock.state_dict().items()}


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy-names", "new-names"])
def test_stock_checkpoints_load(rival, sharp_stock, pixel_values, tmp_path, legacy):
    sharp_stock.save_pretrained(tmp_path, save_original_format=legacy)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert ("vit.encoder.layer.0.attention.attention.query.weight" in set(weights.keys())) == legacy
    loaded, info = type(rival).from_pretrained(tmp_path, **own_fields(rival), output_loading_info=True)
    assert {name: keys for name, keys in info.items() if keys} == {}
    assert own_fields(loaded) == own_fields(rival)
    rival.load_state_dict(sharp_stock.state_dict())
    assert_rounded_alike(loaded(pixel_values).logits, rival(pixel_values).logits)
    assert not torch.allclose(loaded(pixel_values).logits, sharp_stock(pixel_values).logits, atol=1e-3)


def test_encoder_and_msn_checkpoints_load(rival, sharp, sharp_stock, pixel_values, tmp_path):
    rival.vit.load_state_dict(sharp_stock.vit.state_dict())
    expected = rival.vit(pixel_values).last_hidden_state
    encoder = ViTModel(sharp_stock.config, add_pooling_layer=False)
    encoder.load_state_dict(sharp_stock.vit.state_dict())
    encoder.save_pretrained(tmp_path / "encoder")
    loaded = type(rival).from_pretrained(tmp_path / "encoder", **own_fields(rival), num_labels=7)
    assert_rounded_alike(loaded.vit(pixel_values).last_hidden_state, expected)
    assert loaded(pixel_values).logits.shape == (3, 7)

    msn = ViTMSNForImageClassification(ViTMSNConfig(**sharp))
    msn.save_pretrained(tmp_path / "msn")
    loaded = type(rival).from_pretrained(tmp_path / "msn", **own_fields(rival))
    assert torch.equal(loaded.vit.layers[1].attention.k_proj.weight, msn.vit.layers[1].attention.k_proj.weight)


def test_round_trip(rival, sharp_stock, pixel_values, tmp_path):
    rival.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) == set(rival.state_dict())
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(again) is type(rival)
    assert_rounded_alike(again(pixel_values).logits, rival(pixel_values).logits)
    assert AutoConfig.from_pretrained(tmp_path).to_json_string() == rival.config.to_json_string()
    assert type(AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)) is type(rival.vit)
    stock = ViTForImageClassification.from_pretrained(tmp_path, config=sharp_stock.config)
    assert torch.equal(stock.vit.layers[3].mlp.fc1.weight, rival.vit.layers[3].mlp.fc1.weight)


def test_other_checkpoints_and_misspelt_fields_are_refused(rival, tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"model_type='bert' cannot be loaded with \w+Config: only vit, vit_msn, fatr_"
    ):
        type(rival).from_pretrained(tmp_path)
    for name in own_fields(rival):
        with pytest.raises(Exception, match=f"Config has no field '{name}x': did you mean '{name}'"):
            type(rival.config)(**{f"{name}x": 1})


def test_overrides_of_a_checkpoint_are_validated(sharp_stock, tmp_path):
    sharp_stock.save_pretrained(tmp_path)
    with pytest.raises(Exception, match=r"keep_ratio=1\.5 must lie in \(0, 1\]"):
        EViTConfig.from_pretrained(tmp_path, keep_ratio=1.5)


def test_outputs(rival, pixel_values):
    rival.set_attn_implementation("eager")
    outputs = rival(pixel_values, labels=torch.tensor([0, 1, 2]), output_hidden_states=True, output_attentions=True)
    tokens = [65, *rival.config.tokens_per_layer()]
    assert [state.shape for state in outputs.hidden_states] == [(3, count, 32) for count in tokens]
    assert [weights.shape for weights in outputs.attentions] == [(3, 2, count, count) for count in tokens[:-1]]
    assert outputs.loss.shape == ()
    loss, logits = rival(pixel_values, labels=torch.tensor([0, 1, 2]), return_dict=False)
    assert_rounded_alike(logits, outputs.logits)
    assert_rounded_alike(loss, outputs.loss)


def test_attention_masks_and_other_image_sizes(rival):
    pixel_values = torch.randn(2, 3, 24, 40)
    with pytest.raises(ValueError, match="attention_mask is not supported"):
        rival(torch.randn(2, 3, 32, 32), attention_mask=torch.ones(2, 65))
    with pytest.raises(ValueError, match="doesn't match model"):
        rival(pixel_values)
    states = rival(pixel_values, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states] == [61, *rival.config.tokens_per_layer((24, 40))]


def test_every_parameter_of_influence_gets_a_gradient(rival, pixel_values):
    rival.train()(pixel_values, labels=torch.tensor([0, 1, 2])).loss.backward()
    for name, parameter in rival.named_parameters():
        # A key's bias adds the same to all logits of a row, which softmax takes away.
        if not name.endswith("k_proj.bias"):
            assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_gradient_checkpointing_gives_the_same_gradients(rival, pixel_values, reentrant):
    gradients, rival = [], rival.double()
    for checkpointing in (False, True):
        if checkpointing:
            rival.gradient_checkpointing_enable({"use_reentrant": reentrant})
        rival.zero_grad()
        rival.train()(pixel_values, labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in rival.parameters()])
    assert_rounded_alike(*gradients)


def test_training_and_resuming(rival, tmp_path):
    def train(output, **arguments):
        trainer = Trainer(
            model=type(rival)(rival.config),
            args=TrainingArguments(
                output_dir=tmp_path / output, per_device_train_batch_size=4, report_to="none", disable_tqdm=True,
                save_strategy="steps", save_steps=2, max_steps=4, use_cpu=True,
            ),
            train_dataset=TwelveImages(),
        )  # fmt: skip
        trainer.train(**arguments)
        return trainer.model

    whole = train("whole")
    resumed = train("resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in whole.state_dict().items())


def test_fused_copies_are_not_saved(rival, tmp_path):
    with pytest.raises(ValueError, match="cannot be saved"):
        fuse_projections(rival).save_pretrained(tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


def test_fused_copies_give_the_same_logits(rival, pixel_values):
    fused = fuse_projections(rival.double())
    assert all(layer.attention.qkv_proj is not None for layer in fused.vit.layers)
    with torch.inference_mode():
        assert_rounded_alike(fused(pixel_values).logits, rival(pixel_values).logits)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("evit", {"reduction_layers": [0], "keep_ratio": 0.5}),
        ("pooling", {"reduction_layers": [0], "keep_ratio": 0.5}),
        ("tome", {"merges_per_layer": [9, 0]}),
        ("truncation", {"tokens_out": [40, 40]}),
    ],
)
def test_compile_whole(make_rival, pixel_values, name, fields):
    torch._dynamo.reset()
    model = make_rival(name, num_hidden_layers=2, **fields).double()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for each in (model, compiled):
        model.zero_grad()
        logits = each(pixel_values).logits
        logits.square().sum().backward()
        results.append([logits, *(parameter.grad.clone() for parameter in model.parameters())])
    assert_rounded_alike(*results)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_half_precision(rival, pixel_values, attention):
    rival.set_attn_implementation(attention)
    expected = rival(pixel_values).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rival(pixel_values).logits.shape == expected.shape
    logits = rival.to(torch.bfloat16)(pixel_values).logits
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
