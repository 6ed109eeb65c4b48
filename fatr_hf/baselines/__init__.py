"""Rivals for comparison, on every family: merging, pruning, average pooling, and truncation (``METHODS``)."""

from .evit import EViT
from .mctf import MCTF
from .methods import Method
from .pitome import PiToMe
from .pooling import Pooling
from .prune_merge import PruneMerge
from .rival import METHODS, Rival, RivalConfig
from .tome import ToMe
from .truncation import Truncation
from .zero_tprune import ZeroTPrune

__all__ = [
    "MCTF",
    "METHODS",
    "EViT",
    "Method",
    "PiToMe",
    "Pooling",
    "PruneMerge",
    "Rival",
    "RivalConfig",
    "ToMe",
    "Truncation",
    "ZeroTPrune",
]
