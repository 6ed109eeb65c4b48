"""`fatr-hf verify`: what it prints, and its exit code."""

import json

from fatr_hf import __version__
from fatr_hf.hub.code import shipped_code_hashes


def test_unmodified_code(invoke, fatr_folder, tmp_path):
    result = invoke("verify", fatr_folder, "--json", tmp_path / "verdicts.json")
    assert result.exit_code == 0
    assert result.stdout.endswith(f"The unmodified code of fatr-hf {__version__}.\n")
    assert json.loads((tmp_path / "verdicts.json").read_text()) == dict.fromkeys(shipped_code_hashes(), "same")


def test_a_changed_file_is_named_and_ends_the_command_with_an_error(invoke, fatr_folder):
    (fatr_folder / "budget.py").write_text("raise SystemExit")
    result = invoke("verify", fatr_folder)
    assert result.exit_code == 1
    assert "budget.py                  differs\n" in result.stdout
    assert f"not the unmodified code of fatr-hf {__version__}" in result.stderr


def test_a_name_that_leads_nowhere_is_refused(refused):
    assert "No code can be read from 'no/such'" in refused("verify", "no/such")
