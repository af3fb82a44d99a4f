"""What a task is: problems to train on, problems to test on, and a verifier that judges a response."""

from collections.abc import Callable
from dataclasses import dataclass

RewardFunction = Callable[[list[str], list[str]], list[float]]


@dataclass(frozen=True)
class Problem:
    """One problem: the text the policy continues, and the answer the verifier compares with."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """Problems and their verifier.

    ``rewards(responses, answers)`` gives one number in [0, 1] per response and never raises on any response.
    """

    name: str
    train: list[Problem]
    test: list[Problem]
    rewards: RewardFunction
    step_mark: str = "\n"  # what ends a reasoning step


@dataclass(frozen=True)
class TaskKind:
    """How the problems of one task are read and its responses judged."""

    read: Callable[..., list[Problem]]  # (path=None, split="train"): a file, or the task's own problems
    rewards: RewardFunction
    final: Callable[[str], str]  # the part of a response that is judged
    rule: str  # what that part is, in words
    step_mark: str = "\n"  # what ends a reasoning step
