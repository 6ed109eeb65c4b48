"""The custom operators: as one step in a compiled graph, registered twice, and the model running on fused kernels."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference import randomise
from rounding import assert_rounded_alike
from torch.utils.flop_counter import FlopCounterMode

import fatr_hf.modeling
from fatr_hf.modeling import operators
from fatr_hf.modeling.frequency_attention import attend
from fatr_hf.modeling.kernels_common import HAS_TRITON
from fatr_hf.modeling.token_reduction import dense_layout, reduce_tokens

MODELING = Path(fatr_hf.modeling.__file__).parent
KERNELS = {"score_implementation": "triton", "reduction_implementation": "triton"}

FIELDS = {
    "default": {},
    "sized": {"size_exponent": 0.5, "dc_windows": [4, 2, 1]},
    "energy-and-windows": {"selection": "high_frequency_energy"},
    "energy-and-similar": {"selection": "high_frequency_energy", "fold": "similar"},
}

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")


def reduction_inputs(dtype=torch.float32, windows=0):
    hidden_states = torch.randn(2, 17 + windows**2, 24, dtype=dtype, requires_grad=True)
    layout = dense_layout(2, (4, 4), 1, hidden_states.device)
    layout = layout._replace(windows=(windows,) * 2 if windows else (), dc_counts=torch.randint(0, 4, (2, windows**2)))
    embeddings = torch.randn(4, 24, dtype=dtype, requires_grad=True)
    return hidden_states, torch.rand(2, 16), layout, embeddings


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_triton)], ids=["blocked", "triton"])
def test_the_scores_operator_is_well_formed(fused):
    query, key = torch.randn(2, 2, 3, 17, 16).unbind()
    torch.library.opcheck(operators.OPERATORS.column_means.default, (query, key, 0.25, None, None, fused))
    weights = torch.rand(2, 3, 17)
    torch.library.opcheck(operators.OPERATORS.column_means.default, (query, key, 0.25, None, weights, fused))


@needs_triton
# opcheck itself reads the gradient of a tensor that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("windows", [0, 2], ids="old-windows{}".format)
def test_the_reduction_operator_is_well_formed(windows):
    hidden_states, scores, layout, embeddings = reduction_inputs(windows=windows)
    arguments = (
        hidden_states,
        scores,
        layout.positions.contiguous(),
        layout.dc_counts,
        (4, 4),
        1,
        layout.windows,
        9,
        (2, 2),
    )
    torch.library.opcheck(operators.OPERATORS.reduce_tokens.default, (*arguments, embeddings))


@needs_triton
def test_the_comparison_operators_are_well_formed():
    keys, energies = torch.randn(2, 16, 8), torch.rand(2, 16)
    torch.library.opcheck(operators.OPERATORS.feature_directions.default, (keys,))
    torch.library.opcheck(operators.OPERATORS.distinctness.default, (keys, energies))


@needs_triton
# opcheck itself reads the gradient of a tensor that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("joined_before", [False, True], ids=["dense", "joined-before"])
def test_the_fold_operator_is_well_formed(joined_before):
    hidden_states, scores, layout, _ = reduction_inputs()
    sizes, sources = (torch.randint(1, 4, (2, 16)), torch.randint(1, 17, (2, 40))) if joined_before else (None, None)
    arguments = (hidden_states, scores, torch.randn(2, 16, 8), layout.positions.contiguous(), sizes, sources, 1, 9)
    torch.library.opcheck(operators.OPERATORS.fold_similar.default, arguments)


@needs_triton
def test_the_fused_fold_and_its_gradients():
    hidden_states, scores, layout, _ = reduction_inputs()
    upstream, keys = torch.randn(2, 1 + 5, 24), torch.randn(2, 16, 8)
    results = []
    for implementation in ("triton", "plain"):
        states, present = hidden_states, layout
        for keep in (9, 5):
            likeness = operators.compare_features(implementation, states, keys[:, : present.num_patches])
            kept_scores = scores[:, : present.num_patches] * likeness.distinctness(scores[:, : present.num_patches])
            states, present = likeness.fold(states, kept_scores, present, keep)
        results.append((states, present, torch.autograd.grad(states, hidden_states, upstream)))
    assert_rounded_alike(results[0][0], results[1][0])
    for field in ("positions", "sizes", "sources"):
        assert torch.equal(getattr(results[0][1], field), getattr(results[1][1], field))
    assert_rounded_alike(results[0][2], results[1][2])


@needs_triton
def test_the_reweighting_operators_are_well_formed():
    residual, update = torch.randn(2, 3, 17, 24).unbind()
    torch.library.opcheck(operators.OPERATORS.token_means.default, (residual,))
    torch.library.opcheck(operators.OPERATORS.add_residual.default, (residual, update, update[:, 0]))


@needs_triton
def test_large_tensors_on_a_gpu_take_the_reweighting_kernels(make_fatr, pixel_values, monkeypatch):
    fused = make_fatr(selection="random").fuse()  # keeps the same tokens however they are rounded
    with torch.inference_mode():
        expected = fused(pixel_values).logits
        called = []
        monkeypatch.setattr(operators, "LARGE_TENSOR", 0)
        monkeypatch.setattr(operators, "kernels_serve", lambda *tensors: called.append(len(tensors)) or True)
        assert_rounded_alike(fused(pixel_values).logits, expected)
    # A mean and a sum of three in each of the layers that re-weight; scores and reductions ask with two tensors.
    assert (called.count(1), called.count(3)) == (3, 3)


@needs_triton
@pytest.mark.parametrize("windows", [0, 2], ids="old-windows{}".format)
def test_the_fused_reduction_and_its_gradients(windows):
    hidden_states, scores, layout, embeddings = reduction_inputs(windows=windows)
    inputs = (hidden_states, embeddings)
    upstream = torch.randn(2, 1 + 9 + 4, 24)
    results = [
        function(hidden_states, scores, layout, 9, 2, embeddings)
        for function in (operators.fused_reduce_tokens, reduce_tokens)
    ]
    assert_rounded_alike(results[0][0], results[1][0])
    assert torch.equal(results[0][1].positions, results[1][1].positions)
    assert torch.equal(results[0][1].dc_counts, results[1][1].dc_counts)
    assert results[0][1][:3] == results[1][1][:3]
    gradients = [torch.autograd.grad(reduced, inputs, upstream) for reduced, _ in results]
    assert_rounded_alike(*gradients)


def test_multiply_accumulates_of_the_scores_are_counted():
    query, key = torch.randn(2, 2, 3, 17, 16).unbind()
    with FlopCounterMode(display=False) as counter:
        operators.column_means(query, key, 0.25, fused=False)
    assert counter.get_total_flops() == 2 * 2 * 3 * 17 * 17 * 16


@needs_triton
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_the_model_on_fused_kernels(make_fatr, pixel_values, fields):
    model = randomise(make_fatr(**fields))  # with scores too far apart for rounding to reorder them
    labels = torch.tensor([0, 2, 4])
    runs = []
    for kernels in ({}, KERNELS):
        model.zero_grad()
        output = model(pixel_values, labels=labels, output_token_sources=True, **kernels)
        output.loss.backward()
        runs.append((output.logits, output.token_sources, [parameter.grad for parameter in model.parameters()]))
    assert_rounded_alike(runs[1][0], runs[0][0])
    assert all(map(torch.equal, runs[0][1], runs[1][1]))
    assert_rounded_alike(runs[1][2], runs[0][2])


@needs_triton
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("default", ["column_means", "reduce_tokens"]),
        ("energy-and-windows", ["column_means", "feature_directions", "distinctness", "reduce_tokens"]),
        ("energy-and-similar", ["column_means", "feature_directions", "distinctness", "fold_similar"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_compiled_graphs_hold_the_kernels_whole(make_fatr, pixel_values, fields, expected):
    model = randomise(make_fatr(**FIELDS[fields]))
    graphs = []

    def record(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    compiled = torch.compile(lambda pixels: model(pixels, **KERNELS).logits, backend=record, fullgraph=True)
    assert_rounded_alike(compiled(pixel_values), model(pixel_values).logits)
    [targets] = graphs
    ours = [target.split(".")[1] for target in targets if target.startswith(operators.NAMESPACE)]
    assert ours == expected * 3


@needs_triton
def test_a_compiled_model_trains_through_the_kernels(make_fatr, pixel_values):
    model = randomise(make_fatr())
    expected = torch.autograd.grad(model(pixel_values).logits.sum(), model.classifier.weight)
    compiled = torch.compile(lambda pixels: model(pixels, **KERNELS).logits, backend="aot_eager", fullgraph=True)
    assert_rounded_alike(torch.autograd.grad(compiled(pixel_values).sum(), model.classifier.weight), expected)


def test_unknown_implementations_are_refused(make_fatr, pixel_values):
    with pytest.raises(ValueError, match="reduction_implementation='fast' must be one of plain, triton"):
        make_fatr()(pixel_values, reduction_implementation="fast")
    with pytest.raises(ValueError, match="reduction_implementation='fast' must be one of plain, triton"):
        make_fatr(fold="similar")(pixel_values, reduction_implementation="fast")
    with pytest.raises(ValueError, match="score_implementation='fast' must be one of"):
        make_fatr()(pixel_values, score_implementation="fast")


@needs_triton
def test_kernels_asked_for_where_they_cannot_run(make_fatr, pixel_values, monkeypatch):
    with pytest.raises(ValueError, match=r"score_implementation='triton' cannot serve here: torch.float64 is none of"):
        make_fatr().double()(pixel_values.double(), score_implementation="triton")
    with pytest.raises(ValueError, match=r"reduction_implementation='triton' cannot serve here: torch.float64"):
        make_fatr().double()(pixel_values.double(), reduction_implementation="triton")
    with pytest.raises(ValueError, match=r"reduction_implementation='triton' cannot serve here: torch.float64"):
        make_fatr(fold="similar").double()(pixel_values.double(), reduction_implementation="triton")
    with pytest.raises(ValueError, match="head dimension 4 is no multiple of 8"):
        make_fatr(num_attention_heads=8)(pixel_values, score_implementation="triton")
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="on cpu, not on a GPU"):
        make_fatr()(pixel_values, reduction_implementation="triton")
    monkeypatch.setattr(operators, "HAS_TRITON", False)
    with pytest.raises(ValueError, match="triton is not installed"):
        make_fatr()(pixel_values, score_implementation="triton")


def copy_of_the_code(tmp_path, monkeypatch, name, changed):
    """The modeling files as a package of another name, as a repository's code is."""
    shutil.copytree(MODELING, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    if changed:
        path = tmp_path / name / "operators.py"
        path.write_text(path.read_text() + "\n# another version\n")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(f"{name}.operators")


@pytest.mark.parametrize("changed", [False, True], ids=["same-code", "other-version"])
def test_the_code_can_be_loaded_again(tmp_path, monkeypatch, changed):
    again = copy_of_the_code(tmp_path, monkeypatch, f"code_{changed}", changed)
    assert (again.NAMESPACE != operators.NAMESPACE) == changed
    query, key = torch.randn(2, 1, 2, 9, 8).unbind()
    expected = operators.column_means(query, key, 0.5, fused=False)
    assert torch.equal(again.column_means(query, key, 0.5, fused=False), expected)
    namesake = importlib.reload(again)
    assert torch.equal(namesake.column_means(query, key, 0.5, fused=False), expected)


WITHOUT_TRITON = """
import sys

sys.modules["triton"] = None  # any import of it fails
import torch
from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.modeling.kernels_common import HAS_TRITON

assert not HAS_TRITON
config = FATRViTConfig(
    hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=4
)
logits = FATRViTForImageClassification(config).eval()(torch.randn(2, 3, 32, 32)).logits
assert logits.isfinite().all()
"""


def test_absent_triton_is_no_error():
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, cwd=MODELING.parents[1]
    )
    assert process.returncode == 0, process.stderr


