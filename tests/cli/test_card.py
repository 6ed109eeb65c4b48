"""`fatr-hf card`: the card it prints or writes, and what it refuses."""

import json

import pytest
from huggingface_hub import ModelCard

from fatr_hf import FATRViTConfig
from fatr_hf.hub.model_card import build_model_card


def test_prints_the_plain_card(invoke, fatr_folder):
    result = invoke("card", fatr_folder)
    assert result.exit_code == 0
    assert result.stdout == f"{build_model_card(FATRViTConfig.from_pretrained(fatr_folder))}\n"


def test_writes_the_card_and_its_metadata(invoke, fatr_folder, tmp_path):
    (tmp_path / "results.md").write_text("| one | two |")
    names = ["--repo-id", "user/vit-fatr", "--base-model", "user/vit", "--license", "mit", "--tags", "flowers, small"]
    measured = ["--dataset", "flowers", "--accuracy", 0.75, "--results", tmp_path / "results.md"]
    outputs = ["--output", tmp_path / "card.md", "--json", tmp_path / "card.json"]
    result = invoke("card", fatr_folder, *names, *measured, *outputs)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"Wrote {tmp_path / 'card.md'}.\n"
    card = ModelCard.load(tmp_path / "card.md")
    assert (card.data.license, card.data.base_model, card.data.datasets) == ("mit", "user/vit", ["flowers"])
    assert card.data.tags[-2:] == ["flowers", "small"]
    [evaluation] = card.data.eval_results
    assert evaluation.metric_value == 0.75
    assert 'model="user/vit-fatr"' in card.text
    assert "## Results\n\n| one | two |" in card.text
    assert json.loads((tmp_path / "card.json").read_text()) == card.data.to_dict()


def test_a_card_that_is_there_is_replaced_only_by_force(invoke, refused, fatr_folder):
    path = fatr_folder / "README.md"
    before = path.read_text()
    arguments = ["card", fatr_folder, "--license", "mit", "--output", path]
    assert "replace it with --force" in refused(*arguments)
    assert path.read_text() == before
    assert invoke(*arguments, "--force").exit_code == 0
    assert ModelCard.load(path).data.license == "mit"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--accuracy", 0.9], "accuracy=0.9 needs the name of the data set"),
        (["--accuracy", 97.2, "--dataset", "flowers"], "accuracy=97.2 must lie in [0, 1]"),
        (["--results", "no-such-file.md"], "No such file"),
        (["--output", "no/such/folder/README.md"], "there is no folder"),
    ],
    ids=["accuracy-of-nothing", "accuracy-in-percent", "results", "output"],
)
def test_bad_options_are_refused(refused, fatr_folder, options, words):
    assert words in refused("card", fatr_folder, *options)


def test_a_model_that_is_not_fatr_is_refused(refused, stock_folder):
    assert "of model type 'vit' and no FATR model" in refused("card", stock_folder)
