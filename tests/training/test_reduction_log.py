"""What is logged of the reduction, and that TensorBoard gets it."""

import pytest
import torch
from rounding import FLOAT32
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fatr_hf.training.reduction_log import ReductionLogCallback, high_frequency_energy, high_frequency_energy_kept


def test_energy_of_closed_forms():
    constant = torch.ones(2, 5, 3)
    alternating = torch.tensor([1.0, -1.0]).repeat(4)[None, :, None].expand(1, 8, 3)
    torch.testing.assert_close(high_frequency_energy(constant), torch.zeros(2))
    torch.testing.assert_close(high_frequency_energy(alternating + 7), torch.tensor([24.0]))
    assert high_frequency_energy(constant.bfloat16()).dtype == torch.float32


def test_energy_kept_is_that_around_each_reduction(make_fatr, pixel_values):
    model = make_fatr(dc_position_embeddings=False).train()
    kept = high_frequency_energy_kept(model, pixel_values)
    assert list(kept) == [1, 2, 3]
    assert all(0 < share < 1 for share in kept.values())
    assert model.training
    layer, tokens = model.vit.layers[1], model.config.plan()
    hidden_states, layout, _ = model.eval().vit.start(pixel_values)
    hidden_states, layout = model.vit.layers[0](hidden_states, layout, tokens[0])
    before, _, scores = layer.attention_block(hidden_states, layout, tokens[1])
    after, _ = layer.reduction(before, scores, layout, tokens[1])
    expected = (high_frequency_energy(after) / high_frequency_energy(before)).mean().item()
    assert kept[1] == pytest.approx(expected, rel=FLOAT32)


def test_tensorboard_gets_tokens_omegas_and_energy(make_fatr, make_trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    model = make_fatr()
    trainer = make_trainer(model, report_to="tensorboard", eval_strategy="steps", eval_steps=1)
    trainer.add_callback(ReductionLogCallback(trainer, num_images=4))
    trainer.train()
    [file] = (tmp_path / "logs").rglob("events*")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    schedule = model.config.plan()
    for tokens in schedule:
        [first, second] = events.Scalars(f"train/reduction/tokens_layer_{tokens.layer}")
        assert first.value == second.value == tokens.tokens_out
        assert (first.step, second.step) == (1, 2)
    for layer in (1, 2, 3):
        assert f"train/reduction/high_frequency_energy_kept_layer_{layer}" in tags
        for head in range(2):
            omega = events.Scalars(f"train/reduction/omega1_layer_{layer}_head_{head}")[-1].value
            assert omega == pytest.approx(model.vit.layers[layer].attention.omega1[head].item(), rel=FLOAT32)
    assert {tag for tag in tags if "omega2_layer_1" in tag} == set()
    assert "eval/accuracy" in tags


def test_models_without_reduction_are_refused(stock, make_trainer, make_fatr):
    with pytest.raises(ValueError, match="ViTForImageClassification"):
        ReductionLogCallback(make_trainer(stock))
    with pytest.raises(ValueError, match="num_images=0 must be at least 1"):
        ReductionLogCallback(make_trainer(make_fatr()), num_images=0)
