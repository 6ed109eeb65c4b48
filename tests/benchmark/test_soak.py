"""Memory stays as it is while inputs and reduction change; what would not stay is seen."""

import pytest
import soak

from fatr_hf.modeling import budget

PASSES = 2 * 2 * 1 * len(soak.CHANGES)


@pytest.fixture
def short(monkeypatch):
    """The same inputs and changes come again after ``PASSES``."""
    for name, values in (("IMAGE_SIZES", (32, 48)), ("BATCH_SIZES", (1, 2)), ("KEEP_RATIOS", (0.5,))):
        monkeypatch.setattr(soak, name, values)
    monkeypatch.setattr(budget, "REPEATS", 1)


def test_nothing_is_left_behind(short):
    warm, *later = soak.soak(soak.soak_model(), passes=3 * PASSES, readings=3)
    assert [each.passes for each in later] == [2 * PASSES, 3 * PASSES]
    assert warm.cached > 0
    for each in later:
        assert (each.tensors, each.cached) == (warm.tensors, warm.cached)
        assert each.objects - warm.objects < PASSES // 2  # less than one in two passes: the readings themselves


def test_what_a_pass_leaves_behind_is_seen(short):
    left, model = [], soak.soak_model()
    model.register_forward_hook(lambda module, inputs, output: left.append(output.logits))
    warm, later = soak.soak(model, passes=2 * PASSES, readings=2)
    assert later.tensors - warm.tensors >= PASSES // 2


def test_latencies_are_remembered_for_so_many_circumstances_only(make_fatr, monkeypatch):
    monkeypatch.setattr(budget, "REMEMBERED", 5)
    model = make_fatr()
    for batch_size in range(1, 10):
        budget.remembered_latency(model, batch_size, None, lambda model, pixel_values, plan: 1.0)(0.5)
    batches = [key.split(" | ")[2] for key in model.config.measured_latencies]
    assert batches == [f"{batch_size} x 32 x 32" for batch_size in range(5, 10)]


def test_the_table_has_a_line_for_each_reading():
    found = [soak.InUse(10, 3 * 2**20, 2048, 7, 1, 0), soak.InUse(20, None, 4096, 8, 1, 0)]
    assert soak.soak_table(found).splitlines()[2:] == [
        "| 10 | 3.0 MiB | 2 KiB | 7 | 1 | 0 |",
        "| 20 | unknown | 4 KiB | 8 | 1 | 0 |",
    ]
