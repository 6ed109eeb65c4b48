import gc
from contextlib import nullcontext
from functools import partial

import pytest
import torch

from fatr_hf.benchmark import Timing, compare_throughput, time_in_turn
from fatr_hf.benchmark.timing import cpu_threads


@pytest.fixture
def calls():
    return []


@pytest.fixture
def tasks(calls):
    return {name: partial(calls.append, name) for name in "abc"}


def test_rounds_are_interleaved_and_every_other_one_is_reversed(tasks, calls, cpu):
    timings = time_in_turn(tasks, cpu, rounds=2, warmup=1)
    assert "".join(calls) == "cba" + "abc" + "cba"
    assert {name: len(timing.samples) for name, timing in timings.items()} == {"a": 2, "b": 2, "c": 2}
    assert all(timing.median > 0 for timing in timings.values())


def test_short_tasks_are_called_as_often_as_a_sample_takes(tasks, calls, cpu, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock) / 1000)  # every task takes a millisecond
    timings = time_in_turn({"a": tasks["a"]}, cpu, rounds=2, warmup=1, sample_milliseconds=5.0)
    assert len(calls) == 1 + 2 * 5
    assert timings["a"].samples == pytest.approx((0.2, 0.2))


def test_garbage_is_not_collected_meanwhile(cpu):
    enabled = []
    time_in_turn({"a": lambda: enabled.append(gc.isenabled())}, cpu, rounds=1, warmup=0)
    assert enabled == [False]
    assert gc.isenabled()


def test_median_and_interquartile_range():
    timing = Timing((5.0, 1.0, 2.0, 3.0, 4.0))
    assert (timing.median, timing.spread) == (3.0, 2.0)
    assert Timing((7.0,)).spread == 0.0


@pytest.mark.parametrize("changes", [{"rounds": 0}, {"warmup": -1}])
def test_rounds_are_checked(tasks, cpu, changes):
    with pytest.raises(ValueError, match=r"(rounds=0|warmup=-1) must be an integer of at least"):
        time_in_turn(tasks, cpu, **changes)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads=0 must be an integer"), cpu_threads(0):
        pass


@pytest.mark.parametrize("fails", [False, True], ids=["measured", "failed"])
def test_models_are_left_in_their_modes(make_fatr, fails):
    model = make_fatr().train()
    model.vit.layers[0].eval()
    modes = [module.training for module in model.modules()]
    pixels = torch.zeros(1, 3, 32, 36 if fails else 32)
    seen = []
    model.register_forward_pre_hook(lambda module, arguments: seen.append(module.training))
    with pytest.raises(ValueError, match="doesn't match model") if fails else nullcontext():
        compare_throughput({"FATR": model}, pixels, repeats=1, warmup=0)
    assert seen == [False]
    assert [module.training for module in model.modules()] == modes
