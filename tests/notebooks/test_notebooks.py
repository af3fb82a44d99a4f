"""Every notebook runs from top to bottom on its own, headless, at the short sizes: student's copies and solutions."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))


def notebook_id(path: Path) -> str:
    return path.stem


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setenv("SPPO_LAB_SHORT", "1")


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook after Run All, its working directory elsewhere."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env=dict(os.environ))
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(o.text for o in outputs(notebook) if o.output_type == "stream")


def outputs(notebook: nbformat.NotebookNode) -> list:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def exercises(path: Path) -> list[str]:
    """Numbers of the exercises that a notebook checks."""
    code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    return re.findall(r'check\("(\d\d\.\d)"', code)


def test_the_series_is_there():
    assert [path.name[:2] for path in NOTEBOOKS] == ["00", "01", "02", "03", "04", "05", "06", "07", "08"]
    assert [path.name[:2] for path in SOLUTIONS] == ["01", "02", "03", "04", "05", "06"]


def test_the_readme_promises_the_minutes_of_the_notebooks():
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    promised = dict(re.findall(r"^\| \[.*?\]\(notebooks/(.*?\.ipynb)\).* \| (\d+) \|$", readme, flags=re.M))
    said = {
        path.name: re.search(r"About (\d+) minutes?", nbformat.read(path, 4).cells[0].source)[1] for path in NOTEBOOKS
    }
    assert promised == said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_id)
def test_it_runs(path, tmp_path):
    notebook = executed(path, tmp_path)
    assert not [o for o in outputs(notebook) if o.output_type == "error"]
    said = printed(notebook)
    assert "Traceback" not in said and "Warning" not in said, said
    for number in exercises(path):  # a student's copy: nothing is solved, and everything goes on
        assert f"Exercise {number}: not attempted yet" in said
    # An exception in a widget's callback fails no cell: it only shows in the widget's state.
    states = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    hidden = [state["state"].get("outputs", []) for state in states.values()]
    assert not [o for outputs in hidden for o in outputs if "ename" in o]
    pictures = [o for o in outputs(notebook) if "<img" in o.get("data", {}).get("text/html", "")]
    assert pictures and all("alt=" in o["data"]["text/html"] for o in pictures)


@pytest.mark.parametrize("path", SOLUTIONS, ids=notebook_id)
def test_the_solutions_pass_every_check(path, tmp_path, monkeypatch):
    monkeypatch.setenv("SPPO_LAB_STRICT", "1")
    said = printed(executed(path, tmp_path))
    numbers = exercises(path)
    assert len(numbers) >= 4
    for number in numbers:
        assert f"Exercise {number}: right." in said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_id)
def test_it_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_id)
def test_it_reads_as_a_notebook_of_the_series(path):
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert len(re.findall(r"^# ", prose, flags=re.M)) == 1
    first = notebook.cells[0].source
    assert "After this notebook you can" in first and re.search(r"About \d+ minutes?", first)
    assert "**Predict" in prose and "not shown" in prose.lower()
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert max(len(cell.splitlines()) for cell in code[1:]) <= 16  # the set-up cell is written by publish
    for target in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (path.parent / target).exists(), target
