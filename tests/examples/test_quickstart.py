"""The notebook runs from top to bottom, and is kept with what it shows."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


def outputs(notebook):
    """What its cells show: text and tables together, and the number of pictures."""
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    data = [output["data"] for output in shown if "data" in output]
    texts = [output.get("text", "") for output in shown]
    texts += [each.get("text/markdown", each.get("text/plain", "")) for each in data]
    return "\n".join(texts), sum("image/png" in each for each in data)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook, folder


def test_it_runs_and_shows_what_it_promises(executed):
    notebook, folder = executed
    text, pictures = outputs(notebook)
    accuracies = [float(value) for value in re.findall(r"\| (\d+\.\d+)% \|", text)]
    assert len(accuracies) == 3
    assert min(accuracies) > 80
    assert pictures == 1
    assert "tokens after each layer: [65, 65, 37, 37, 18, 18, 10, 10]" in text
    assert len(re.findall("is read as", text)) == 3
    assert (folder / "quickstart" / "model" / "modeling_fatr_vit.py").is_file()


def test_it_is_kept_with_its_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    text, pictures = outputs(notebook)
    assert pictures == 1
    assert "FATR, fine-tuned" in text
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert NOTEBOOK.stat().st_size < 400_000
