"""The table: what it is beside, and how speeds are counted."""

import importlib

import pytest

from fatr_hf.benchmark.timing import Timing


@pytest.fixture
def module(importable_examples):
    return importlib.import_module("export_benchmark")


def test_speeds_are_medians_of_ratios_within_rounds(module):
    assert module.speed(Timing((1.0, 2.0, 1.0)), Timing((3.0, 4.0, 9.0))) == 3.0


def test_rows_stand_by_runtime_and_are_beside_their_unreduced_one(module):
    row, base = module.Row, ("eager", False)
    timing = {
        row(*base): Timing((8.0,)),
        row("onnx", False): Timing((6.0,)),
        row("onnx", False, True): Timing((2.0,)),
        row("eager", True): Timing((4.0,)),
        row("onnx", True): Timing((3.0,)),
        row("onnx", True, True): Timing((1.0,)),
    }
    lines = module.table(timing, {}, [4], [timing]).splitlines()
    assert lines[1:] == [
        "| runtime | model | batch 4, ms | over unreduced | over eager |",
        "|---|---|---|---|---|",
        "| eager | unreduced | 8.0 | 1.00 | 1.00 |",
        "| eager | reduced | 4.0 | 2.00 | 1.00 |",
        "| onnx | unreduced | 6.0 | 1.00 | 1.33 |",
        "| onnx | reduced | 3.0 | 2.00 | 1.33 |",
        "| onnx | int8 | 2.0 | 3.00 | 4.00 |",
        "| onnx | reduced, int8 | 1.0 | 6.00 | 4.00 |",
    ]
