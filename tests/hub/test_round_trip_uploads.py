"""Uploads to a Hub on this machine: what is published, and what is refused or breaks off without a trace."""

import inspect
import socket

import pytest
from hub_server import Fault
from huggingface_hub import ModelCard, constants
from transformers import ViTImageProcessor

from fatr_hf import FATRViTForImageClassification
from fatr_hf.hub.model_card import model_card_of
from fatr_hf.hub.publish import check_access, publish_folder

# huggingface_hub uploads in a way that its HTTP client calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

NAME = "someone/vit-fatr"


@pytest.fixture
def patient(monkeypatch):
    """The client tries again at once, not after seconds."""
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.fixture
def warnings(monkeypatch):
    """What the model warns of."""
    said = []
    monkeypatch.setattr("fatr_hf.modeling.hub_repository.logger.warning", said.append)
    return said


def published_card(hub, name=NAME):
    return hub.repositories[name].main.files["README.md"].content.decode()


def test_a_push_is_one_commit_of_all_files(hub, make_fatr):
    commit = make_fatr().push_to_hub(NAME, image_processor=ViTImageProcessor(), commit_message="First")
    repository = hub.repositories[NAME]
    [start] = [each for each in repository.commits.values() if each.parent is None]
    assert (repository.main.oid, repository.main.parent, repository.main.title) == (commit.oid, start.oid, "First")
    assert len(repository.commits) == 2
    names = {"README.md", "config.json", "model.safetensors", "modeling_fatr_vit.py", "preprocessor_config.json"}
    assert names <= set(repository.main.files)
    assert [name for name, file in repository.main.files.items() if file.is_lfs] == ["model.safetensors"]


def test_what_has_not_changed_is_not_committed_again(hub, make_fatr):
    model = make_fatr()
    first, second = model.push_to_hub(NAME), model.push_to_hub(NAME)
    assert second.oid == first.oid
    model.classifier.bias.data += 1
    assert model.push_to_hub(NAME).oid != first.oid
    assert [request for request in hub.requests if request.startswith("PUT")] != []


def test_a_model_without_an_image_processor_is_published_with_a_warning(hub, make_fatr, warnings):
    model = make_fatr()
    model.push_to_hub(NAME)
    assert len(warnings) == 1
    assert "no image processor, and `pipeline` needs one: give image_processor=" in warnings[0]
    model.push_to_hub(NAME, image_processor=ViTImageProcessor())
    model.push_to_hub(NAME)
    assert len(warnings) == 1


def test_a_published_card_is_kept_unless_one_is_given(hub, make_fatr):
    model = make_fatr()
    model.push_to_hub(NAME, model_card=model_card_of(model, license="mit", repo_id=NAME))
    model.push_to_hub(NAME, tags=["new"])
    assert "license: mit" in published_card(hub)
    model.push_to_hub(NAME, model_card=model_card_of(model, license="apache-2.0"))
    assert "license: apache-2.0" in published_card(hub)


@pytest.mark.parametrize("way", ["push", "save-and-push", "publish-folder"])
def test_the_card_names_the_repository_it_is_published_in(hub, make_fatr, tmp_path, way):
    model, folder = make_fatr(), tmp_path / "vit-fatr"
    if way == "push":
        model.push_to_hub("vit-fatr")
    elif way == "save-and-push":
        model.save_pretrained(folder, push_to_hub=True)
    else:
        model.save_pretrained(folder)
        ViTImageProcessor().save_pretrained(folder)
        (folder / ".cache").mkdir()
        (folder / ".cache" / "notes").write_text("of this machine")
        publish_folder(folder, "vit-fatr")
    assert "\n# vit-fatr\n" in published_card(hub)
    assert f'from_pretrained("{NAME}", trust_remote_code=True, revision="<' in published_card(hub)
    assert not any("notes" in name for name in hub.repositories[NAME].main.files)


def test_branches_and_pull_requests_leave_main_alone(hub, make_fatr):
    model = make_fatr()
    main = model.push_to_hub(NAME).oid
    model.classifier.bias.data += 1
    model.push_to_hub(NAME, revision="drafts/one")
    request = model.push_to_hub(NAME, create_pr=True)
    model.classifier.bias.data += 1
    model.push_to_hub(NAME, revision=request.pr_revision)
    repository = hub.repositories[NAME]
    assert repository.branches["main"] == main
    assert request.pr_revision == "refs/pr/1"
    assert repository.commits[repository.branches["drafts/one"]].parent == main
    assert repository.commits[repository.pull_requests["refs/pr/1"]].parent == request.oid


def test_a_repository_is_private_if_it_was_made_so(hub, make_fatr):
    make_fatr().push_to_hub(NAME, private=True)
    make_fatr().push_to_hub("someone/open")
    assert (hub.repositories[NAME].private, hub.repositories["someone/open"].private) == (True, False)


