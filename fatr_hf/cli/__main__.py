"""``python -m fatr_hf.cli``, the same as ``fatr-hf``."""

from fatr_hf_cli import app

app(prog_name="fatr-hf")
