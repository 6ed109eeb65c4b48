"""Whether a repository's code is ours is found out without running it."""

import json

import pytest
from huggingface_hub import HfApi

from fatr_hf.hub.code import compare_code, find_code, shipped_code_hashes

# huggingface_hub uploads in a way that its HTTP client calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

UNMODIFIED = dict.fromkeys(shipped_code_hashes(), "same")


def name_in_config(folder, reference):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = reference
    # Escaped, as whoever hides something would write it.
    (folder / "config.json").write_text(json.dumps(config).replace("--", "\\u002d\\u002d"))


def append(path, text):
    path.write_text(path.read_text() + text)


CHANGES = {
    "none": (lambda folder: None, {}),
    "one-byte": (lambda folder: append(folder / "budget.py", "\n"), {"budget.py": "differs"}),
    "removed": (lambda folder: (folder / "budget.py").unlink(), {"budget.py": "missing"}),
    "added": (lambda folder: (folder / "extra.py").write_text("raise SystemExit"), {"extra.py": "not ours"}),
    "package": (lambda folder: (folder / "__init__.py").touch(), {"__init__.py": "not ours"}),
    "in-another-repository": (
        lambda folder: name_in_config(folder, "someone/else--evil.Model"),
        {"config.json: someone/else--evil.Model": "not ours"},
    ),
}


@pytest.mark.parametrize(("change", "verdicts"), CHANGES.values(), ids=CHANGES)
def test_every_change_is_named(fatr_folder, change, verdicts):
    change(fatr_folder)
    assert compare_code(fatr_folder) == UNMODIFIED | verdicts


def test_code_in_a_folder_below_is_looked_at(fatr_folder):
    (fatr_folder / "below").mkdir()
    (fatr_folder / "below" / "evil.py").write_text("raise SystemExit")
    (fatr_folder / "budget.py").rename(fatr_folder / "below" / "budget.py")
    changed = {"budget.py": "missing", "below/budget.py": "same", "below/evil.py": "not ours"}
    assert compare_code(fatr_folder) == UNMODIFIED | changed


def test_code_that_would_end_the_process_is_not_run(fatr_folder):
    (fatr_folder / "modeling_fatr_vit.py").write_text("import os\nos._exit(1)\n")
    assert compare_code(fatr_folder)["modeling_fatr_vit.py"] == "differs"


def test_a_published_repository_is_compared_revision_by_revision(hub, make_fatr, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    first = make_fatr().push_to_hub("someone/vit-fatr").oid
    HfApi().upload_file(path_or_fileobj=b"raise SystemExit", path_in_repo="budget.py", repo_id="someone/vit-fatr")
    assert compare_code("someone/vit-fatr", first) == UNMODIFIED
    assert compare_code("someone/vit-fatr") == UNMODIFIED | {"budget.py": "differs"}
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


def test_a_name_that_leads_nowhere_is_refused():
    with pytest.raises(FileNotFoundError, match="No code can be read from 'no/such'"):
        find_code("no/such")
