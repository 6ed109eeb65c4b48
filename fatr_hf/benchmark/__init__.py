"""Cost of models, reduced or not: multiply-accumulates and throughput."""

from .macs import count_macs
from .report import ModelCost, results_table
from .throughput import compare_throughput

__all__ = ["ModelCost", "compare_throughput", "count_macs", "results_table"]
