"""Which pictures calibrate, what is quantised and what is not, and how agreement is counted."""

import importlib
from pathlib import Path

import numpy as np
import onnx
import openvino
import PIL.Image
import pytest
import torch
from onnx import numpy_helper
from transformers import ViTImageProcessor

from fatr_hf import FATRViTConfig, FATRViTForImageClassification

EXAMPLES = Path(__file__).parents[2] / "examples"

LINEAR_LAYERS = 4 * 3
"""Query with key and value, output, and the two of the MLP, in each of three layers."""


@pytest.fixture
def module(importable_examples):
    return importlib.import_module("export_quantised")


@pytest.fixture
def processor():
    return ViTImageProcessor(size={"height": 20, "width": 28})


@pytest.fixture
def pictures(module, processor, tmp_path):
    random = np.random.default_rng(0)
    for number in range(10):
        picture = random.integers(0, 256, (20, 28, 3), dtype=np.uint8)
        PIL.Image.fromarray(picture).save(tmp_path / f"{number}.png")
    return module.draw_pictures(tmp_path, 10, processor)[0]


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Of a model that reduces in the last two of three layers, by scores and by a comparison of keys."""
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "image_size": [20, 28]}
    layers = {"num_hidden_layers": 3, "reduction_layers": [1, 2], "keep_ratio": 0.6}
    method = {"fold": "similar", "selection": "high_frequency_energy"}
    torch.manual_seed(0)
    model = FATRViTForImageClassification(FATRViTConfig(**sizes, **layers, **method, patch_size=4, num_labels=5)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("omega1", "omega2")):  # as after training; then some inputs of products are averaged, too
            parameter.data.normal_(std=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return importlib.import_module("export_formats").Source(model, tmp_path_factory.mktemp("scratch")).graph


def test_a_draw_is_always_the_same_and_shares_nothing(module, pictures, processor, tmp_path):
    drawn, others = module.draw_pictures(tmp_path, 4, processor)
    assert (len(drawn), len(others)) == (4, 6)
    assert [*drawn.files, *others.files] == pictures.files
    assert sorted(pictures.files) == sorted(tmp_path.glob("*.png")) != pictures.files


def test_pictures_are_what_the_processor_makes_of_them(module, pictures, processor):
    with PIL.Image.open(pictures.files[9]) as picture:
        expected = processor(picture, return_tensors="pt")["pixel_values"]
    assert torch.equal(pictures[9], expected)
    batches = [*pictures.batches()]
    assert [len(batch) for batch in batches] == [8, 2]
    assert torch.equal(batches[1][1:], expected)


def test_a_folder_without_pictures_is_refused(module, processor, tmp_path):
    with pytest.raises(ValueError, match="holds no pictures"):
        module.draw_pictures(tmp_path, 4, processor)


def test_agreement_by_hand(module):
    reference = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    found = module.agreement(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), reference)
    assert found == (0.5, 0.5, pytest.approx(2**0.5 / 2))


def test_onnx_quantises_products_with_weights_alone(module, graph, pictures, tmp_path):
    names = module.linear_layers(graph)
    assert len(names) == LINEAR_LAYERS
    module.quantise_onnx(graph, pictures, tmp_path / "quantised.onnx", tmp_path)
    found = onnx.load(tmp_path / "quantised.onnx").graph
    weights = {each.name: numpy_helper.to_array(each) for each in found.initializer}
    made = {output: node for node in found.node for output in node.output}
    restored = {node.output[0] for node in found.node if node.op_type == "DequantizeLinear"}
    readers = [node for node in found.node if restored & {*node.input}]
    assert sorted(node.name for node in readers) == sorted(names)
    for node in readers:
        values, weight = (made[name] for name in node.input)
        assert values.op_type == weight.op_type == "DequantizeLinear"
        assert weights[weight.input[0]].dtype == np.int8
        assert weights[weight.input[1]].shape == weights[weight.input[0]].shape[1:]  # by channel
        assert weights[values.input[1]].shape == ()
    assert any(node.op_type == "TopK" for node in found.node)


def test_openvino_quantises_the_same(module, graph, pictures, tmp_path):
    module.quantise_openvino(graph, pictures, tmp_path / "quantised.xml")
    operations = openvino.Core().read_model(tmp_path / "quantised.xml").get_ops()
    names = {
        reader.get_node().get_friendly_name()
        for each in operations
        if each.get_type_name() == "FakeQuantize"
        for reader in each.output(0).get_target_inputs()
    }
    assert names == {*module.linear_layers(graph)}
    stored = [each.get_element_type() for each in operations if each.get_type_name() == "Constant"]
    assert stored.count(openvino.Type.i8) == LINEAR_LAYERS


def test_a_graph_that_one_file_cannot_hold_is_refused(module, graph, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_GRAPH", 1000)
    with pytest.raises(ValueError, match=r"onnx-int8 takes graphs below 2 GB, not of 0\.\d: take openvino-int8"):
        module.quantise_onnx(graph, pictures, tmp_path / "quantised.onnx", tmp_path)
