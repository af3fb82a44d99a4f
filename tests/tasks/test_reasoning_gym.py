import sys

import pytest

from sppo_lab.errors import LabError
from sppo_lab.tasks import get_task_kind, load_task
from sppo_lab.tasks.reasoning_gym import GymTask, gym_task, tagged_answer


def test_the_answer_is_what_the_last_tags_hold():
    assert tagged_answer("<answer>1</answer> no, <answer>\n 2 \n</answer>.") == "2"
    assert tagged_answer("<answer>1</answer> <answer>2") == "1"
    assert tagged_answer("<answer> <answer>3</answer>") == "3"
    assert tagged_answer("4") == ""


def test_the_library_missing_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(LabError, match="pip install reasoning-gym"):
        load_task("reasoning-gym:chain_sum")


class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def library(self):
        pytest.importorskip("reasoning_gym", reason="an optional library")

    def test_a_task_by_name_has_problems_in_both_splits_and_none_in_common(self):
        task = load_task("reasoning-gym:chain_sum,max_terms=2,min_digits=1,max_digits=1,size=60")
        assert len(task.train) == 60 and 0 < len(task.test) <= 60
        assert not {p.prompt for p in task.train} & {p.prompt for p in task.test}
        assert "<answer>" in task.train[0].prompt and task.train[3].answer.endswith(" (train 3)")
        assert task.train == load_task("reasoning-gym:chain_sum,max_terms=2,min_digits=1,max_digits=1,size=60").train

    def test_settings_reach_the_task(self):
        easy = gym_task("reasoning-gym:chain_sum,min_terms=2,max_terms=2,size=20").entries("train")
        hard = gym_task("reasoning-gym:chain_sum,min_terms=6,max_terms=6,size=20").entries("train")
        assert all(len(one["question"]) < len(other["question"]) for one, other in zip(easy, hard, strict=True))

    @pytest.mark.parametrize("name", ["chain_sum", "leg_counting", "simple_integration", "countdown", "word_ladder"])
    def test_the_librarys_own_answer_is_right(self, name):
        task = load_task(f"reasoning-gym:{name},size=3")
        oracles = [problem.answer.rpartition(" (train")[0] for problem in task.train]
        answers = [problem.answer for problem in task.train]
        assert task.rewards([f"So <answer>{oracle}</answer>" for oracle in oracles], answers) == [1.0] * 3
        assert task.rewards(["<answer>nonsense</answer>", "no tags", ""], answers) == [0.0] * 3

    def test_partial_marks_are_no_solution(self):
        """The scorer gives part of a point to an answer that holds the right one among other words."""
        task = GymTask("chain_sum", size=2)
        entry = task.entries("train")[0]
        from reasoning_gym import get_score_answer_fn

        wordy = f"It is {entry['answer']}"
        assert 0 < get_score_answer_fn("chain_sum")(wordy, entry) < 1
        assert task.reward(f"<answer>{wordy}</answer>", entry) == 0.0

    def test_a_problem_with_several_right_answers_is_judged_by_the_scorer(self):
        task = load_task("reasoning-gym:graph_color,size=2")
        assert task.train[0].answer == "several (train 0)"
        import json

        entry = gym_task("reasoning-gym:graph_color,size=2").entries("train")[0]
        puzzle = entry["metadata"]["puzzle"]
        solution = colouring(puzzle["vertices"], puzzle["edges"], puzzle["color_options"])
        renamed = dict(zip(puzzle["color_options"], reversed(puzzle["color_options"]), strict=True))
        other = {vertex: renamed[colour] for vertex, colour in solution.items()}
        same = dict.fromkeys(solution, puzzle["color_options"][0])
        responses = [f"<answer>{json.dumps(found)}</answer>" for found in (solution, other, same)]
        assert task.rewards(responses, [task.train[0].answer] * 3) == [1.0, 1.0, 0.0]

    def test_an_answer_that_never_ends_costs_its_own_reward_only(self, monkeypatch):
        monkeypatch.setattr("sppo_lab.tasks.reasoning_gym.TIMEOUT", 3.0)
        task = load_task("reasoning-gym:string_insertion,size=2")
        right = task.train[1].answer.rpartition(" (train")[0]
        endless = "<answer>[9**9**9**9]</answer>"  # its scorer evaluates a list
        answers = [task.train[0].answer, task.train[1].answer]
        assert task.rewards([endless, f"<answer>{right}</answer>"], answers) == [0.0, 1.0]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("chain_sums", "has no task 'chain_sums'. It has: .*chain_sum"),
            ("chain_sum,terms", "'terms' is not a setting"),
            ("chain_sum,terms=3", "could not make problems of 'chain_sum' with these settings: .*terms"),
            ("chain_sum,min_terms=9,max_terms=2", "could not make problems"),
            ("chain_sum,size=1", "size = 1 is not a number of training problems"),
            ("composite", "could not make problems of 'composite'"),
        ],
    )
    def test_a_mistake_in_the_name_is_one_message(self, name, message):
        with pytest.raises(LabError, match=message):
            load_task(f"reasoning-gym:{name}")

    def test_files_have_no_part_in_it(self, tmp_path):
        with pytest.raises(LabError, match="are generated, not read from"):
            load_task("reasoning-gym:chain_sum", str(tmp_path / "rows.jsonl"))

    def test_verify_needs_the_place_of_the_problem(self):
        kind = get_task_kind("reasoning-gym:chain_sum,size=2")
        with pytest.raises(LabError, match="does not end in a problem's place"):
            kind.rewards(["<answer>5</answer>"], ["5"])
        with pytest.raises(LabError, match="does not end in a problem's place"):
            kind.rewards(["<answer>5</answer>"], ["5 (train 99)"])


def colouring(vertices: list, edges: list, colours: list) -> dict:
    """A proper colouring, by backtracking."""

    def extend(found: dict) -> dict | None:
        if len(found) == len(vertices):
            return found
        vertex = vertices[len(found)]
        near = {found.get(a if b == vertex else b) for a, b in edges if vertex in (a, b)}
        for colour in colours:
            if colour not in near and (whole := extend(found | {vertex: colour})):
                return whole
        return None

    return extend({})
