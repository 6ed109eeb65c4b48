"""The Hub of these tests answers huggingface_hub as the real one does."""

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_session

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

NAME = "someone/files"
CARD = "---\nlicense: mit\nlibrary_name: transformers\ntags: [vision]\n---\n# Files\n"


def commit(api, files, **options):
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(NAME, operations, commit_message="Files", **options)


@pytest.fixture
def api(hub):
    api = HfApi()
    api.create_repo(NAME)
    commit(api, {"README.md": CARD.encode(), "weights.safetensors": bytes(range(100))})
    return api


def test_a_listing_of_several_pages_is_whole(api):
    commit(api, {f"notes/{number}.txt": b"note" for number in range(12)})
    names = {".gitattributes", "README.md", "weights.safetensors", *(f"notes/{number}.txt" for number in range(12))}
    assert set(api.list_repo_files(NAME)) == names
    [weights] = api.get_paths_info(NAME, ["weights.safetensors", "none"])
    assert (weights.size, weights.lfs.size) == (100, 100)


def test_names_point_at_commits_that_do_not_change(api):
    first = api.model_info(NAME).sha
    api.create_branch(NAME, branch="drafts/one")
    api.create_tag(NAME, tag="v1")
    second = commit(api, {"more.txt": b"more"}).oid
    request = commit(api, {"more.txt": b"other"}, create_pr=True)
    references = api.list_repo_refs(NAME, include_pull_requests=True)
    targets = {each.ref: each.target_commit for each in (*references.branches, *references.tags)}
    assert targets == {"refs/heads/main": second, "refs/heads/drafts/one": first, "refs/tags/v1": first}
    assert [each.target_commit for each in references.pull_requests] == [request.oid]
    assert {sibling.rfilename for sibling in api.model_info(NAME, revision="v1").siblings} == {
        ".gitattributes",
        "README.md",
        "weights.safetensors",
    }
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        commit(api, {"more.txt": b"late"}, parent_commit=first)


def test_large_files_are_elsewhere_and_come_in_parts(hub, api):
    url = hf_hub_url(NAME, "weights.safetensors")
    metadata = get_hf_file_metadata(url)
    assert metadata.location.startswith(f"{hub.storage}/storage/")
    assert (metadata.size, metadata.commit_hash) == (100, api.model_info(NAME).sha)
    [weights] = api.get_paths_info(NAME, ["weights.safetensors"])
    assert metadata.etag == weights.lfs.sha256
    part = get_session().get(metadata.location, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    with_token = get_session().get(metadata.location, headers={"Authorization": "Bearer writer"})
    assert with_token.status_code == 400


def test_what_is_not_there_is_told_apart(hub, api):
    with pytest.raises(RevisionNotFoundError):
        api.model_info(NAME, revision="none")
    with pytest.raises(EntryNotFoundError):
        get_hf_file_metadata(hf_hub_url(NAME, "none.txt"))
    hub.repositories[NAME].private = True
    for name, token, status in ((NAME, False, 401), ("someone/none", False, 401), ("someone/none", None, 404)):
        with pytest.raises(RepositoryNotFoundError) as refused:
            api.model_info(name, token=token)
        assert refused.value.response.status_code == status


def test_cards_are_read_and_judged(api):
    info = api.model_info(NAME)
    assert (info.library_name, info.card_data.license) == ("transformers", "mit")
    assert info.tags == ["transformers", "vision", "license:mit"]
    with pytest.raises(ValueError, match='"license" must be one of'):
        commit(api, {"README.md": CARD.replace("mit", "mine").encode()})
    with pytest.raises(ValueError, match="Invalid `model_index`"):
        commit(api, {"README.md": CARD.replace("license: mit", "model-index: [{}]").encode()})
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        commit(api, {"README.md": b"# Files\n"})
