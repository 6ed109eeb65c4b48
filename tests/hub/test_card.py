"""The card of a saved model follows from its configuration and code, and the hashes in it are those of the code."""

import hashlib
import re
import subprocess

import pytest
from huggingface_hub import HfApi

from fatr_hf import FATRViTForImageClassification, FATRViTModel
from fatr_hf.hub.card import checkpoint_card
from fatr_hf.modeling import build_model_card

# huggingface_hub uploads in a way that its HTTP client calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


def listed_hashes(card):
    return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (.+)$", str(card), re.MULTILINE)}


def hashes_of(files):
    return {name: hashlib.sha256(code).hexdigest() for name, code in files.items() if name.endswith(".py")}


def hashes_in(folder):
    return hashes_of({path.name: path.read_bytes() for path in folder.iterdir()})


def make_stale(card):
    return re.sub(r"^[0-9a-f]{64}  budget.py$", f"{'0' * 64}  removed.py", str(card), flags=re.MULTILINE)


@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
def test_the_task_is_the_saved_models(make_fatr, tmp_path, task):
    model = make_fatr()
    (model if task == "image-classification" else FATRViTModel(model.config)).save_pretrained(tmp_path)
    assert str(checkpoint_card(tmp_path, license="mit")) == str(
        build_model_card(model.config, task=task, license="mit")
    )


def test_a_hub_name_is_the_cards_own(make_fatr, monkeypatch, tmp_path):
    fields = make_fatr().config.to_dict()
    monkeypatch.setattr("fatr_hf.hub.card.read_config", lambda name, revision: fields)
    monkeypatch.setattr("fatr_hf.hub.card.find_code", lambda name, revision: tmp_path)
    assert 'model="user/vit-fatr"' in checkpoint_card("user/vit-fatr").text
    assert 'model="user/other"' in checkpoint_card("user/vit-fatr", repo_id="user/other").text


def test_a_name_that_leads_nowhere_is_refused():
    with pytest.raises(FileNotFoundError, match="No checkpoint can be read from 'nobody/nothing'"):
        checkpoint_card("nobody/nothing")


def test_a_saved_card_lists_the_hashes_of_the_saved_code(fatr_folder):
    card = (fatr_folder / "README.md").read_text()
    assert len(listed_hashes(card)) > 10
    assert listed_hashes(card) == hashes_in(fatr_folder)


def test_the_command_in_the_card_finds_a_changed_file(fatr_folder):
    [command] = re.findall(r"`(grep [^`]+)`", (fatr_folder / "README.md").read_text())
    assert subprocess.run(command, shell=True, cwd=fatr_folder, capture_output=True).returncode == 0
    (fatr_folder / "budget.py").write_text("raise SystemExit")
    checked = subprocess.run(command, shell=True, cwd=fatr_folder, capture_output=True, text=True)
    assert checked.returncode == 1
    assert "budget.py: FAILED" in checked.stdout


@pytest.mark.parametrize("given", [False, True], ids=["kept-card", "given-card"])
def test_saving_brings_a_stale_list_up_to_date_and_nothing_else(make_fatr, fatr_folder, given):
    model, path = make_fatr(), fatr_folder / "README.md"
    before = path.read_text().replace("# fatr", "# Written by hand")
    card = type(model.build_card())(make_stale(before))
    path.write_text(str(card))
    assert listed_hashes(path.read_text()) != hashes_in(fatr_folder)
    model.save_pretrained(fatr_folder, model_card=card if given else None)
    assert path.read_text() == before


def test_code_beside_the_models_is_listed_too(make_fatr, tmp_path):
    (tmp_path / "train.py").write_text("print('not of the package')")
    make_fatr().save_pretrained(tmp_path)
    assert "train.py" in listed_hashes((tmp_path / "README.md").read_text())


def test_the_card_of_a_repository_lists_its_own_code_not_the_installed(fatr_folder):
    (fatr_folder / "budget.py").write_text("# Of another release.")
    assert listed_hashes(checkpoint_card(fatr_folder)) == hashes_in(fatr_folder)
    for path in fatr_folder.glob("*.py"):
        path.unlink()
    assert "## Code" not in str(checkpoint_card(fatr_folder))


@pytest.mark.parametrize("way", ["push", "save-and-push"])
def test_a_published_card_that_is_kept_lists_the_published_code(hub, make_fatr, tmp_path, way):
    model = make_fatr()
    stale = type(model.build_card())(make_stale(model.build_card(license="mit")))

    def publish(name):
        if way == "push":
            model.push_to_hub(name)
        else:
            model.save_pretrained(tmp_path / "vit-fatr", push_to_hub=True, repo_id=name)

    publish("someone/vit-fatr")
    HfApi().upload_file(path_or_fileobj=str(stale).encode(), path_in_repo="README.md", repo_id="someone/vit-fatr")
    publish("someone/vit-fatr")
    files = {name: file.content for name, file in hub.repositories["someone/vit-fatr"].main.files.items()}
    assert b"license: mit" in files["README.md"]
    assert listed_hashes(files["README.md"].decode()) == hashes_of(files)


def test_code_that_is_loaded_and_saved_again_is_listed(fatr_folder, tmp_path):
    FATRViTForImageClassification.from_pretrained(fatr_folder).save_pretrained(tmp_path / "again")
    assert listed_hashes((tmp_path / "again" / "README.md").read_text()) == hashes_in(tmp_path / "again")
