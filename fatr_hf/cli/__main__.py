"""``python -m fatr_hf.cli``, the same as ``fatr-hf``."""

from . import app

app(prog_name="fatr-hf")
