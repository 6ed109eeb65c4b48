"""The card of a saved model follows from its configuration; the plain one that saving writes says how to load it."""

import pytest
from huggingface_hub import ModelCard

from fatr_hf import FATRViTModel
from fatr_hf.hub.model_card import budget_table, build_model_card, checkpoint_card, model_card_of
from fatr_hf.modeling import schedule_macs


@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
def test_the_task_is_the_saved_models(make_fatr, tmp_path, task):
    model = make_fatr()
    (model if task == "image-classification" else FATRViTModel(model.config)).save_pretrained(tmp_path)
    assert str(checkpoint_card(tmp_path, license="mit")) == str(
        build_model_card(model.config, task=task, license="mit")
    )


def test_a_hub_name_is_the_cards_own(make_fatr, monkeypatch):
    fields = make_fatr().config.to_dict()
    monkeypatch.setattr("fatr_hf.hub.model_card.read_config", lambda name, revision: fields)
    assert 'model="user/vit-fatr"' in checkpoint_card("user/vit-fatr").text
    assert 'model="user/other"' in checkpoint_card("user/vit-fatr", repo_id="user/other").text


def test_a_name_that_leads_nowhere_is_refused():
    with pytest.raises(FileNotFoundError, match="No checkpoint can be read from 'nobody/nothing'"):
        checkpoint_card("nobody/nothing")


def test_the_plain_card_says_what_the_model_does_and_how_it_is_loaded(make_fatr, tmp_path):
    model = make_fatr()
    model.config._name_or_path = "google/vit-base-patch16-224"
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.base_model == "google/vit-base-patch16-224"
    assert {"vision", "token-reduction", "fatr"} <= set(card.data.tags)
    assert 'AutoModelForImageClassification.from_pretrained("user/model", trust_remote_code=True, revision="<' in str(
        card
    )


def test_the_card_of_a_model_in_memory_knows_its_task_and_origin(make_fatr):
    model = make_fatr()
    model.config._name_or_path = "google/vit-base-patch16-224"
    card = model_card_of(FATRViTModel(model.config), license="mit")
    assert (card.data.pipeline_tag, card.data.base_model) == ("image-feature-extraction", "google/vit-base-patch16-224")
    assert str(model_card_of(model, base_model=None)) == str(build_model_card(model.config))


def test_budget_table_tells_cost_and_accuracy(make_fatr):
    config = make_fatr().config
    table = budget_table(config, {0.7: 0.915, 0.5: 0.9})
    rows = [line for line in table.splitlines() if line.startswith("| 0.")]
    assert rows[0].startswith("| 0.5 | ")
    assert rows[0].endswith("| 90.00% |")
    assert f"{schedule_macs(config) / 1e6:.1f} M" in rows[1]
