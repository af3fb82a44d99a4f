"""A task of the user's own, as docs/own_task.md says it."""

import json
import re
import shlex
from pathlib import Path

import pytest

from sppo_lab.cli import main
from sppo_lab.errors import LabError
from sppo_lab.tasks import load_task

PAGE = (Path(__file__).parents[2] / "docs" / "own_task.md").read_text(encoding="utf-8")
SHORT = ["--steps=2", "--prompts-per-step=4", "--max-new-tokens=16", "--eval-samples=2", "--eval-prompts=8"]


def block(language: str) -> str:
    """The page's one code block in that language; "" is a terminal's."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture
def my_task(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_task.py"
    path.write_text(block("python"), encoding="utf-8")
    return path


def test_the_page_works_as_written(my_task, capsys):
    assert len(block("python").splitlines()) < 20
    train, evaluate = (shlex.split(line)[3:] for line in re.findall("^python .*$", PAGE, re.MULTILINE))
    assert main([*train, *SHORT]) == 0
    assert main([*evaluate, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["prompts"] == 8 and 0 < result["avg@16"] < 1  # the embedded model can add


def test_its_rewards_are_the_ones_that_count(my_task):
    task = load_task("my_task.py")
    assert len(task.train) == len(task.test) == 50
    assert task.rewards(["7+5=12#12", "#11", ""], ["2"] * 3) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tusk = 1\n", "defines no task. Expected: task = Task"),
        ("task = 5\n", "defines no task"),
        ("x = 1\nx / 0\n", r"my_task.py, line 2 failed: ZeroDivisionError"),
        ("x = (\n", r"my_task.py failed: SyntaxError"),
        ("from sppo_lab.tasks import Task\ntask = Task('t', [], [], list)\n", "0 training and 0 test problems"),
    ],
)
def test_a_file_that_is_no_task_is_named(my_task, content, message):
    my_task.write_text(content)
    with pytest.raises(LabError, match=message):
        load_task("my_task.py")


def test_a_missing_file_and_a_second_source_of_problems_are_refused(my_task):
    with pytest.raises(LabError, match="there is no such file"):
        load_task("other_task.py")
    with pytest.raises(LabError, match=r"leave rows\.jsonl out"):
        load_task("my_task.py", "rows.jsonl")
