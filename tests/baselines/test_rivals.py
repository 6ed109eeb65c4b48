"""What all rivals have in common: they are ordinary transformers models around a FATR model's weights."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from rounding import assert_rounded_alike
from safetensors import safe_open
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from fatr_hf.baselines import Rival, RivalConfig, ToMe
from fatr_hf.modeling.fused_inference import is_fused


class TwelveImages(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": index % 5}


def tokens_per_layer(rival, image_size=None):
    return [step.tokens_out for step in rival.config.plan(image_size)]


def test_the_model_that_is_reduced_has_stocks_names(rival, sharp_stock):
    actual = {name: tensor.shape for name, tensor in rival.model.state_dict().items()}
    assert actual == {name: tensor.shape for name, tensor in sharp_stock.state_dict().items()}


def test_a_rival_is_a_copy(make_fatr, pixel_values):
    fatr = make_fatr()
    before = {name: value.clone() for name, value in fatr.state_dict().items()}
    fields = fatr.config.to_dict()
    rival = Rival.of(fatr, ToMe(merges_per_layer=9))
    assert not any(
        name.endswith(("omega1", "omega2", "dc_position_embeddings")) for name, _ in rival.named_parameters()
    )
    with torch.no_grad():
        for parameter in rival.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in fatr.state_dict().items())
    assert fatr.config.to_dict() == fields


def test_a_methods_plan_runs_on_any_fatr_model(make_fatr, pixel_values):
    """Re-weighting and DC embeddings belong to FATR's reduction: they do not act under another plan."""
    fatr = make_fatr().double()
    with torch.no_grad():
        for name, parameter in fatr.named_parameters():
            if name.endswith(("omega1", "omega2", "dc_position_embeddings")):
                parameter.add_(0.3)
    method = ToMe(merges_per_layer=9)
    expected = Rival.of(fatr, method)(pixel_values).logits
    assert_rounded_alike(fatr(pixel_values, plan=method.plan(fatr.config)).logits, expected)


def test_round_trip(rival, pixel_values, tmp_path):
    rival.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) == set(rival.state_dict())
    again, info = Rival.from_pretrained(tmp_path, output_loading_info=True)
    assert {name: keys for name, keys in info.items() if keys} == {}
    assert again.method == rival.method
    assert_rounded_alike(again(pixel_values).logits, rival(pixel_values).logits)
    assert AutoConfig.from_pretrained(tmp_path).to_json_string() == rival.config.to_json_string()
    assert type(AutoModel.from_pretrained(tmp_path)) is Rival
    assert again.config.id2label == rival.model.config.id2label
    assert again.config.num_labels == 5


def test_checkpoints_of_other_models_and_with_holes_are_refused(rival, sharp_stock, tmp_path):
    sharp_stock.save_pretrained(tmp_path / "stock")
    with pytest.raises(ValueError, match=r"model type 'vit' is no rival: load it with fatr_hf\.convert"):
        Rival.from_pretrained(tmp_path / "stock")
    weights = rival.state_dict()
    weights["model.vit.layers.1.mlp.fc3.weight"] = weights.pop("model.vit.layers.1.mlp.fc1.weight")
    rival.save_pretrained(tmp_path / "holes", state_dict=weights)
    with pytest.raises(ValueError, match=r"lacks 1 of the model's weights, such as model\.vit\.layers\.1\.mlp\.fc1"):
        Rival.from_pretrained(tmp_path / "holes")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"method": "tomme"},
            "method='tomme' must be one of evit, tome, pitome, prune_merge, mctf, zero_tprune, pooling",
        ),
        ({"settings": {"merges": 3}}, "ToMe has no field 'merges', but merges_per_layer, proportional_attention"),
        ({"settings": {"merges_per_layer": [1]}}, "has 1 entries, but there are 12"),
        ({"architecture": "ViTModel"}, "architecture='ViTModel' must be a model of 'fatr_vit'"),
        ({"encoder_config": {"model_type": "bert"}}, "must be the configuration of a FATR model"),
    ],
    ids=["method", "field", "entries", "architecture", "encoder"],
)
def test_bad_configurations_are_refused_in_words(fields, words):
    with pytest.raises((ValueError, StrictDataclassError), match=words):
        RivalConfig(**fields)


@pytest.mark.parametrize(
    ("make_model", "method", "words"),
    [
        (
            lambda fatr, stock: fatr,
            "tome",
            "method='tome' must be one of EViT, ToMe, PiToMe, PruneMerge, MCTF, ZeroTPrune, Pooling, Truncation",
        ),
        (
            lambda fatr, stock: stock,
            ToMe(3),
            "Only a FATR model can be given a method, .*: make one by fatr_hf.convert",
        ),
        (lambda fatr, stock: fatr.fuse(), ToMe(3), "A fused model cannot be given a method"),
        (lambda fatr, stock: fatr, ToMe([3]), r"merges_per_layer=\[3\] has 1 entries"),
    ],
    ids=["name", "stock", "fused", "entries"],
)
def test_what_makes_no_rival_is_refused_in_words(make_fatr, sharp_stock, make_model, method, words):
    with pytest.raises(ValueError, match=words):
        Rival.of(make_model(make_fatr(), sharp_stock), method)


def test_pixel_values_are_checked_before_they_are_planned_for(rival):
    with pytest.raises(ValueError, match="pixel_values must be a tensor"):
        rival("picture")


def test_outputs(rival, pixel_values):
    rival.set_attn_implementation("eager")
    outputs = rival(pixel_values, labels=torch.tensor([0, 1, 2]), output_hidden_states=True, output_attentions=True)
    tokens = [65, *tokens_per_layer(rival)]
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
    assert [state.shape[1] for state in states] == [61, *tokens_per_layer(rival, (24, 40))]


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
            model=Rival(rival.config),
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
        rival.fuse().save_pretrained(tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


def test_fused_copies_give_the_same_logits(rival, pixel_values):
    fused = rival.double().fuse()
    assert is_fused(fused)
    with torch.inference_mode():
        assert_rounded_alike(fused(pixel_values).logits, rival(pixel_values).logits)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("evit", {"reduction_layers": [0], "keep_ratio": 0.5}),
        ("pooling", {"reduction_layers": [0], "keep_ratio": 0.5}),
        ("tome", {"merges_per_layer": [9, 0]}),
        ("mctf", {"merges_per_layer": [9, 0]}),
        ("zero_tprune", {"reduction_layers": [0], "keep_ratio": 0.5}),
        ("truncation", {"tokens_out": [40, 40]}),
    ],
)
def test_compile_whole(make_rival, pixel_values, name, fields):
    torch._dynamo.reset()
    model = make_rival(name, {"num_hidden_layers": 2}, **fields).double()
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
