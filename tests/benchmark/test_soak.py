"""Memory stays as it is while inputs and reduction change; what would not stay is seen."""

import pytest
import soak

PASSES = 2 * 2 * 1 * len(soak.CHANGES)


@pytest.fixture
def short(monkeypatch):
    """The same inputs and changes come again after ``PASSES``."""
    for name, values in (("IMAGE_SIZES", (32, 48)), ("BATCH_SIZES", (1, 2)), ("KEEP_RATIOS", (0.5,))):
        monkeypatch.setattr(soak, name, values)


def test_nothing_is_left_behind(short):
    warm, *later = soak.soak(soak.soak_model(), passes=3 * PASSES, readings=3)
    assert [each.passes for each in later] == [2 * PASSES, 3 * PASSES]
    for each in later:
        assert each.tensors == warm.tensors
        assert each.objects - warm.objects < PASSES // 2  # less than one in two passes: the readings themselves


def test_what_a_pass_leaves_behind_is_seen(short):
    left, model = [], soak.soak_model()
    model.register_forward_hook(lambda module, inputs, output: left.append(output.logits))
    warm, later = soak.soak(model, passes=2 * PASSES, readings=2)
    assert later.tensors - warm.tensors >= PASSES // 2


def test_the_table_has_a_line_for_each_reading():
    found = [soak.InUse(10, 3 * 2**20, 2048, 7, 1), soak.InUse(20, None, 4096, 8, 1)]
    assert soak.soak_table(found).splitlines()[2:] == [
        "| 10 | 3.0 MiB | 2 KiB | 7 | 1 |",
        "| 20 | unknown | 4 KiB | 8 | 1 |",
    ]
