"""Rivals for comparison: EViT, ToMe, average pooling, and truncation, the upper bound of speed, on every family."""

from .evit import EViT
from .methods import Method
from .pooling import Pooling
from .rival import METHODS, Rival, RivalConfig
from .tome import ToMe
from .truncation import Truncation

__all__ = ["METHODS", "EViT", "Method", "Pooling", "Rival", "RivalConfig", "ToMe", "Truncation"]
