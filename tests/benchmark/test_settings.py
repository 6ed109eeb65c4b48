import json
from dataclasses import asdict, replace

import pytest
import torch

from fatr_hf.benchmark import SIZES, ModelSize, Setting, default_setting
from fatr_hf.benchmark.machine import choose_device, describe_machine
from fatr_hf.benchmark.settings import check_support, parse_size


def test_sizes_are_the_usual_ones():
    assert parse_size("b").label == "ViT-B/16-224"
    assert parse_size("H").label == "ViT-H/14-224"
    assert parse_size("48/3/5") == ModelSize("48x5", 48, 3, 5)
    assert [layer.tokens_out for layer in Setting(SIZES["L"], 1).fatr_config().plan()][::6] == [
        197,
        142,
        97,
        68,
    ]


@pytest.mark.parametrize("text", ["Q", "48/3", "48/0/5", "a/b/c"])
def test_unknown_size(text):
    with pytest.raises(ValueError, match="Unknown size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "int8"}, "Unknown dtype 'int8'"),
        ({"execution": "fast"}, "Unknown execution"),
        ({"task": "sleep"}, "Unknown task"),
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"task": "training", "dtype": "float16"}, "loss scaling"),
    ],
)
def test_refusals(setting, changes, words):
    with pytest.raises(ValueError, match=words):
        replace(setting, **changes)


def test_graphs_need_cuda(setting, cpu):
    check_support(setting, cpu)
    with pytest.raises(ValueError, match="CUDA graphs need a CUDA device"):
        check_support(replace(setting, execution="cudagraphs"), cpu)


def test_a_number_format_that_the_device_lacks(setting, cpu, monkeypatch):
    def lacking(*tensors, **options):
        raise RuntimeError("not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lacking)
    with pytest.raises(ValueError, match="cpu does not compute in float16"):
        check_support(replace(setting, dtype="float16"), cpu)


def test_setting_survives_json(setting):
    full = replace(setting, keep_ratio=(0.7, 0.5), reduction_layers=(1, 2), dc_windows=(2, 1), token_multiple=2)
    assert Setting.from_dict(json.loads(json.dumps(asdict(full)))) == full


def test_defaults_suit_the_device(cpu):
    assert default_setting(cpu).label == "ViT-S/16-224, batch 8, float32, eager, inference, fused"
    assert default_setting(torch.device("cuda")).label == "ViT-B/16-224, batch 256, bfloat16, eager, inference, fused"


def test_machine_is_described_without_a_date(cpu):
    machine = describe_machine(cpu)
    assert machine["torch"] == torch.__version__.partition("+")[0] or machine["torch"] == torch.__version__
    assert machine["threads"] == torch.get_num_threads()
    assert machine["device"]
    json.dumps(machine)


@pytest.mark.parametrize("name", ["abacus", "meta"])
def test_unknown_device(name):
    with pytest.raises(ValueError, match="device"):
        choose_device(name)
