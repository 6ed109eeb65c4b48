"""Arguments that are mixed up, or of other kinds, are refused before anything is measured."""

import math
from dataclasses import replace

import pytest
import torch

from fatr_hf.analysis import Comparison as OtherComparison
from fatr_hf.benchmark import (
    ModelCost,
    ModelSize,
    Protocol,
    choose_device,
    compare,
    compare_throughput,
    comparison_table,
    default_protocol,
    default_setting,
    describe_machine,
    plot_throughput,
    results_table,
    suggest_multiple,
    time_in_turn,
)

PIXELS = torch.zeros(2, 3, 32, 32)


@pytest.fixture(autouse=True)
def nothing_is_timed(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("something was timed")

    monkeypatch.setattr("fatr_hf.benchmark.timing.time_on_host", refuse)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": "S"}, "size must be a ModelSize, .* not 'S'"),
        ({"size": ModelSize("odd", 30, 4, 2)}, "num_attention_heads=4 must be at least 1 and divide hidden_size=30"),
        ({"size": ModelSize("none", 0, 1, 1)}, "hidden_size=0 must be an integer from 1"),
        ({"batch_size": "8"}, "batch_size='8' must be an integer of at least 1"),
        ({"batch_size": True}, "batch_size=True must be an integer"),
        ({"batch_size": 2.0}, r"batch_size=2\.0 must be an integer"),
        ({"keep_ratio": 70}, r"keep_ratio=70 must lie in \(0, 1\]"),
        ({"keep_ratio": math.nan}, r"keep_ratio=nan must lie in \(0, 1\]"),
        ({"keep_ratio": "0.7"}, "keep_ratio"),
        ({"reduction_layers": (9,)}, r"reduction_layers=\[9\] must be strictly increasing integers from 0 to 3"),
        ({"token_multiple": 0}, "token_multiple=0 must be an integer of at least 1"),
        ({"dtype": torch.float32}, "Unknown dtype torch.float32: give one of"),
        ({"dtype": ["float32"]}, r"Unknown dtype \['float32'\]: give one of"),
        ({"seed": "a"}, "seed='a' must be an integer of at least 0"),
    ],
    ids=str,
)
def test_settings_are_refused_when_they_are_made(setting, changes, words):
    with pytest.raises(ValueError, match=words):
        replace(setting, **changes)


@pytest.mark.parametrize(
    "arguments", [(0, 0, 0.0), (1, -1, 0.0), (2.5, 0, 0.0), ("3", 0, 0.0), (True, 0, 0.0)], ids=str
)
def test_protocols_are_refused_when_they_are_made(arguments):
    with pytest.raises(ValueError, match=r"(rounds|warmup)=.* must be an integer of at least"):
        Protocol(*arguments)


@pytest.mark.parametrize("milliseconds", [-1, math.nan, math.inf, "10", True], ids=str)
def test_milliseconds_are_finite_and_not_negative(cpu, milliseconds):
    with pytest.raises(ValueError, match=r"sample_milliseconds=.* must be a finite number of at least 0"):
        Protocol(1, 0, milliseconds)
    with pytest.raises(ValueError, match="sample_milliseconds="):
        time_in_turn({"a": print}, cpu, sample_milliseconds=milliseconds)


def test_arguments_in_another_order_are_refused(setting, cpu, protocol):
    for arguments, words in (
        ((["fatr"], setting, cpu, protocol), "names must be a list, not a fatr_hf.*Setting"),
        ((setting, "fatr", cpu, protocol), "names must be a list, not 'fatr': put it into brackets"),
        (
            (setting, ["fatr"], "cpu", protocol),
            r"device must be a torch.device, such as choose_device\('cpu'\), not 'cpu'",
        ),
        ((setting, ["fatr"], protocol, cpu), "protocol must be a Protocol, .* not a torch.device"),
        ((setting.size, ["fatr"], cpu, protocol), r"setting must be a Setting, .* not a fatr_hf.*ModelSize"),
    ):
        with pytest.raises(ValueError, match=words):
            compare(*arguments)
    with pytest.raises(ValueError, match="setting must be a Setting"):
        suggest_multiple(cpu, setting, protocol)
    with pytest.raises(ValueError, match="protocol must be a Protocol"):
        suggest_multiple(setting, cpu, 3)


def test_devices_are_devices(setting):
    for function in (default_protocol, default_setting, describe_machine):
        with pytest.raises(ValueError, match=r"device must be a torch\.device"):
            function("cpu")
    with pytest.raises(ValueError, match=r"There is no device a fatr_hf.*Setting here"):
        choose_device(setting)
    with pytest.raises(ValueError, match=r"device must be a torch\.device"):
        time_in_turn({"a": print}, "cpu")


@pytest.mark.parametrize("tasks", [[print], {}, {"a": 3}, None], ids=str)
def test_tasks_are_functions_by_name(cpu, tasks):
    with pytest.raises(ValueError, match=r"tasks must (be a mapping|hold at least one function)"):
        time_in_turn(tasks, cpu)


def test_throughput_is_of_models_by_name_on_a_batch(make_fatr):
    model = make_fatr()
    for models, pixels, words in (
        ([model], PIXELS, "models must be a mapping from names to models, .* not a list"),
        ({}, PIXELS, "tasks must hold at least one function"),
        ({"a": "fatr"}, PIXELS, "a model must be a torch.nn.Module, not 'fatr'"),
        (PIXELS, {"a": model}, "models must be a mapping"),
        ({"a": model}, PIXELS[0], r"of the shape \(3, 32, 32\) must be \(images, channels, height, width\)"),
        ({"a": model}, PIXELS[:0], r"\(0, 3, 32, 32\) must be"),
        ({"a": model}, PIXELS.numpy(), "pixel_values must be a tensor"),
    ):
        with pytest.raises(ValueError, match=words):
            compare_throughput(models, pixels)


COST = ModelCost("ViT", 0.7, 1000, 10.0)


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        ([], "costs must be a list of at least one ModelCost"),
        (COST, "costs must be a list of at least one ModelCost"),
        ([COST._replace(accuracy=72.7)], r"accuracy=72\.7 of ViT must be a share in \[0, 1\]"),
        ([COST._replace(accuracy=math.nan)], "accuracy=nan of ViT must be a share"),
        ([COST._replace(accuracy="0.7")], "accuracy='0.7' of ViT must be a share"),
        ([COST._replace(images_per_second=0)], "images_per_second of ViT=0 must be a finite number above 0"),
        ([COST, COST._replace(macs=0)], "macs of ViT=0 must be a finite number above 0"),
    ],
    ids=["none", "single", "percent", "nan", "text", "no-speed", "no-cost"],
)
def test_costs_of_a_table_are_checked(setting, costs, words):
    with pytest.raises(ValueError, match=words):
        results_table(costs, setting.fatr_config().plan())


def test_tables_and_plots_are_of_this_packages_comparisons(comparison, setting, tmp_path):
    other = OtherComparison(())
    with pytest.raises(
        ValueError, match=r"comparison must be what fatr_hf\.benchmark\.compare gave, not a fatr_hf\.analysis"
    ):
        comparison_table(other)
    for comparisons, words in (
        ([], "at least one"),
        (comparison, "must be a list"),
        ([other], "benchmark.compare gave"),
    ):
        with pytest.raises(ValueError, match=words):
            plot_throughput(comparisons, tmp_path / "speed.png")
    with pytest.raises(ValueError, match="schedule must be a list of at least one LayerPlan"):
        results_table([COST], setting.fatr_config())
    with pytest.raises(ValueError, match="Unknown figure 'speed': choose from speedup"):
        comparison.figure("speed", "fatr")
