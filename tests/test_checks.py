import re

import pytest
import torch
from torch import Tensor

from sppo_lab import exercises
from sppo_lab.checks import RESULTS, STRICT, CheckFailed, Exercise, Mistake, check, score, shown, unlike
from sppo_lab.errors import LabError
from sppo_lab.exercises import EXERCISES

DOUBLE = Exercise(
    "99.1",
    lambda x: 2 * x,
    (Mistake("you squared it", lambda x: x**2), Mistake("the sign is wrong", lambda x: -2 * x)),
    inputs=lambda generator: (torch.rand(3, generator=generator) + 1,),
    piece="torch.mul",
)


@pytest.fixture
def doubled(monkeypatch):
    """An exercise of this file, known to ``check``."""
    monkeypatch.setattr(exercises, "EXERCISES", {"99.1": DOUBLE})
    monkeypatch.delenv(STRICT, raising=False)
    RESULTS.clear()


def write_into(x: Tensor) -> Tensor:
    return x.mul_(2)


def unfinished(x: Tensor) -> Tensor:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda x: x + x, "right"),
        (write_into, "right"),  # writing into the input spoils nobody else's
        (lambda x: x**2, "you squared it"),
        (lambda x: -2 * x, "the sign is wrong"),
        (lambda x: 3 * x, "and should give"),
        (lambda x: 2 * x[:2], "the shape \\(3,\\), and returns \\(2,\\)"),
        (lambda x: 2.0, "a tensor of shape \\(3,\\), and returns float"),
        (lambda x: x * torch.nan, "and should give"),
        (lambda x: x @ torch.ones(7), "your code raised RuntimeError"),
        (unfinished, "not attempted yet"),
        (lambda x: None, "it returns nothing: is a return missing\\?\n"),
        (..., "not attempted yet"),
    ],
)
def test_a_check_says_what_it_sees(doubled, capsys, attempt, said):
    piece = check("99.1", attempt)
    printed = capsys.readouterr().out
    assert re.search(said, printed), printed
    assert torch.equal(piece(torch.ones(3)), torch.full((3,), 2.0))  # the notebook goes on with one that works
    assert (said == "right") == RESULTS["99.1"] == ("goes on with torch.mul" not in printed)


def test_strict_mode_raises(doubled, monkeypatch):
    monkeypatch.setenv(STRICT, "1")
    assert check("99.1", write_into) is write_into
    with pytest.raises(CheckFailed, match=r"Exercise 99\.1: you squared it"):
        check("99.1", lambda x: x**2)
    with pytest.raises(CheckFailed, match="not attempted yet"):
        check("99.1", unfinished)


def test_the_score_counts_what_is_solved(doubled, capsys):
    assert score("99") == 0
    check("99.1", lambda x: x + x)
    assert score("99") == 1 and "Exercise 99.1: right" in capsys.readouterr().out
    check("99.1", lambda x: x)
    assert score("99") == 0


@pytest.mark.parametrize("number", list(EXERCISES))
def test_every_exercise_tells_its_mistakes_apart(number):
    exercise = EXERCISES[number]
    assert exercise.diagnose(exercise.answer) is None
    assert len(exercise.mistakes) >= 3
    assert len({mistake.message for mistake in exercise.mistakes}) == len(exercise.mistakes)
    for mistake in exercise.mistakes:
        assert exercise.diagnose(mistake.answer) == mistake.message


@pytest.mark.parametrize(
    ("given", "wanted", "said"),
    [
        (torch.ones(2), [1.0, 1.0], "a list, and returns Tensor"),
        ([1.0, 2.0], (1.0, 2.0), "a tuple of 2, and returns list"),
        ((1.0,), (1.0, 2.0), "a tuple of 2, and returns one of 1"),
        (torch.ones(2), torch.ones(2) > 0, "booleans, and returns float32"),
        (torch.ones(2) > 0, torch.ones(2), None),  # multiplies as well
        ([1.0], [1.0], None),
    ],
)
def test_the_kind_of_an_answer_is_named(given, wanted, said):
    found = unlike(given, wanted)
    assert found is None if said is None else said in found


def test_an_exercise_that_is_not_there_is_a_message():
    with pytest.raises(LabError, match=r"no exercise 04\.7: the numbers are 01\.1"):
        check("04.7", None)


def test_a_long_input_says_that_it_goes_on():
    assert shown(torch.arange(500)).endswith("…") and len(shown(torch.arange(500))) == 200
    assert shown(torch.tensor([0.5])) == "[0.5]"
