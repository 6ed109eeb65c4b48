"""Whether a reduction suits a model: measured, concluded and written on one page."""

from .diagnose import diagnose
from .findings import Finding, find
from .page import html_page, text_page
from .result import Diagnosis

__all__ = ["Diagnosis", "Finding", "diagnose", "find", "html_page", "text_page"]
