"""What is timed: a forward pass, or a whole training step, as it is, compiled or as CUDA graphs."""

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from .contestants import Contestant
from .settings import Setting


class Images:
    """A batch of random images and classes, the same for every contestant of a setting.

    Args:
        setting: gives batch size, image size, number format and seed.
        device: where they lie.
    """

    def __init__(self, setting: Setting, device: torch.device):
        generator = torch.Generator().manual_seed(setting.seed)
        size = setting.size.image_size
        pixels = torch.randn(setting.batch_size, 3, size, size, generator=generator)
        classes = torch.randint(setting.size.fields["num_labels"], (setting.batch_size,), generator=generator)
        # Training holds float32 and computes under autocast.
        dtype = torch.float32 if setting.task == "training" else setting.torch_dtype
        self.pixel_values = pixels.to(device, dtype)
        """(batch, 3, height, width)."""
        self.labels = classes.to(device)
        """(batch,) int64."""


class InferenceStep:
    """A forward pass in inference mode, from pixels to logits."""

    def __init__(self, contestant: Contestant, images: Images, setting: Setting):
        self.model, self.images = contestant.model, images
        self.mark = graph_marker(setting)
        self.logits = prepared(logits_function(contestant), setting)

    @torch.inference_mode()
    def __call__(self) -> None:
        self.mark()
        self.logits(self.images.pixel_values)

    def held(self) -> Iterator[Tensor]:
        """Tensors that stay on the device from one call to the next."""
        yield from (*self.model.parameters(), *self.model.buffers(), self.images.pixel_values)


class TrainingStep:
    """Forward, cross-entropy, backward and a step of AdamW; other number formats than float32 by autocast."""

    def __init__(self, contestant: Contestant, images: Images, setting: Setting):
        self.model, self.images = contestant.model, images
        self.mark = graph_marker(setting)
        self.logits = prepared(logits_function(contestant), setting)
        self.dtype = setting.torch_dtype
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def __call__(self) -> None:
        self.mark()
        device = self.images.labels.device.type
        with torch.autocast(device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            loss = nn.functional.cross_entropy(self.logits(self.images.pixel_values), self.images.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def held(self) -> Iterator[Tensor]:
        """Tensors that stay on the device from one call to the next."""
        yield from (*self.model.parameters(), *self.model.buffers())
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))
        yield from (self.images.pixel_values, self.images.labels)


Step = InferenceStep | TrainingStep


def build_step(contestant: Contestant, images: Images, setting: Setting) -> Step:
    """The step of a setting's task."""
    return (TrainingStep if setting.task == "training" else InferenceStep)(contestant, images, setting)


def logits_function(contestant: Contestant) -> Callable[[Tensor], Tensor]:
    """A function from pixels to logits."""
    model: Any = contestant.model
    options = contestant.options

    def logits(pixel_values: Tensor) -> Tensor:
        return model(pixel_values, **options).logits

    return logits


def prepared(function: Callable[[Tensor], Tensor], setting: Setting) -> Callable[[Tensor], Tensor]:
    """A function as the setting's execution runs it; compiled, it is one graph without breaks.

    torch keeps compiled graphs by code object: a copy of it for every contestant keeps one from searching the others'
    graphs at each call, and all of them below the limit on graphs.
    """
    if setting.execution == "eager":
        return function
    assert isinstance(function, FunctionType)
    code, names = function.__code__.replace(), function.__globals__
    copy = FunctionType(code, names, function.__name__, function.__defaults__, function.__closure__)
    mode = "reduce-overhead" if setting.execution == "cudagraphs" else "default"
    return torch.compile(copy, fullgraph=True, dynamic=False, mode=mode)


def graph_marker(setting: Setting) -> Callable[[], None]:
    """What says before each call that results of the last one may be overwritten: CUDA graphs reuse their memory."""
    return torch.compiler.cudagraph_mark_step_begin if setting.execution == "cudagraphs" else lambda: None
