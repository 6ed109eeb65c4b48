"""What users do with a model besides running it: compile, export, checkpointing, dtypes, other image sizes."""

import onnxruntime
import pytest
import torch
from reference import randomise
from rounding import assert_rounded_alike
from torch.export import Dim
from transformers import AttentionInterface, AutoModelForImageClassification, ViTForImageClassification

from fatr_hf import FATRViTConfig, FATRViTForImageClassification, FATRViTModel, restore_tokens

REDUCTIONS = [
    pytest.param({}, id="defaults"),
    pytest.param({"size_exponent": 0.5}, id="dc-size"),
    pytest.param({"selection": "high_frequency_energy", "fold": "similar", "keep_ratio": 0.8}, id="similar"),
    pytest.param({"selection": "dc_similarity"}, id="dc-similarity"),
    pytest.param({"selection": "random", "dc_windows": [4, 2]}, id="random-nested-windows"),
]


needs_avx2 = pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="PyTorch's flex attention needs AVX2 on a CPU"
)


@pytest.fixture
def other_pixel_values():
    return torch.randn(5, 3, 32, 32)


@pytest.fixture
def make_shallow(make_fatr):
    """Three layers, of which two reduce: whatever is traced is traced quickly."""
    return lambda **fields: make_fatr(**{"num_hidden_layers": 3, "reduction_layers": [0, 1], **fields})


@pytest.mark.parametrize("fields", REDUCTIONS)
def test_export_with_dynamic_batch(make_shallow, pixel_values, other_pixel_values, fields):
    model = make_shallow(**fields).double()
    program = torch.export.export(model, (pixel_values,), dynamic_shapes=({0: Dim("batch")},))
    actual = program.module()(other_pixel_values).logits
    assert_rounded_alike(actual, model(other_pixel_values).logits)


