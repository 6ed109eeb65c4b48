"""The commands of `fatr-hf`, one to a file: it reads options, calls the package and prints (see `fatr_hf_cli.py`)."""
