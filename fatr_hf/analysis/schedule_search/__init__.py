"""Reduction schedules that give the best quality for their cost, found without training."""

from .report import front_table, search_figure
from .result import SearchResult, Trial
from .rivals import check_schedule, rival_points
from .search import search_schedules
from .space import SearchSpace, Slot, default_space

__all__ = [
    "SearchResult",
    "SearchSpace",
    "Slot",
    "Trial",
    "check_schedule",
    "default_space",
    "front_table",
    "rival_points",
    "search_figure",
    "search_schedules",
]