@pytest.mark.parametrize("fields", REDUCTIONS)
def test_onnx_with_dynamic_batch(make_shallow, pixel_values, other_pixel_values, tmp_path, fields):
    model = randomise(make_shallow(**fields))  # with scores too far apart for rounding to reorder them
    program = torch.onnx.export(model, (pixel_values,), dynamo=True, dynamic_shapes=({0: Dim("batch")},), verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    [logits, *_] = session.run(None, {session.get_inputs()[0].name: other_pixel_values.numpy()})
    assert_rounded_alike(torch.from_numpy(logits), model(other_pixel_values).logits)


@pytest.mark.parametrize("fields", REDUCTIONS[:3])
def test_compile_whole_and_again_after_a_change(make_shallow, pixel_values, fields):
    torch._dynamo.reset()
    model = make_shallow(**fields).double()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for keep_ratio in (0.7, 0.5, 0.6):
        model.set_reduction(keep_ratio=keep_ratio)
        assert_rounded_alike(compiled(pixel_values).logits, model(pixel_values).logits)


def test_compile_backward(make_shallow, pixel_values):
    torch._dynamo.reset()
    model = make_shallow().double()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    gradients = []
    for each in (model, compiled):
        model.zero_grad()
        each(pixel_values).logits.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert_rounded_alike(gradients[0], gradients[1])


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("fields", REDUCTIONS[:3])
def test_gradient_checkpointing_gives_the_same_gradients(make_fatr, pixel_values, reentrant, fields):
    model = make_fatr(**fields).double().train()
    labels = torch.tensor([0, 1, 2])
    model(pixel_values, labels=labels).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert all(layer.gradient_checkpointing for layer in model.vit.layers)
    model(pixel_values, labels=labels).loss.backward()
    assert_rounded_alike({name: parameter.grad for name, parameter in model.named_parameters()}, expected)


@pytest.mark.parametrize("exponent", [0.0, 0.5], ids=["plain", "dc-size"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("implementation", ["eager", "sdpa", pytest.param("flex_attention", marks=needs_avx2)])
def test_attention_implementations_agree(make_fatr, pixel_values, implementation, dtype, exponent):
    torch._dynamo.reset()
    # The same tokens are kept whatever the precision.
    model = make_fatr(size_exponent=exponent, selection="random").double()
    model.set_attn_implementation("eager")
    expected = model.vit(pixel_values).last_hidden_state
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        actual = model.to(dtype).vit(pixel_values).last_hidden_state
    assert actual.dtype == dtype
    assert_rounded_alike(actual, expected, dtype, roundings=16)


def test_any_attention_function_gets_no_mask_and_fused_shapes(make_fatr, pixel_values):
    """Flash kernels take no mask and head dimensions that are multiples of 8: nothing else is ever asked of one."""
    shapes = []

    def recorder(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        assert attention_mask is None
        assert not module.is_causal
        assert query.shape == key.shape == value.shape
        shapes.append(query.shape)
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
        return output.transpose(1, 2), None

    AttentionInterface.register("recorder", recorder)
    model = make_fatr(size_exponent=0.5).double()
    expected = model(pixel_values).logits
    model.set_attn_implementation("recorder")
    assert_rounded_alike(model(pixel_values).logits, expected)
    assert [shape[3] for shape in shapes] == [16, 16, 24, 24]
    assert FATRViTModel._supports_flash_attn
    assert FATRViTModel._supports_flex_attn


def test_hidden_states_and_attentions(make_fatr, pixel_values):
    model = make_fatr(attn_implementation="eager")
    output = model(pixel_values, output_hidden_states=True, output_attentions=True)
    schedule = model.config.plan()
    lengths = [schedule[0].tokens_in, *(tokens.tokens_out for tokens in schedule)]
    assert [state.shape[1] for state in output.hidden_states] == lengths
    assert [weights.shape[2:] for weights in output.attentions] == [(tokens.tokens_in,) * 2 for tokens in schedule]
    for weights in output.attentions:
        assert_rounded_alike(weights.sum(dim=3), torch.ones_like(weights[..., 0]))


def test_tuple_output(make_fatr, pixel_values):
    model = make_fatr()
    logits, *_ = model(pixel_values, return_dict=False)
    assert_rounded_alike(logits, model(pixel_values).logits)


@pytest.mark.parametrize("image_size", [(32, 48), (20, 64), (48, 48)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_other_image_sizes_match_the_stock_model(stock, tmp_path, image_size):
    stock.save_pretrained(tmp_path)
    model = FATRViTForImageClassification.from_pretrained(tmp_path).double()
    pixel_values = torch.randn(2, 3, *image_size)
    expected = stock.double()(pixel_values, interpolate_pos_encoding=True).logits
    with model.reduction(False):
        assert_rounded_alike(model(pixel_values, interpolate_pos_encoding=True).logits, expected)
    output = model(pixel_values, interpolate_pos_encoding=True, output_token_sources=True, output_hidden_states=True)
    rows, columns = image_size[0] // 4, image_size[1] // 4
    assert output.token_sources[0].shape == (2, rows * columns)
    assert restore_tokens(output.hidden_states[-1], output.token_sources[-1]).shape == (2, rows * columns, 32)
    lengths = [tokens.tokens_out for tokens in model.config.plan(image_size)]
    assert [state.shape[1] for state in output.hidden_states[1:]] == lengths


def test_configured_for_images_and_patches_that_are_not_square(make_fatr):
    model = make_fatr(image_size=[24, 48], patch_size=[4, 8])
    output = model(torch.randn(2, 3, 24, 48), output_token_sources=True)
    assert output.token_sources[0].shape == (2, 36)
    model(torch.randn(2, 3, 32, 48), interpolate_pos_encoding=True)
    position_embeddings = model.vit.embeddings.interpolate_pos_encoding(torch.empty(0), 24, 48)
    assert torch.equal(position_embeddings, model.vit.embeddings.position_embeddings)


def test_unfit_inputs_are_refused_in_words(make_fatr, pixel_values):
    model = make_fatr()
    with pytest.raises(ValueError, match="attention_mask is not supported"):
        model(pixel_values, attention_mask=torch.ones(3, 65))
    with pytest.raises(ValueError, match=r"image_size=\(3, 32\) holds no patch"):
        model(torch.randn(1, 3, 3, 32), interpolate_pos_encoding=True)
    with pytest.raises(ValueError, match=r"\(48\*48\) doesn't match model \(32\*32\)"):
        model(torch.randn(1, 3, 48, 48))
    with pytest.raises(ValueError, match="channel"):
        model(torch.randn(1, 1, 32, 32))
    with pytest.raises(ValueError, match=r"dc_windows=2 at layer 1 exceeds the grid of 1 x 16 patches"):
        model(torch.randn(1, 3, 4, 64), interpolate_pos_encoding=True)


def test_a_ratio_set_past_the_checks_is_refused_when_it_is_used(make_fatr, pixel_values):
    model = make_fatr()
    model.config.keep_ratio = 1.5
    with pytest.raises(ValueError, match=r"would not shorten the sequence.*Lower keep_ratio"):
        model(pixel_values)


def test_masked_patches(stock_config, pixel_values):
    model = FATRViTModel(FATRViTConfig(**stock_config.to_dict()), use_mask_token=True).eval()
    mask = torch.zeros(3, 64, dtype=torch.bool)
    mask[:, :10] = True
    assert not torch.equal(
        model(pixel_values, bool_masked_pos=mask).last_hidden_state, model(pixel_values).last_hidden_state
    )


def test_meta_device_and_device_map(make_fatr, pixel_values, tmp_path):
    model = make_fatr()
    with torch.device("meta"):
        twin = FATRViTForImageClassification(model.config)
    assert twin(pixel_values.to("meta")).logits.shape == (3, 5)
    model.save_pretrained(tmp_path)
    placed = AutoModelForImageClassification.from_pretrained(tmp_path, device_map={"": "cpu"})
    assert_rounded_alike(placed(pixel_values).logits, model(pixel_values).logits)


def test_reduction_parameters_start_at_zero_wherever_they_are_made(stock_config, stock, tmp_path):
    stock.save_pretrained(tmp_path)
    fresh = FATRViTForImageClassification(FATRViTConfig(**stock_config.to_dict()))
    loaded = FATRViTForImageClassification.from_pretrained(tmp_path)
    for model in (fresh, loaded):
        own = [
            p for name, p in model.named_parameters() if name.endswith(("omega1", "omega2", "dc_position_embeddings"))
        ]
        assert len(own) == 3 + 2 + 3
        assert all(torch.equal(parameter, torch.zeros_like(parameter)) for parameter in own)


def test_is_a_vit(make_fatr):
    assert isinstance(make_fatr(), ViTForImageClassification)


class TestSetReduction:
    def test_changes_what_parameters_allow(self, make_fatr, pixel_values):
        model = make_fatr(reduction_layers=[1, 2], dc_windows=[2, 1])
        model.set_reduction(keep_ratio=[0.4, 0.5], token_multiple=4, selection="cls_attention")
        states = model(pixel_values, output_hidden_states=True).hidden_states[1:]
        lengths = [tokens.tokens_out for tokens in model.config.plan()]
        assert [state.shape[1] for state in states] == lengths
        assert lengths[1] % 4 == lengths[2] % 4 == 0

    def test_survives_saving(self, make_fatr, pixel_values, tmp_path):
        model = make_fatr(reduction_layers=[1, 2, 3])
        model.set_reduction(keep_ratio=[1.0, 0.5, 0.5])
        model.save_pretrained(tmp_path)
        again = FATRViTForImageClassification.from_pretrained(tmp_path)
        assert_rounded_alike(again(pixel_values).logits, model(pixel_values).logits)

    def test_without_parameters_anything_goes(self, make_fatr, pixel_values):
        model = make_fatr(reweight_attention=False, dc_position_embeddings=False)
        model.set_reduction(reduction_layers=[0], keep_ratio=0.3, dc_windows=4)
        assert model(pixel_values, output_hidden_states=True).hidden_states[1].shape[1] == 1 + 19 + 16

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"reduction_layers": [0, 2, 3]}, "layer 0 of this model does not have: omega1"),
            ({"dc_windows": [4, 2, 1]}, "DC position embeddings for 4 x 4 windows"),
            ({"keep_ratio": 0}, "keep_ratio=0 must lie in"),
            ({"keep_ratio": [0.5]}, "has 1 entries, but there are 3 reduction layers"),
            ({"hidden_size": 64}, "set_reduction cannot change 'hidden_size'"),
            ({"keep_ration": 0.5}, "set_reduction cannot change 'keep_ration'"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_refuses_all_or_nothing(self, make_fatr, pixel_values, changes, words):
        model = make_fatr()
        before, logits = model.config.to_dict(), model(pixel_values).logits
        with pytest.raises(Exception, match=words):
            model.set_reduction(token_multiple=2, **changes)
        assert model.config.to_dict() == before
        assert_rounded_alike(model(pixel_values).logits, logits)

    def test_context_manager_restores_after_an_error(self, make_fatr, pixel_values):
        model = make_fatr()
        expected = model(pixel_values).logits
        with pytest.raises(RuntimeError, match="stop"), model.reduction(False):
            raise RuntimeError("stop")
        assert_rounded_alike(model(pixel_values).logits, expected)
        with model.reduction(False), model.reduction(True):
            assert_rounded_alike(model(pixel_values).logits, expected)
