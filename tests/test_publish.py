import shutil
from pathlib import Path

import nbformat
import pytest

from sppo_lab.errors import LabError
from sppo_lab.publish import graded, publish, solution_copy, student_copy

MASTER = '''def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    y = x + x
    return y
    ### END SOLUTION


double = check("99.1", double)'''


def notebook(*sources: str):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_the_student_gets_a_stub_and_the_teacher_the_solution():
    student = student_copy(notebook(MASTER)).cells[0].source
    assert "x + x" not in student and "SOLUTION" not in student
    assert '    """Twice x."""\n    raise NotImplementedError  # your code here\n\n\ndouble' in student
    teacher = solution_copy(notebook(MASTER)).cells[0].source
    assert "    y = x + x\n    return y\n\n\ndouble" in teacher and "SOLUTION" not in teacher


def test_a_solution_at_the_end_of_a_cell():
    source = MASTER.partition("\n\n\n")[0]
    assert student_copy(notebook(source)).cells[0].source.endswith("# your code here")
    assert solution_copy(notebook(source)).cells[0].source.endswith("return y")


@pytest.mark.parametrize(
    "broken", [MASTER.replace("    ### END SOLUTION", ""), MASTER.replace("    ### BEGIN SOLUTION", "")]
)
def test_a_solution_that_is_not_closed_is_refused(broken):
    with pytest.raises(LabError, match="not closed"):
        student_copy(notebook(broken))


def test_the_master_says_what_a_grader_needs():
    master = graded(notebook("x = 1", MASTER, 'score("99")'))
    plain, exercise, points = (cell.metadata.get("nbgrader") for cell in master.cells)
    assert plain is None and exercise["solution"] and not exercise["grade"]
    assert points["grade"] and points["points"] == 1 and points["locked"]
    assert all("nbgrader" not in cell.metadata for cell in student_copy(master).cells)


def test_published_copies_carry_nothing_that_was_run(tmp_path):
    (tmp_path / "masters").mkdir()
    master = notebook(MASTER)
    master.cells[0].outputs = [nbformat.v4.new_output("stream", text="4")]
    master.metadata["widgets"] = {}
    nbformat.write(master, tmp_path / "masters" / "99_double.ipynb")
    written = publish(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {
        "masters/99_double.ipynb",
        "99_double.ipynb",
        "solutions/99_double.ipynb",
    }
    for path in written:
        found = nbformat.read(path, as_version=4)
        assert not found.cells[0].outputs and "widgets" not in found.metadata
    again = {path: path.read_bytes() for path in written}
    publish(tmp_path)
    assert again == {path: path.read_bytes() for path in written}


def test_a_folder_without_masters_gets_a_message(tmp_path):
    with pytest.raises(LabError, match="holds no notebooks"):
        publish(tmp_path)


def test_what_is_committed_is_what_the_masters_say(tmp_path):
    root = Path(__file__).parents[1]
    shutil.copy(root / "pyproject.toml", tmp_path)  # it names the repository
    shutil.copytree(root / "notebooks" / "masters", tmp_path / "notebooks" / "masters")
    for path in publish(tmp_path / "notebooks"):
        committed = root / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"{committed} is old: python -m sppo_lab publish"
