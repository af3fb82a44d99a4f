"""Checks of the notebooks' exercises.

A check compares an attempt with the right answer on random inputs.  Where they differ it looks through the mistakes
that the exercise knows, each an answer that is wrong in a plausible way, and names the one the attempt looks like.  So
the diagnosis is data, and a test can show that every mistake is told from the right answer and from the others.

A check reports and goes on: it hands back the attempt if it is right, else the package's own piece.  With the
environment variable SPPO_LAB_STRICT set it raises CheckFailed instead, for graders and automatic tests.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sppo_lab.errors import LabError

STRICT = "SPPO_LAB_STRICT"
CASES = 5  # random inputs that an attempt is compared on


class CheckFailed(LabError):
    """An exercise that is not solved, in strict mode."""


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people give, and what to say to it."""

    message: str
    answer: Any  # as Exercise.answer


def named(answers: dict[str, Any]) -> tuple[Mistake, ...]:
    """Mistakes from what to say to each and the wrong answer itself."""
    return tuple(Mistake(message, answer) for message, answer in answers.items())


@dataclass(frozen=True)
class Exercise:
    """What an attempt is compared with.

    ``answer`` is a function, compared on what ``inputs`` draws, or a number, compared within ``tolerance``.
    """

    number: str  # such as 04.2: notebook and place
    answer: Any
    mistakes: tuple[Mistake, ...]
    inputs: Callable[[torch.Generator], tuple[Any, ...]] = lambda generator: ()
    piece: str = ""  # the package's own piece, where the answer is one
    tolerance: float = 1e-5

    def diagnose(self, attempt: Any) -> str | None:
        """What is wrong with the attempt; None if it is right.  NotImplementedError if nothing was attempted."""
        generator = torch.Generator().manual_seed(0)
        cases = [self.inputs(generator) for _ in range(CASES)]
        found = []
        for case in cases:
            wanted = evaluated(self.answer, case)
            try:
                given = evaluated(attempt, case)
            except NotImplementedError:
                raise
            except Exception as error:  # the student's own code may raise anything
                return f"your code raised {type(error).__name__}: {error}"
            if given is None:
                return "it returns nothing: is a return missing?"
            if problem := unlike(given, wanted):
                return problem
            found.append((given, wanted, case))
        if all(close(given, wanted, self.tolerance) for given, wanted, _ in found):
            return None
        for mistake in self.mistakes:
            if all(close(given, evaluated(mistake.answer, case), self.tolerance) for given, _, case in found):
                return mistake.message
        given, wanted, case = next(f for f in found if not close(f[0], f[1], self.tolerance))
        return f"for the input\n{shown(case)}\nit gives\n{shown(given)}\nand should give\n{shown(wanted)}"


def evaluated(answer: Any, case: tuple[Any, ...]) -> Any:
    """An answer on one input.  Tensors are copied first, so that an attempt that writes into them harms no other."""
    if answer is None or answer is Ellipsis:
        raise NotImplementedError
    if not callable(answer):
        return answer
    result = answer(*(item.clone() if isinstance(item, Tensor) else item for item in case))
    if result is Ellipsis:
        raise NotImplementedError
    return result


def unlike(given: Any, wanted: Any) -> str | None:
    """What is wrong with the kind or the shape of an answer, before its numbers are looked at."""
    if isinstance(wanted, tuple):
        if not isinstance(given, tuple):
            return f"it should return a tuple of {len(wanted)}, and returns {type(given).__name__}"
        if len(given) != len(wanted):
            return f"it should return a tuple of {len(wanted)}, and returns one of {len(given)}"
        return next(filter(None, map(unlike, given, wanted)), None)
    if isinstance(wanted, Tensor):
        if not isinstance(given, Tensor):
            return f"it should return a tensor of shape {tuple(wanted.shape)}, and returns {type(given).__name__}"
        if given.shape != wanted.shape:
            return f"it should return the shape {tuple(wanted.shape)}, and returns {tuple(given.shape)}"
        if wanted.dtype == torch.bool and given.dtype != torch.bool:
            return f"it should return booleans, and returns {str(given.dtype).removeprefix('torch.')}"
    elif isinstance(wanted, list) != isinstance(given, list):
        return f"it should return a {type(wanted).__name__}, and returns {type(given).__name__}"
    elif isinstance(wanted, str) != isinstance(given, str):
        return f"expected {type(wanted).__name__}, found {type(given).__name__}"
    return None


def close(given: Any, wanted: Any, tolerance: float) -> bool:
    """Whether two answers are the same, numbers within a tolerance."""
    if isinstance(wanted, tuple):
        return all(close(g, w, tolerance) for g, w in zip(given, wanted, strict=True))
    if isinstance(wanted, str | list | dict | bool):
        return given == wanted
    given, wanted = torch.as_tensor(given), torch.as_tensor(wanted)
    if given.shape != wanted.shape:
        return False
    return torch.allclose(given.double(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def shown(value: Any) -> str:
    """An input or an answer in a few short lines."""
    if isinstance(value, tuple):
        return "\n".join(map(shown, value))
    if isinstance(value, Tensor):
        value = [round(number, 4) for number in value.tolist()] if value.dim() == 1 else value.tolist()
    text = str(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


RESULTS: dict[str, bool] = {}  # exercise to whether its latest check in this session passed


def check(number: str, attempt: Any) -> Any:
    """Compare an attempt with the exercise of that number and say what is wrong.  Returns a piece to go on with."""
    from sppo_lab.exercises import EXERCISES

    if number not in EXERCISES:
        raise LabError(f"there is no exercise {number}: the numbers are {', '.join(EXERCISES)}.")
    exercise = EXERCISES[number]
    try:
        problem = exercise.diagnose(attempt)
    except NotImplementedError:
        problem = "not attempted yet"
    RESULTS[number] = problem is None
    if problem is None:
        print(f"Exercise {number}: right.")
        return attempt
    if os.environ.get(STRICT):
        raise CheckFailed(f"Exercise {number}: {problem}")
    print(f"Exercise {number}: {problem}{'' if problem.endswith(('.', '?', '…')) else '.'}")
    if exercise.piece:
        print(f"The notebook goes on with {exercise.piece}.")
    return exercise.answer


def score(notebook: str) -> int:
    """How many exercises of a notebook, such as "04", are solved in this session; printed, one line each."""
    from sppo_lab.exercises import EXERCISES

    numbers = [number for number in EXERCISES if number.startswith(notebook)]
    for number in numbers:
        print(f"Exercise {number}: {'right' if RESULTS.get(number) else 'open'}")
    return sum(RESULTS.get(number, False) for number in numbers)
