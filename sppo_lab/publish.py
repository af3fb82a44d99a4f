"""Writes the notebooks that people open: from each master the student's copy and the teacher's.

notebooks/masters/NN_name.ipynb    with the solutions between markers; the only one that is edited
notebooks/NN_name.ipynb            the student's copy: each solution replaced by a line that raises NotImplementedError
notebooks/solutions/NN_name.ipynb  the teacher's copy: the solutions without the markers
"""

import copy
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from sppo_lab.colab import read_repository, with_badge, with_set_up, with_table_badges, write_repository
from sppo_lab.errors import LabError

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = "raise NotImplementedError  # your code here"
REGION = re.compile(rf"^(?P<indent>[ \t]*){BEGIN}\n(?P<body>.*?)^[ \t]*{END}(?P<end>\n|$)", re.MULTILINE | re.DOTALL)


def student_copy(master: NotebookNode) -> NotebookNode:
    """The master with every solution taken out."""
    return rewritten(master, lambda found: f"{found['indent']}{STUB}{found['end']}")


def solution_copy(master: NotebookNode) -> NotebookNode:
    """The master with its solutions and without the markers around them."""
    return rewritten(master, lambda found: found["body"] if found["end"] else found["body"].rstrip("\n"))


def rewritten(master: NotebookNode, replacement) -> NotebookNode:
    """A copy of the master with every solution replaced, and without what only a grader reads."""
    notebook = copy.deepcopy(master)
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)
        if cell.cell_type == "code":
            cell.source = REGION.sub(replacement, cell.source)
            if BEGIN in cell.source or END in cell.source:
                raise LabError(f"a solution is not closed, or closed twice, in the cell {cell.source[:80]!r}.")
    return notebook


def graded(master: NotebookNode) -> NotebookNode:
    """The master with the metadata by which nbgrader knows solutions and the cell that gives the points."""
    notebook = copy.deepcopy(master)
    exercises = 0
    for place, cell in enumerate(notebook.cells):
        cell.metadata.pop("nbgrader", None)
        if cell.cell_type != "code":
            continue
        if BEGIN in cell.source:
            exercises += 1
            cell.metadata["nbgrader"] = _nbgrader(f"exercise-{exercises}", solution=True)
        elif re.search(r"^score\(", cell.source, re.MULTILINE):
            cell.metadata["nbgrader"] = _nbgrader(f"score-{place}", grade=True, locked=True, points=exercises)
    return notebook


def _nbgrader(grade_id: str, **given) -> dict:
    fields = {"grade": False, "solution": False, "locked": False, "task": False, "schema_version": 3}
    return fields | {"grade_id": grade_id} | given


def publish(folder: Path, repository: str | None = None) -> list[Path]:
    """Write the copies of every master under ``folder``, the notebooks directory; returns what was written.

    ``repository``, OWNER/NAME on GitHub, is kept in the pyproject.toml beside ``folder``.  It goes into the set-up
    cells, the badges of the students' copies and the README's table.  By default it is the one kept there.

    Raises LabError where there is no master, a solution is not closed, or the repository's name is not one.
    """
    masters = sorted((folder / "masters").glob("*.ipynb"))
    if not masters:
        raise LabError(f"{folder / 'masters'} holds no notebooks: publish works in a checkout of the repository.")
    root = folder.resolve().parent
    if repository is not None:
        write_repository(root, repository)
    repository = read_repository(root)
    written = []
    for path in masters:
        master = with_set_up(graded(nbformat.read(path, as_version=4)), repository)
        copies = {path: master, folder / path.name: with_badge(student_copy(master), path.name, repository)}
        if any(BEGIN in cell.source for cell in master.cells):
            copies[folder / "solutions" / path.name] = solution_copy(master)
        for target, notebook in copies.items():
            target.parent.mkdir(exist_ok=True)
            nbformat.write(stripped(notebook), target)
            written.append(target)
    readme = root / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        if (badged := with_table_badges(text, repository)) != text:
            readme.write_text(badged, encoding="utf-8")
            written.append(readme)
    return written


def stripped(notebook: NotebookNode) -> NotebookNode:
    """Without outputs, counts and widget state; GitHub refuses to render a notebook with the latter."""
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook
