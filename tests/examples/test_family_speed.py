"""The table of the families' speed, of small shapes."""

import importlib
import re

from transformers import Dinov2Config, Dinov2Model


def test_prints_a_row_for_each_shape(monkeypatch, capsys):
    script = importlib.import_module("family_speed")
    small = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=2, image_size=32, patch_size=4
    )
    monkeypatch.setattr(script, "SHAPES", {"small": lambda: Dinov2Model(small)})
    monkeypatch.setattr("sys.argv", ["family_speed.py", "--rounds", "2", "--keep_ratio", "0.5", "--dtype", "bfloat16"])
    script.main()
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.count("|") == row.count("|")
    assert re.fullmatch(r"\| small \| 65 to 10 \| 0\.\d\d \|( [\d.]+ \|){5}", row)