def test_keys_are_compared_by_the_kernels_only_on_a_gpu_and_never_in_an_export(monkeypatch):
    hidden_states, keys = torch.randn(1, 6, 8), torch.randn(1, 5, 8)
    chosen = []
    monkeypatch.setattr(operators.OPERATORS, "feature_directions", lambda keys: keys)
    for serves, exporting in ((False, False), (True, False), (True, True)):
        monkeypatch.setattr(operators, "kernels_serve", lambda *_, serves=serves: serves)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda exporting=exporting: exporting)
        likeness = operators.compare_features(None, hidden_states, keys)
        chosen.append((likeness.fused, likeness.compared.shape))
    assert chosen == [(False, (1, 5, 5)), (True, (1, 5, 8)), (False, (1, 5, 5))]


def test_attend_takes_the_kernel_by_itself_only_on_a_gpu(monkeypatch):
    called = []
    real = operators.column_means
    monkeypatch.setattr(
        "fatr_hf.modeling.frequency_attention.column_means",
        lambda *inputs, fused, **weights: called.append(fused) or real(*inputs, fused=False, **weights),
    )
    query, key, value = torch.randn(3, 1, 2, 9, 8).unbind()

    def without_map(module, query, key, value, mask, dropout, scaling):
        return (query @ key.transpose(2, 3)).softmax(dim=3) @ value, None

    for serves in (False, True):
        monkeypatch.setattr(
            "fatr_hf.modeling.frequency_attention.column_kernel_serves", lambda *_, serves=serves: serves
        )
        attend(without_map, None, query, key, value, 1.0, selection="high_frequency")
    assert called == [False, True]
