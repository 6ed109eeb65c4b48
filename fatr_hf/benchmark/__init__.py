"""Cost of models, reduced or not: multiply-accumulates, time and memory; FATR beside its rivals."""

from ..baselines.macs import count_macs
from .compare import OutOfMemory, Protocol, compare, default_protocol
from .contestants import KINDS
from .latency import fit_latency
from .machine import choose_device, describe_machine
from .plot import plot_throughput
from .report import ModelCost, comparison_table, results_table
from .results import Comparison, Measurement, Report
from .settings import SIZES, ModelSize, Setting, default_setting
from .timing import Timing, compare_throughput, time_in_turn
from .token_times import suggest_multiple

__all__ = [
    "KINDS",
    "SIZES",
    "Comparison",
    "Measurement",
    "ModelCost",
    "ModelSize",
    "OutOfMemory",
    "Protocol",
    "Report",
    "Setting",
    "Timing",
    "choose_device",
    "compare",
    "compare_throughput",
    "comparison_table",
    "count_macs",
    "default_protocol",
    "default_setting",
    "describe_machine",
    "fit_latency",
    "plot_throughput",
    "results_table",
    "suggest_multiple",
    "time_in_turn",
]
