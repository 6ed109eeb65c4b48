"""Patches are embedded by a matrix product that is the convolution."""

import copy

import pytest
import torch
from rounding import assert_rounded_alike
from torch import nn

from fatr_hf.modeling.patch_embedding import PatchProjection, TubeletProjection, use_products

SHAPES = {"whole": (24, 32), "with-a-rest": (27, 39)}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("patch_size", [(4, 4), (4, 8)], ids=["patch4x4", "patch4x8"])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["float64", "float32", "bfloat16"]
)
def test_the_product_is_the_convolution(patch_size, shape, bias, dtype):
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 32, patch_size, patch_size, bias=bias, dtype=dtype)
    product = PatchProjection(3, 32, patch_size, patch_size, bias=bias, dtype=dtype)
    product.load_state_dict(plain.state_dict())
    pixel_values = torch.randn(3, 3, *shape, dtype=dtype)
    expected = copy.deepcopy(plain).double()(pixel_values.double())
    errors = [(each(pixel_values).double() - expected).abs().max() for each in (product, plain)]
    assert product(pixel_values).shape == expected.shape
    assert errors[0] <= 2 * errors[1] + 1e-12


@pytest.mark.parametrize("shape", [(4, 24, 32), (5, 27, 39)], ids=["whole", "with-a-rest"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_product_is_the_convolution_of_videos(shape, dtype):
    torch.manual_seed(0)
    plain = nn.Conv3d(3, 32, (2, 4, 8), (2, 4, 8), dtype=dtype)
    embeddings = nn.ModuleDict({"plain": copy.deepcopy(plain)})
    use_products(embeddings)
    product = embeddings["plain"]
    assert type(product) is TubeletProjection
    product.load_state_dict(plain.state_dict())
    pixel_values = torch.randn(3, 3, *shape, dtype=dtype)
    expected = copy.deepcopy(plain).double()(pixel_values.double())
    errors = [(each.to(dtype)(pixel_values).double() - expected).abs().max() for each in (product, plain)]
    assert product(pixel_values).shape == expected.shape
    assert errors[0] <= 2 * errors[1] + 1e-12


def test_only_convolutions_over_separate_patches_are_replaced():
    module = nn.ModuleDict(
        {
            "patches": nn.Conv2d(3, 8, 4, 4),
            "named": nn.Conv2d(3, 8, 4, 4, padding="valid"),
            "overlapping": nn.Conv2d(3, 8, 4, 2),
            "padded": nn.Conv2d(3, 8, 4, 4, padding=2),
        }
    )
    use_products(module)
    assert {name for name, each in module.items() if type(each) is PatchProjection} == {"patches", "named"}


def test_an_adapted_projection_is_called(make_fatr, pixel_values):
    class AdaptedConvolution(nn.Conv2d):
        def forward(self, pixel_values):
            return super().forward(pixel_values) + 1

    embeddings = make_fatr().double().vit.embeddings.patch_embeddings
    plain = embeddings(pixel_values.double())
    adapted = AdaptedConvolution(3, 32, 4, 4, dtype=torch.float64)
    adapted.load_state_dict(embeddings.projection.state_dict())
    embeddings.projection = adapted
    assert_rounded_alike(embeddings(pixel_values.double()), plain + 1)
