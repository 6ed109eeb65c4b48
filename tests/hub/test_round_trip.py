"""From publishing to loading, as users do it, in processes of their own, by way of a Hub on this machine."""

import json

import pytest
from hub_server import running_hub
from rounding import FLOAT32

ONLINE = (
    "load_model",
    "load_main_branch",
    "load_two_revisions",
    "download_older_revision",
    "load_without_trust",
    "load_private_without_token",
    "load_private",
    "read_page",
    "push_a_copy",
)


@pytest.fixture(scope="module")
def hub():
    """One for all tests of this file, instead of a new one for each."""
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def published(hub, run_user, tmp_path_factory):
    """What a user with the package has published, and what the models answer there."""
    folder = tmp_path_factory.mktemp("publisher")
    run_user("publishing_user.py", folder / "home", hub, folder, HF_TOKEN="writer")
    return json.loads((folder / "published.json").read_text())


@pytest.fixture(scope="module")
def load(hub, published, run_user, tmp_path_factory):
    """Runs steps of a user without the package, whose home is empty at first and later holds what was downloaded."""
    home = tmp_path_factory.mktemp("home")
    given, found = home / "published.json", home / "found.json"
    given.write_text(json.dumps(published))

    def run(*steps, **environment):
        run_user("loading_user.py", home, hub, given, found, *steps, **environment)
        return json.loads(found.read_text())

    return run


@pytest.fixture(scope="module")
def found(load):
    """What that user has found."""
    return load(*ONLINE)


def assert_same_answers(loaded, published):
    assert loaded["logits"] == published["logits"]
    assert loaded["scores"] == pytest.approx(published["scores"], rel=FLOAT32)


@pytest.mark.parametrize(
    ("loaded", "pushed"),
    [("load_model", "push_model"), ("load_main_branch", "push_from_trainer"), ("load_private", "push_privately")],
    ids=["pushed-model", "trainer's-model", "private-model"],
)
def test_a_published_model_answers_the_same_where_the_package_is_not(found, published, loaded, pushed):
    assert_same_answers(found[loaded], published[pushed])


def test_two_revisions_keep_their_own_code_and_weights_in_one_process(found, published):
    older, newer = published["publish_two_revisions"]
    assert older["logits"] != newer["logits"]
    assert found["load_two_revisions"]["logits"] == [older["logits"], newer["logits"]]
    assert found["load_two_revisions"]["marks"] == [[1, 1], [2, 2]]


def test_a_downloaded_revision_works_offline(hub, load, found, published):
    assert {"config.json", "model.safetensors", "modeling_fatr_vit.py"} <= set(found["download_older_revision"])
    requests = len(hub.requests)
    offline = load("load_older_revision", HF_HUB_OFFLINE="1")
    assert_same_answers(offline["load_older_revision"], published["publish_two_revisions"][0])
    assert len(hub.requests) == requests


def test_code_is_not_run_without_trust(found):
    assert "someone/pushed contains custom code" in found["load_without_trust"]
    assert "trust_remote_code=True" in found["load_without_trust"]


def test_a_private_model_is_not_found_without_a_token(hub, found):
    assert hub.repositories["someone/hidden"].private
    assert (
        "someone/hidden is not a local folder and is not a valid model identifier"
        in found["load_private_without_token"]
    )
    assert "make sure to pass a token" in found["load_private_without_token"]


def test_the_page_shows_what_the_card_says(found, published):
    page, trained = found["read_page"], published["push_from_trainer"]
    assert page["sha"] == trained["revision"]
    assert (page["pipeline_tag"], page["library_name"]) == ("image-classification", "transformers")
    assert (page["license"], page["base_model"]) == ("mit", "google/vit-base-patch16-224")
    assert {"vision", "token-reduction", "fatr"} <= set(page["tags"])
    assert page["result"] == [
        "image-classification",
        "digits",
        "accuracy",
        pytest.approx(trained["accuracy"], abs=1e-6),
    ]


@pytest.mark.parametrize("name", ["pushed", "trained", "hidden", "converted"])
def test_a_published_card_says_how_to_load_this_model_and_no_other(hub, published, name):
    card = hub.repositories[f"someone/{name}"].main.files["README.md"].content.decode()
    assert f'"someone/{name}", trust_remote_code=True, revision="<commit hash>"' in card


def test_the_card_command_takes_a_name_on_the_hub(published):
    assert 'model="someone/pushed", trust_remote_code=True, revision="<commit hash>"' in published["write_card"]


def test_the_convert_command_takes_the_revision_that_it_is_given(hub, published):
    assert published["convert_and_publish"]["matches"] == [True, False]
    assert "preprocessor_config.json" in hub.repositories["someone/converted"].main.files


def test_a_model_loaded_by_its_own_code_can_be_published_with_that_code(found, published):
    assert found["push_a_copy"]["module"].startswith("transformers_modules.someone.copy.")
    assert found["push_a_copy"]["logits"] == published["push_model"]["logits"]
