"""The table of the families' speed, of small shapes."""

import importlib
import re

import torch
from transformers import Dinov2Config, Dinov2Model, YolosConfig, YolosForObjectDetection

import fatr_hf


def test_prints_a_row_for_each_shape(monkeypatch, capsys):
    script = importlib.import_module("family_speed")
    small = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=2, image_size=32, patch_size=4
    )
    wide = YolosConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, image_size=[32, 40],
        patch_size=4, num_detection_tokens=5,
    )  # fmt: skip
    encoders = {"small": script.Shape(lambda: Dinov2Model(small), (3, 32, 32))}
    tasks = {"wide": script.Shape(lambda: YolosForObjectDetection(wide), (3, 32, 40))}
    for name, shapes in (("ENCODERS", encoders), ("TASKS", tasks), ("SHAPES", encoders | tasks)):
        monkeypatch.setattr(script, name, shapes)
    asked = ["family_speed.py", "--rounds", "2", "--keep_ratio", "0.5"]
    for more, pattern in (
        (["--dtype", "bfloat16"], r"\| small \| 65 to 10 \| 0\.\d\d \|( [\d.]+ \|){5}"),
        (["--tasks"], r"\| wide \| 86 to 17 \| 0\.\d\d \|( [\d.]+ \|){3} – \| – \|"),
    ):
        monkeypatch.setattr("sys.argv", [*asked, *more])
        script.main()
        head, _, row = capsys.readouterr().out.splitlines()
        assert head.count("|") == row.count("|")
        assert re.fullmatch(pattern, row)


def test_every_shape_says_its_model_and_its_images():
    script = importlib.import_module("family_speed")
    for name, shape in script.SHAPES.items():
        with torch.device("meta"):
            model = shape.build()
            inputs = script.inputs_of(model, torch.empty(1, *shape.sample))
        assert next(iter(inputs)) in ("pixel_values", "pixel_values_videos"), name
        assert fatr_hf.hub.convert_model.fatr_class_of(model) is not None
