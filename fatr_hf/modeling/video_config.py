# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""The reduction's fields of the families that take videos: their grid has three axes, frames before rows and columns.

A patch of a video is a tubelet: the same place in a few frames that follow each other.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .reduction_config import ReductionConfig, as_pair, is_integer


@strict
class VideoReductionConfig(ReductionConfig):
    r"""`ReductionConfig` on a grid of tubelets, rows and columns.

    Args:
        dc_windows (int or list, optional):
            Windows along each axis of the grid: one number for all three axes, or a list with one for each reduction
            layer, whose entries are a number or a triple, such as `[[4, 7, 7], 1, 1]`. Defaults to 2 in the first
            reduction layer, then 1.
    """

    input_axes: ClassVar[tuple[str, ...]] = ("frames", "channels", "height", "width")
    has_cls: ClassVar[bool] = False
    takes_any_length: ClassVar[bool] = False
    """Whether the stock model takes any number of frames."""

    dc_windows: int | list[int | list[int] | tuple[int, ...]] | tuple[Any, ...] | None = None  # type: ignore[assignment]

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.dc_windows, (list, tuple)):
            self.dc_windows = [list(each) if isinstance(each, tuple) else each for each in self.dc_windows]
        super().__post_init__(**kwargs)

    @property
    def patch_sides(self) -> tuple[int, ...]:
        """Frames, height and width of a tubelet."""
        return (self.tubelet_size, *as_pair("patch_size", self.patch_size))

    def input_sides(self, image_size: int | Iterable[int] | None = None) -> tuple[int, ...]:
        """Frames, height and width of a video.

        Args:
            image_size: all three; or height and width, one number for both, of a video of as many frames as the
                configuration says. By default the configuration's.

        Raises:
            ValueError: a video that the model cannot take.
        """
        own = (self.num_frames, *as_pair("image_size", self.image_size))
        given: list[Any] = list(image_size) if isinstance(image_size, Iterable) else [image_size, image_size]
        if image_size is None:
            return own
        if len(given) == 2:
            given = [self.num_frames, *given]
        if len(given) != 3 or not all(is_integer(side) and side >= 1 for side in given):
            raise ValueError(
                f"image_size={image_size!r} must be one number, height and width, or frames, height and width of a "
                "video, each at least 1."
            )
        frames, height, width = given
        if (height, width) != own[1:] or not (frames == own[0] or self.takes_any_length):
            length = "any number of" if self.takes_any_length else own[0]
            raise ValueError(
                f"A video of {frames} frames of {height} x {width} pixels does not fit: this model takes {length} "
                f"frames of {own[1]} x {own[2]} pixels. Sample, scale and crop videos accordingly, as the model's "
                "video processor does."
            )
        return frames, height, width

    def patch_grid(self, image_size: int | Iterable[int] | None = None) -> tuple[int, ...]:
        """Tubelets, rows and columns of patches of a video.

        Args:
            image_size: as for `input_sides`.

        Raises:
            ValueError: a video that the model cannot take, or one whose sides are no multiples of a patch's.
        """
        sides, patch = self.input_sides(image_size), self.patch_sides
        for name, side, length in zip(("frames", "height", "width"), sides, patch, strict=True):
            if length < 1 or side < 1 or side % length:
                raise ValueError(
                    f"{name}={side} of a video must be a positive multiple of {length}, as patches are {patch[0]} "
                    f"frames of {patch[1]} x {patch[2]} pixels."
                )
        return tuple(side // length for side, length in zip(sides, patch, strict=True))

    def check_dc_windows(self, windows: Any) -> None:
        """Raises a ValueError unless a reduction layer's windows are an integer, or one for each axis."""
        counts = windows if isinstance(windows, list) else [windows]
        least = 1 if isinstance(windows, list) else 0
        if len(counts) not in (1, 3) or not all(is_integer(count) and count >= least for count in counts):
            raise ValueError(
                f"dc_windows={self.dc_windows} must hold integers of at least 0, or triples of at least 1 for frames, "
                f"rows and columns; {windows!r} is neither."
            )
