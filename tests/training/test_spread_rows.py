"""Choices of rows that leave no class out."""

import pytest

from fatr_hf.training.labels import spread_rows


@pytest.mark.parametrize(
    ("labels", "number", "rows"),
    [
        ([0, 0, 0, 0, 1, 1, 1, 1], 2, [0, 4]),
        ([0, 0, 0, 0, 1, 1, 1, 1], 5, [0, 1, 2, 4, 5]),
        ([0, 0, 0, 1], 3, [0, 1, 3]),
        (["b", "a", "b", "a"], 2, [0, 1]),
        ([0, 1], 9, [0, 1]),
    ],
    ids=["one-of-each", "odd", "a-small-class", "names", "all"],
)
def test_rows_are_spread_over_the_classes(labels, number, rows):
    assert spread_rows(labels, number) == rows


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="number=0 of rows must be at least 1"):
        spread_rows([0, 1], 0)
