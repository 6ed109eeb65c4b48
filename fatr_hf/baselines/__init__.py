"""Rivals for comparison, on every family: EViT, ToMe, PiToMe, prune then merge, average pooling, and truncation."""

from .evit import EViT
from .methods import Method
from .pitome import PiToMe
from .pooling import Pooling
from .prune_merge import PruneMerge
from .rival import METHODS, Rival, RivalConfig
from .tome import ToMe
from .truncation import Truncation

__all__ = ["METHODS", "EViT", "Method", "PiToMe", "Pooling", "PruneMerge", "Rival", "RivalConfig", "ToMe", "Truncation"]