CUT_UPLOAD, CUT_COMMIT = Fault("PUT", "/storage/"), Fault("POST", "/commit/")


@pytest.mark.parametrize("published", [False, True], ids=["new-repository", "published-before"])
@pytest.mark.parametrize(
    "faults",
    [[Fault("PUT", "/storage/", 403)], [CUT_UPLOAD] * 6, [Fault("POST", "/commit/", 500)], [CUT_COMMIT]],
    ids=["upload-refused", "upload-cut-off-every-time", "commit-fails", "commit-cut-off"],
)
def test_a_broken_upload_changes_nothing_and_can_be_repeated(hub, make_fatr, patient, faults, published):
    model = make_fatr()
    if published:
        model.push_to_hub(NAME)
        model.classifier.bias.data += 1
    before = hub.repositories[NAME].main if published else None
    hub.faults[:] = faults
    with pytest.raises(OSError, match=f"(?s)^{NAME} is not published: .*Push again"):
        model.push_to_hub(NAME)
    assert len(hub.faults) < len(faults)
    hub.faults.clear()  # old clients do not try again when they are cut off
    repository = hub.repositories[NAME]
    assert len(repository.commits) == (2 if published else 1)
    assert repository.main == before if published else list(repository.main.files) == [".gitattributes"]
    again = model.push_to_hub(NAME)
    assert (repository.main.oid, len(repository.commits)) == (again.oid, 3 if published else 2)
    assert "model.safetensors" in repository.main.files


def test_an_upload_that_fails_for_a_moment_is_tried_again(hub, make_fatr, patient):
    hub.faults[:] = [Fault("PUT", "/storage/", 503)] * 2
    make_fatr().push_to_hub(NAME)
    assert hub.faults == []
    assert "model.safetensors" in hub.repositories[NAME].main.files


@pytest.mark.parametrize(
    ("token", "name", "words"),
    [
        ("expired", NAME, "Invalid credentials"),
        (False, NAME, "Invalid username or password"),
        ("reader", NAME, "don't have the rights"),
        ("writer", "other/vit-fatr", "don't have the rights"),
    ],
    ids=["expired", "none", "read-only", "of-somebody-else"],
)
def test_a_token_that_does_not_do_is_refused_before_anything_is_made(hub, make_fatr, token, name, words):
    with pytest.raises(OSError, match=f"(?s){name} is not published: .*{words}"):
        make_fatr().push_to_hub(name, token=token)
    assert hub.repositories == {}


@pytest.mark.parametrize("name", ["someone/two words", "someone/vit/fatr", "someone/vit--fatr", "-"])
def test_a_name_that_the_hub_does_not_allow_is_refused(hub, make_fatr, name):
    with pytest.raises(ValueError, match=r"(?i)repo.id"):
        make_fatr().push_to_hub(name)
    assert hub.repositories == {}


@pytest.mark.skipif(
    "https://huggingface.co" in inspect.getsource(ModelCard.validate),
    reason="this huggingface_hub judges cards by huggingface.co alone: the commit is what is refused",
)
@pytest.mark.parametrize(
    ("field", "value"),
    [("license", "my own"), ("pipeline_tag", "seeing"), ("base_model", "../base"), ("datasets", ["my photographs"])],
)
def test_a_card_that_the_hub_does_not_take_is_refused_before_anything_is_made(hub, make_fatr, field, value):
    model = make_fatr()
    card = model_card_of(model)
    card.data[field] = value
    with pytest.raises(ValueError, match=f'"{field}"'):
        model.push_to_hub(NAME, model_card=card)
    assert hub.repositories == {}


def test_a_model_from_a_folder_that_is_gone_can_be_published(hub, fatr_folder):
    model = FATRViTForImageClassification.from_pretrained(fatr_folder)
    fatr_folder.rename(fatr_folder.with_name("elsewhere"))
    model.push_to_hub(NAME)
    assert "base_model" not in published_card(hub)


@pytest.mark.parametrize(
    ("token", "name", "error", "words"),
    [
        ("expired", NAME, PermissionError, "Invalid user token.*hf auth login"),
        ("reader", NAME, PermissionError, "may read only"),
        ("writer", "other/vit-fatr", PermissionError, "someone's, who publishes under someone"),
        ("writer", "someone/two words", ValueError, "Repo id"),
    ],
    ids=["expired-token", "read-only-token", "somebody-else's-name", "bad-name"],
)
def test_access_is_checked_before_a_training(hub, monkeypatch, token, name, error, words):
    check_access(NAME)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error, match=words):
        check_access(name)


def test_a_hub_that_cannot_be_reached_is_no_matter_of_access(hub, monkeypatch):
    with socket.socket() as silent:  # bound, but nobody listens
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ConnectionError, match="cannot be reached"):
            check_access(NAME)
