from dataclasses import replace

import pytest
import torch
from torch import nn

from fatr_hf.benchmark import KINDS, OutOfMemory, compare
from fatr_hf.benchmark.contestants import Contestant, build_contestants
from fatr_hf.benchmark.memory import bytes_of, peak_memory
from fatr_hf.benchmark.steps import Images, InferenceStep, TrainingStep, build_step


@pytest.mark.parametrize("task", ["inference", "training"])
def test_all_contestants_are_measured(setting, cpu, protocol, task):
    comparison = compare(replace(setting, task=task), list(KINDS), cpu, protocol)
    assert [each.name for each in comparison.measurements] == list(KINDS)
    for each in comparison.measurements:
        assert len(each.milliseconds) == 2
        assert min(each.milliseconds) > 0
        assert each.peak_memory is None
        assert not each.note
    assert comparison.figure("speedup", "stock") == comparison.figure("share_of_bound", "truncation-bound") == 1
    assert comparison.figure("macs_ratio", "fatr") < 0.8
    assert comparison.tokens_per_layer == (65, 49, 32, 23)


def test_inference_is_in_inference_mode(setting, cpu):
    seen = []

    class Model(nn.Module):
        def forward(self, pixel_values):
            seen.append((torch.is_inference_mode_enabled(), pixel_values.shape, pixel_values.dtype))
            return Logits(pixel_values)

    class Logits:
        def __init__(self, logits):
            self.logits = logits

    half = replace(setting, dtype="bfloat16")
    InferenceStep(Contestant("stock", "a model", Model(), {}, 1), Images(half, cpu), half)()
    assert seen == [(True, (2, 3, 32, 32), torch.bfloat16)]


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_step_moves_every_parameter(setting, cpu, name, dtype):
    training = replace(setting, task="training", dtype=dtype)
    [contestant] = build_contestants([name], training, cpu)
    assert contestant.model.training
    before = {key: parameter.detach().clone() for key, parameter in contestant.model.named_parameters()}
    step = build_step(contestant, Images(training, cpu), training)
    step()
    for key, parameter in contestant.model.named_parameters():
        assert parameter.dtype == torch.float32
        # The key's bias has no effect on a softmax over keys, so it moves by rounding at most.
        assert key.endswith("k_proj.bias") or not torch.equal(parameter, before[key]), key


def test_images_are_alike_for_all(setting, cpu):
    one, other = Images(setting, cpu), Images(setting, cpu)
    assert torch.equal(one.pixel_values, other.pixel_values)
    assert torch.equal(one.labels, other.labels)
    assert not torch.equal(one.pixel_values, Images(replace(setting, seed=1), cpu).pixel_values)


def test_compiled_models_are_whole_graphs_of_their_own(setting, cpu, protocol, monkeypatch):
    compiled, real = [], torch.compile

    def record(function, *, mode, **options):
        compiled.append((function.__code__, mode, options))
        return real(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", record)
    comparison = compare(replace(setting, execution="compile"), ["fatr", "random"], cpu, protocol)
    assert [each.name for each in comparison.measurements] == ["fatr", "random"]
    codes, modes, options = zip(*compiled, strict=True)
    assert codes[0] is not codes[1]
    assert modes == ("default", "default")
    assert options[0] == {"fullgraph": True, "dynamic": False}


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["CUDA", "CPU"],
)
def test_lack_of_memory_is_said_in_words(setting, cpu, protocol, monkeypatch, error):
    class Greedy(InferenceStep):
        def __call__(self):
            if self.model.config.model_type == "fatr_rival":
                raise error
            super().__call__()

    monkeypatch.setattr("fatr_hf.benchmark.steps.InferenceStep", Greedy)
    with pytest.raises(OutOfMemory, match=r"ToMe ran out of memory .*batch 2"):
        compare(setting, ["stock", "tome"], cpu, protocol)


def test_other_errors_stay_as_they_are(setting, cpu, protocol):
    with pytest.raises(ValueError, match="score_implementation='abacus'"):
        compare(replace(setting, score_implementation="abacus"), ["fatr"], cpu, protocol)


def test_peak_memory_leaves_out_what_else_lies_on_the_device(monkeypatch):
    calls = []
    weights = torch.zeros(50)  # 200 bytes, of 1000 that are allocated
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1500)
    peak = peak_memory(lambda: calls.append("step"), lambda: [weights, weights[:3]], torch.device("cuda"))
    assert peak == 700
    assert calls == ["step", "reset", "step"]


def test_peak_memory_is_unknown_on_the_cpu(cpu):
    assert peak_memory(list, list, cpu) is None


def test_what_a_step_holds(setting, cpu):
    training = replace(setting, task="training")
    [contestant] = build_contestants(["stock"], training, cpu)
    step = TrainingStep(contestant, Images(training, cpu), training)
    weights = 4 * sum(parameter.numel() for parameter in contestant.model.parameters())
    images = 4 * 2 * 3 * 32 * 32 + 8 * 2
    assert bytes_of(step.held()) == weights + images
    step()
    counters = 4 * len(list(contestant.model.parameters()))
    assert bytes_of(step.held()) == 3 * weights + counters + images
