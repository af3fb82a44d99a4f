import random

import pytest

from sppo_lab.errors import LabError
from sppo_lab.tasks import load_task
from sppo_lab.tasks.chain_sum import (
    chain_sum_reward,
    chain_sum_rewards,
    count_slips,
    read_chain_sum,
    running_totals,
    split_terms,
    worked_solution,
)


def test_a_worked_solution_by_hand():
    assert split_terms("7+5-3=") == [7, 5, -3]
    assert running_totals("7+5-3=") == [7, 12, 9]
    assert worked_solution("7+5-3=") == "7+5=12;12-3=9#9"
    assert worked_solution("3-8+0=") == "3-8=-5;-5+0=-5#-5"


def test_a_slip_is_carried_through():
    assert worked_solution("7+5-3=", [7, 13, 10]) == "7+5=13;13-3=10#10"


@pytest.mark.parametrize(
    ("response", "counted"),
    [
        ("7+5=12;12-3=9#9", (0, 2)),
        ("7+5=13;13-3=10#10", (1, 2)),  # a slip that is carried through counts once
        ("7+5=13;13-3=9#9", (2, 2)),
        ("7+5=12;12+3=15#15", (1, 2)),  # the wrong sign
        ("7+5=12#12", (0, 1)),  # stopped early
        ("7+5=12;12-3=9;9+1=10#10", (1, 3)),  # a step too many
        ("7+5=;12-3=9#9", (2, 2)),
        ("7+5=12;;#9", (2, 3)),
        ("#9", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_slips_are_counted(response, counted):
    assert count_slips("7+5-3=", response) == counted


def test_an_answer_that_is_no_integer_is_refused():
    with pytest.raises(LabError, match="'nine' is not an integer"):
        chain_sum_rewards(["#9", "#9"], ["9", "nine"])


def test_worked_solutions_are_right_as_python_counts():
    rng = random.Random(0)
    for _ in range(300):
        chain = str(rng.randint(0, 9)) + "".join(
            rng.choice("+-") + str(rng.randint(0, 9)) for _ in range(rng.randint(1, 9))
        )
        solution = worked_solution(chain + "=")
        steps, answer = solution.split("#")
        assert int(answer) == eval(chain) and chain_sum_reward(solution, answer) == 1
        assert all(eval(step.split("=")[0]) == int(step.split("=")[1]) for step in steps.split(";"))


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("#9", 1),
        ("7+5=12;12-3=9#9", 1),
        ("nonsense#9", 1),  # only the answer is judged
        ("# 9 ", 1),
        ("#+9", 1),
        ("#09", 1),
        ("#8#9", 1),
        ("#9#8", 0),
        ("9", 0),
        ("#", 0),
        ("", 0),
        ("#9.0", 0),
        ("#9 or 8", 0),
        ("#-9", 0),
        ("#٩", 0),  # another script's nine
        ("#" + "9" * 10_000, 0),
        ("#9\x00", 0),
    ],
)
def test_reward(response, reward):
    assert chain_sum_reward(response, "9") == reward


def test_rows_that_are_no_chains_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "1+1=", "answer": "2"}\n{"question": "one plus one", "answer": "2"}\n')
    with pytest.raises(LabError, match=r"rows.jsonl, line 2: expected a question such as '7\+5-3='"):
        read_chain_sum(path)


def test_data_alone_holds_out_its_last_fifth(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(f'{{"question": "{i}+1=", "answer": "{i + 1}"}}\n' for i in range(9))
        + '{"question": "9-9=", "answer": "0"}\n'
    )
    task = load_task("chain-sum", str(path))
    assert len(task.train) == 8 and [p.prompt for p in task.test] == ["8+1=", "9-9="]
    assert len(load_task("chain-sum", str(path), str(path)).test) == 10
    path.write_text('{"question": "1+1=", "answer": "2"}\n')
    with pytest.raises(LabError, match="at least one more"):
        load_task("chain-sum", str(path))
