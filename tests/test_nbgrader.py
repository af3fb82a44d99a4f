"""nbgrader makes an assignment of a master as it is, and grades what comes in."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NAME = "04_advantage_and_loss.ipynb"
NBGRADER = shutil.which("nbgrader")
STUB = re.compile(r"# YOUR CODE HERE\n *raise NotImplementedError\(\)")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(NBGRADER is None, reason="there is no nbgrader on the path: pip install 'nbgrader>=0.9,<0.10'"),
]


def nbgrader(course: Path, *arguments: str) -> None:
    """Run a command of nbgrader in the course; its kernel is this Python, wherever nbgrader is installed."""
    kernel = course / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "lab", "language": "python"}))
    environment = {
        **os.environ,
        "JUPYTER_PATH": str(course / "jupyter"),
        "PYTHONPATH": str(ROOT),
        "SPPO_LAB_SHORT": "1",
    }
    command = [NBGRADER, *arguments]
    result = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True, errors="replace")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


def submit(course: Path, student: str, answers: dict[str, str]) -> None:
    """What a student sends in: the released notebook with some of its solution cells filled in, by grade id."""
    notebook = nbformat.read(course / "release" / "04" / NAME, as_version=4)
    for cell in notebook.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.source = answers.get(grade_id, cell.source)
    folder = course / "submitted" / student / "04"
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / NAME)


def solution_cells(notebook) -> dict[str, str]:
    return {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A course with one assignment released."""
    course = tmp_path_factory.mktemp("course")
    (course / "nbgrader_config.py").write_text("")
    (course / "source" / "04").mkdir(parents=True)
    shutil.copy(ROOT / "notebooks" / "masters" / NAME, course / "source" / "04")
    nbgrader(course, "generate_assignment", "04")
    return course


def test_the_students_version_has_stubs_and_no_solution(course):
    released = nbformat.read(course / "release" / "04" / NAME, as_version=4)
    stubs = solution_cells(released)
    assert len(stubs) == 6
    for source in stubs.values():
        assert STUB.search(source) and "SOLUTION" not in source and "check(" in source
    assert "(rewards - values)[:, None] * mask" not in "".join(stubs.values())


def test_points_are_for_the_exercises_that_are_solved(course):
    released = solution_cells(nbformat.read(course / "release" / "04" / NAME, as_version=4))
    right = solution_cells(nbformat.read(ROOT / "notebooks" / "masters" / NAME, as_version=4))
    wrong = {name: STUB.sub("return torch.zeros(1)", source) for name, source in released.items()}
    first_two = dict(list(right.items())[:2])
    for student, answers in {"all": right, "none": {}, "wrong": wrong, "two": first_two}.items():
        submit(course, student, answers)
    nbgrader(course, "autograde", "04", "--ExecutePreprocessor.timeout=900")
    nbgrader(course, "export")
    with (course / "grades.csv").open(newline="") as file:
        rows = {row["student_id"]: (float(row["score"]), float(row["max_score"])) for row in csv.DictReader(file)}
    assert rows == {"all": (6, 6), "none": (0, 6), "wrong": (0, 6), "two": (2, 6)}
