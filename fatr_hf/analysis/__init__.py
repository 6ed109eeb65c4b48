"""What happens inside vision transformers, reduced or not: measures, comparisons, pictures, schedules."""

from .analyze import Analysis, Row, analysis_table, analyze
from .animation import save_animation, save_video
from .compare import Comparison, compare, comparison_table
from .curves import (
    analysis_figures,
    attention_figure,
    collapse_figure,
    comparison_figure,
    noise_figure,
    spectrum_figure,
    token_kinds_figure,
)
from .figure_files import save_figure
from .image_trace import trace_image, trace_rivals
from .images import Batch, NamedImage, batches, load_images, photographs, to_batch
from .model_measures import MEASURES
from .noise import noise_sensitivity
from .pictures import plot_grid, plot_kept, plot_scores
from .trace import LayerTrace, TokenState, trace
from .video_trace import trace_video

__all__ = [
    "MEASURES",
    "Analysis",
    "Batch",
    "Comparison",
    "LayerTrace",
    "NamedImage",
    "Row",
    "TokenState",
    "analysis_figures",
    "analysis_table",
    "analyze",
    "attention_figure",
    "batches",
    "collapse_figure",
    "compare",
    "comparison_figure",
    "comparison_table",
    "load_images",
    "noise_figure",
    "noise_sensitivity",
    "photographs",
    "plot_grid",
    "plot_kept",
    "plot_scores",
    "save_animation",
    "save_figure",
    "save_video",
    "spectrum_figure",
    "to_batch",
    "token_kinds_figure",
    "trace",
    "trace_image",
    "trace_rivals",
    "trace_video",
]
