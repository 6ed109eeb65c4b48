"""The card of a saved model follows from its configuration."""

import pytest

from fatr_hf import FATRViTModel
from fatr_hf.hub.card import checkpoint_card
from fatr_hf.modeling import build_model_card


@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
def test_the_task_is_the_saved_models(make_fatr, tmp_path, task):
    model = make_fatr()
    (model if task == "image-classification" else FATRViTModel(model.config)).save_pretrained(tmp_path)
    assert str(checkpoint_card(tmp_path, license="mit")) == str(
        build_model_card(model.config, task=task, license="mit")
    )


def test_a_hub_name_is_the_cards_own(make_fatr, monkeypatch):
    fields = make_fatr().config.to_dict()
    monkeypatch.setattr("fatr_hf.hub.card.read_config", lambda name, revision: fields)
    assert 'model="user/vit-fatr"' in checkpoint_card("user/vit-fatr").text
    assert 'model="user/other"' in checkpoint_card("user/vit-fatr", repo_id="user/other").text


def test_a_name_that_leads_nowhere_is_refused():
    with pytest.raises(FileNotFoundError, match="No checkpoint can be read from 'nobody/nothing'"):
        checkpoint_card("nobody/nothing")
