"""Damaged checkpoints: whatever is wrong with a file, loading refuses it in words, or gives the saved model."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.hub.load import quiet_loading

WEIGHTS = "model.safetensors"
SHARD = "model-00001-of-00001.safetensors"
QUERY = "vit.layers.1.attention.q_proj.weight"

REFUSALS = (OSError, StrictDataclassError, ValueError)

# The same examples in every run.
fuzzed = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Saved:
    """A tiny model as it was saved: its folder, its configuration's fields and its tensors; tests change copies."""

    def __init__(self, model, folder):
        self.model, self.folder = model, folder
        self.fields = json.loads((folder / "config.json").read_text())
        self.tensors = load_file(folder / WEIGHTS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    model = FATRViTForImageClassification(FATRViTConfig(**size, image_size=16, patch_size=4, num_labels=3)).eval()
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return Saved(model, folder)


@pytest.fixture
def damaged(saved, tmp_path):
    """Makes a copy of the folder with other files: bytes, text, a configuration or weights."""

    def make(**files):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved.folder, folder)
        if "config" in files:
            (folder / "config.json").write_bytes(files["config"])
        if "fields" in files:
            (folder / "config.json").write_text(json.dumps(saved.fields | files["fields"]))
        if "weights" in files:
            (folder / WEIGHTS).write_bytes(files["weights"])
        if "tensors" in files:
            save_file(files["tensors"], folder / WEIGHTS, {"format": "pt"})
        if "index" in files:
            (folder / WEIGHTS).rename(folder / SHARD)
            (folder / f"{WEIGHTS}.index.json").write_text(files["index"])
        return folder

    return make


def load(folder):
    with quiet_loading():
        return FATRViTForImageClassification.from_pretrained(folder)


def refusal(folder):
    """The words of a refusal, which is of one of few kinds."""
    with pytest.raises(REFUSALS) as caught:
        load(folder)
    assert len(str(caught.value).split()) > 3
    return str(caught.value)


def load_or_refuse(folder, model):
    """A damaged folder is refused in words, or gives the weights that were saved in a model that runs."""
    try:
        loaded = load(folder)
    except REFUSALS:
        return
    expected = model.state_dict()
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, expected[name].to(weight.dtype)), name
    with torch.no_grad():
        assert len(loaded(torch.zeros(1, 3, 16, 16))[0]) == 1


# The file of the weights.


@fuzzed
@given(data=st.data())
def test_weights_cut_off_anywhere_are_refused(damaged, saved, data):
    content = (saved.folder / WEIGHTS).read_bytes()
    end = data.draw(st.integers(0, len(content) - 1))
    assert "cannot be loaded: SafetensorError" in refusal(damaged(weights=content[:end]))


