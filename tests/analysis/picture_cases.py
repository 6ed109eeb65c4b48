"""Pictures of noise, and the image processor of the tiny models."""

import PIL.Image
import torch
from transformers import ViTImageProcessor

from fatr_hf.analysis.images import NamedImage

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})


def noise(height, width):
    """A picture in RGB whose pixels are random."""
    return PIL.Image.frombytes("RGB", (width, height), bytes(torch.randint(0, 256, (3 * height * width,)).tolist()))


def noise_image(name="noise", height=32, width=32):
    return NamedImage(name, noise(height, width))
