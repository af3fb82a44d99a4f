import json
import sys

import pytest

from sppo_lab.errors import LabError
from sppo_lab.tasks import TASKS, load_task
from sppo_lab.tasks.base import Problem
from sppo_lab.tasks.benchmarks import BENCHMARKS, PAPER, read_benchmark
from sppo_lab.tasks.maths import MATH_PROMPT

# A row as each repository publishes it, with the answer it stands for.
PUBLISHED = {
    "aime24": ({"id": 60, "problem": "Every morning?", "solution": "\\boxed{204}", "url": "https://…"}, "204"),
    "aime25": ({"problem": "Find the sum.", "answer": "70", "id": "0"}, "70"),
    "amc23": ({"id": 0, "answer": "27", "url": "https://…", "question": "Cities A and B?"}, "27"),
    "math500": ({"problem": "Convert.", "solution": "…", "answer": "\\frac{1}{2}", "level": 2}, "\\frac{1}{2}"),
    "minerva": ({"question": "How far?", "answer": "1.2e10"}, "1.2e10"),
}


@pytest.fixture
def hub(monkeypatch):
    """Stand in for the hub: every repository has one row, as published."""
    asked = []

    class Datasets:
        @staticmethod
        def load_dataset(repository, subset, *, split):
            asked.append((repository, subset, split))
            (name,) = [name for name, found in BENCHMARKS.items() if found.repository == repository]
            return [PUBLISHED[name][0]]

    monkeypatch.setattr("sppo_lab.hub.is_reachable", lambda name, kind: True)
    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    return asked


@pytest.mark.parametrize("name", PAPER)
def test_each_benchmark_is_read_from_the_hub_in_its_own_format(hub, name):
    row, answer = PUBLISHED[name]
    question = row.get("problem") or row["question"]
    assert TASKS[name].read(split="test") == [Problem(MATH_PROMPT.format(question=question), answer)]
    assert hub == [(BENCHMARKS[name].repository, None, "test")]


@pytest.mark.parametrize("name", PAPER)
def test_the_published_answer_is_right_and_another_is_not(name):
    answer = PUBLISHED[name][1]
    assert TASKS[name].rewards([f"So \\boxed{{{answer}}}", "So \\boxed{12345}"], [answer] * 2) == [1.0, 0.0]


@pytest.mark.parametrize(("answer", "kept"), [(27, "27"), (27.0, "27"), (0.125, "0.125"), ("027", "027")])
def test_a_number_is_an_answer(tmp_path, answer, kept):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"question": "?", "answer": answer}]))
    assert read_benchmark("aime24", path)[0].answer == kept
    assert TASKS["aime24"].rewards(["\\boxed{27}"], [kept]) == [float("27" in kept)]


def test_there_is_nothing_to_train_on():
    with pytest.raises(LabError, match=r"aime25 is there to measure on.*evaluate --benchmarks aime25"):
        load_task("aime25")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, "line 1: the key 'problem' is missing"),
        ({"question": "?", "answer": True}, "'answer' should be text and is bool"),
        ({"question": "?", "answer": None}, "'answer' should be text and is NoneType"),
        ({"question": " ", "answer": "1"}, "'problem' is blank"),
        ([1], "line 1: expected an object, found"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(LabError, match=message):
        read_benchmark("minerva", path)