@fuzzed
@given(data=st.data())
def test_a_damaged_header_is_refused_or_does_not_matter(damaged, saved, data):
    content = bytearray((saved.folder / WEIGHTS).read_bytes())
    length = int.from_bytes(content[:8], "little")
    for place in data.draw(st.lists(st.integers(0, 8 + length - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    load_or_refuse(damaged(weights=bytes(content)), saved.model)


NO_WEIGHTS = {
    "empty": b"",
    "text": b"<html>Not found</html>" * 9,
    "pointer-of-git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n",
    "header-of-2-to-the-63-bytes": b"\xff" * 7 + b"\x7f{}",
    "pickle": b"\x80\x04cos\nsystem\n.",
    "negative-shape": b'\x40\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}         1234',
    "huge-shape": b'\x40\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[9999999999999],"data_offsets":[0,4]}}1234',
}


@pytest.mark.parametrize("content", NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_what_is_no_safetensors_file_is_refused(damaged, content):
    assert "cannot be loaded: SafetensorError" in refusal(damaged(weights=content))


# What the weights are.

SHAPES = {
    "flat": lambda weight: weight.flatten()[None, None, None],
    "shorter": lambda weight: weight[:-1] if len(weight) > 1 else weight[0],
    "longer": lambda weight: torch.cat([weight, weight]),
    "nothing": lambda weight: weight[:0],
    "scalar": lambda weight: weight.flatten()[0],
}


@fuzzed
@given(data=st.data(), change=st.sampled_from(sorted(SHAPES)))
def test_a_weight_of_another_shape_is_refused(damaged, saved, data, change):
    name = data.draw(st.sampled_from(sorted(saved.tensors)))
    tensors = saved.tensors | {name: SHAPES[change](saved.tensors[name]).clone()}
    assert "other shapes" in refusal(damaged(tensors=tensors))


@fuzzed
@given(data=st.data(), value=st.sampled_from([math.nan, math.inf, -math.inf, 1e300]))
def test_a_weight_that_is_not_finite_is_refused_by_name(damaged, saved, data, value):
    name = data.draw(st.sampled_from(sorted(saved.tensors)))
    weight = saved.tensors[name].double()
    weight.view(-1)[data.draw(st.integers(0, weight.numel() - 1))] = value
    assert f"holds values in {name} that are not finite" in refusal(damaged(tensors=saved.tensors | {name: weight}))


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint16", "bool", "complex64", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("names", [[QUERY], None], ids=["one", "all"])
@pytest.mark.filterwarnings("ignore:Casting complex values to real:UserWarning")
def test_weights_that_are_not_of_floating_point_are_refused(damaged, saved, dtype, names):
    changed = {name: saved.tensors[name].to(getattr(torch, dtype)) for name in names or saved.tensors}
    assert "but weights must be in F64, F32, BF16, F16" in refusal(damaged(tensors=saved.tensors | changed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_weights_of_other_floating_point_are_converted(damaged, saved, dtype):
    loaded = load(damaged(tensors={name: weight.to(dtype) for name, weight in saved.tensors.items()}))
    assert torch.equal(loaded.state_dict()[QUERY], saved.tensors[QUERY].to(dtype).float())


@fuzzed
@given(data=st.data())
def test_missing_weights_are_refused_unless_they_are_a_whole_part_that_may_be_new(damaged, saved, data):
    names = set(saved.tensors)
    missing = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1))
    classifier = {name for name in names if name.startswith("classifier.")}
    reduction = {name for name in names if name.endswith(("omega1", "omega2", "dc_position_embeddings"))}
    assume(missing not in (classifier, reduction, classifier | reduction))
    assert "A model with random layers is never returned" in refusal(
        damaged(tensors={name: saved.tensors[name] for name in names - missing})
    )


@fuzzed
@given(name=st.text(min_size=1), shape=st.lists(st.integers(0, 3), max_size=3))
def test_further_tensors_change_nothing(damaged, saved, name, shape):
    assume(name not in saved.tensors and name != "__metadata__")
    load_or_refuse(damaged(tensors=saved.tensors | {name: torch.ones(shape)}), saved.model)


# Weights in several files.

INDEXES = {
    "no-json": "{",
    "null": "null",
    "list": "[]",
    "no-metadata": '{"weight_map": {}}',
    "no-files": '{"metadata": {}, "weight_map": {}}',
    "number": '{"metadata": {}, "weight_map": {"x": 3}}',
    "nested": "[" * 100_000,
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_a_damaged_index_is_refused(damaged, index):
    assert "model.safetensors.index.json" in refusal(damaged(index=index))


@pytest.mark.parametrize(
    "name", ["../saved/model.safetensors", "/etc/passwd", "..", "pytorch_model.bin", "below/x.safetensors"]
)
def test_an_index_may_name_safetensors_files_beside_it_only(damaged, saved, name):
    index = {"metadata": {}, "weight_map": {QUERY: name}}
    assert f"names {name!r}: weights are read from safetensors files beside it" in refusal(
        damaged(index=json.dumps(index))
    )


def test_an_index_outside_of_the_folder_is_refused_though_the_file_is_there(damaged, saved):
    index = {"metadata": {}, "weight_map": dict.fromkeys(saved.tensors, str(saved.folder / WEIGHTS))}
    assert "beside it only" in refusal(damaged(index=json.dumps(index)))


@fuzzed
@given(name=st.text())
def test_an_index_that_names_other_files_is_refused(damaged, saved, name):
    index = {"metadata": {}, "weight_map": dict.fromkeys(saved.tensors, SHARD) | {QUERY: name}}
    refusal(damaged(index=json.dumps(index)))


def test_pickled_weights_are_never_read(damaged, saved):
    folder = damaged(fields={"transformers_weights": "adapter_model.bin"})
    torch.save(saved.tensors, folder / "adapter_model.bin")
    assert "a configuration may not choose the file of the weights" in refusal(folder)
    folder = damaged()
    (folder / WEIGHTS).unlink()
    torch.save(saved.tensors, folder / "pytorch_model.bin")
    assert "model.safetensors" in refusal(folder)


def test_links_are_followed(damaged, saved):
    folder = damaged()
    for name in ("config.json", WEIGHTS):
        (folder / name).unlink()
        (folder / name).symlink_to(saved.folder / name)
    assert torch.equal(load(folder).state_dict()[QUERY], saved.tensors[QUERY])


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
@pytest.mark.parametrize("kind", ["absent", "folder", "link-to-itself", "link-to-nothing"])
def test_a_file_that_is_none_is_refused(damaged, name, kind):
    path = damaged() / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.symlink_to(name if kind == "link-to-itself" else "nothing")
    assert name in refusal(path.parent)


# The configuration.

CONFIGS = {
    "empty": b"",
    "null": b"null",
    "number": b"3",
    "string": b'"vit"',
    "list": b"[]",
    "no-fields": b"{}",
    "zeros": bytes(100),
    "latin-1": '{"model_type": "é"}'.encode("latin-1"),
    "deep-list": b"[" * 100_000 + b"]" * 100_000,
    "deep-object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "5000-digits": b'{"model_type": "fatr_vit", "image_size": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_what_is_no_configuration_is_refused(damaged, content):
    assert "config.json" in refusal(damaged(config=content)) or "config file" in refusal(damaged(config=content))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_configuration_in_another_encoding_is_refused(damaged, saved, encoding):
    assert "config" in refusal(damaged(config=json.dumps(saved.fields).encode(encoding)))


@fuzzed
@given(data=st.data())
def test_a_configuration_cut_off_anywhere_is_refused(damaged, saved, data):
    content = json.dumps(saved.fields).encode()
    assert "config" in refusal(damaged(config=content[: data.draw(st.integers(0, len(content) - 1))]))


def test_of_a_field_that_is_there_twice_the_last_counts(damaged, saved):
    text = json.dumps(saved.fields)
    assert "other shapes" in refusal(damaged(config=f'{text[:-1]}, "hidden_size": 32}}'.encode()))


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([10**6, 10**9, 10**18, 10**30, -(10**9)]),
    st.floats(),
    st.text(max_size=5),
    st.lists(
        st.one_of(st.integers(-1, 9), st.floats(0, 1), st.none(), st.lists(st.integers(), max_size=2)), max_size=4
    ),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2),
)

FIELDS = sorted({field.name for field in dataclasses.fields(FATRViTConfig)} | {"model_type", "num_labels"})

FOREIGN = ("auto_map", "attn_implementation", "base_model_tp_plan", "per_layer_config", "quantization_config")
FOREIGN += ("torch_dtype", "transformers_weights", "use_return_dict", "configuration_files", "distributed_config")


@settings(fuzzed, max_examples=200)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), HOSTILE, min_size=1, max_size=2))
def test_fields_with_any_values_are_refused_or_leave_the_weights_as_they_are(damaged, saved, fields):
    load_or_refuse(damaged(fields=fields), saved.model)


@fuzzed
@given(name=st.one_of(st.sampled_from(FOREIGN), st.text()), value=HOSTILE)
def test_fields_that_are_not_ours_do_no_harm(damaged, saved, name, value):
    load_or_refuse(damaged(fields={name: value}), saved.model)


ABSURD = {
    "image_size": (10**9, r"number of patches=62500000000000000 must be .* from 1 to 1048576"),
    "hidden_size": (10**9, r"hidden_size=1000000000 must be"),
    "intermediate_size": (10**12, r"intermediate_size=1000000000000 must be"),
    "num_hidden_layers": (10**6, r"num_hidden_layers=1000000 must be an integer from 1 to 1000"),
    "num_channels": (-3, r"num_channels=-3 must be"),
    "num_attention_heads": (0, r"num_attention_heads=0 must be"),
    "num_labels": (10**9, r"num_labels=1000000000 must be"),
    "keep_ratio": (math.nan, r"keep_ratio=nan must lie in \(0, 1\]"),
    "dc_windows": ([2, 3, 1], r"dc_windows=3 at layer 2 does not divide"),
    "layer_norm_eps": (math.inf, r"layer_norm_eps=inf must be a finite number"),
    "hidden_dropout_prob": (2.0, r"hidden_dropout_prob=2.0 must lie in"),
    "hidden_act": ("none", r"hidden_act='none' must be one of"),
    "id2label": (3, r"id2label(=3 must map|' with value 3 doesn't match)"),
    "label2id": ([], r"label2id(=\[\] must map|' with value \[\] doesn't match)"),
    "dtype": ("int8", r"dtype='int8' must be one of"),
    "attn_implementation": ("someone/kernels", r"'someone/kernels': a configuration may not choose code"),
    "model_type": ("bert", r"model type 'bert' cannot be loaded"),
}


@pytest.mark.parametrize("field", ABSURD)
def test_an_absurd_field_is_refused_by_name_before_anything_is_built(damaged, field, monkeypatch):
    value, words = ABSURD[field]
    monkeypatch.setattr(FATRViTForImageClassification, "__init__", None)
    with pytest.raises(REFUSALS, match=words):
        load(damaged(fields={field: value}))
