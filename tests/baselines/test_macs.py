import pytest

from fatr_hf.baselines.macs import closest


@pytest.mark.parametrize(("target", "chosen"), [(0, 3), (12, 3), (16, 2), (1000, 0), (25, 1), (20, 2)])
def test_closest_candidate(target, chosen):
    costs = [40, 30, 20, 10]
    asked = []

    def cost(candidate):
        asked.append(candidate)
        return costs[candidate]

    assert closest(range(4), cost, target) == chosen


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="candidates is empty"):
        closest(range(0), int, 1)
