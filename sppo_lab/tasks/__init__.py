"""Tasks: problems, prompts and the verifier that judges a response."""

from collections.abc import Callable
from dataclasses import dataclass

from sppo_lab.errors import LabError
from sppo_lab.reward import math_rewards
from sppo_lab.tasks.base import Problem, RewardFunction, Task
from sppo_lab.tasks.chain_sum import chain_sum_rewards, read_chain_sum
from sppo_lab.tasks.maths import read_gsm8k, read_math

__all__ = ["TASKS", "Problem", "RewardFunction", "Task", "load_task", "reward_function"]


@dataclass(frozen=True)
class TaskKind:
    """How the problems of one task are read and its responses judged."""

    read: Callable[..., list[Problem]]  # (path=None, split="train"): a file, or the task's own problems
    rewards: RewardFunction


TASKS = {
    "chain-sum": TaskKind(read_chain_sum, chain_sum_rewards),
    "gsm8k": TaskKind(read_gsm8k, math_rewards),
    "math": TaskKind(read_math, math_rewards),
}


def load_task(name: str, data: str | None = None, test_data: str | None = None) -> Task:
    """The task of that name, on its own problems or on those of the files given.

    With ``data`` alone its last fifth is held out as the test split.  Raises LabError for an unknown task and for
    a file that cannot be read, with the line at fault.
    """
    kind = _kind(name)
    train = kind.read(data, "train")
    if test_data is not None or data is None:
        return Task(name, train, kind.read(test_data, "test"), kind.rewards)
    if len(train) < 2:
        raise LabError(
            f"{data} holds one problem; the test split needs at least one more. Add some, or give test_data."
        )
    held_out = max(1, len(train) // 5)
    return Task(name, train[:-held_out], train[-held_out:], kind.rewards)


def reward_function(name: str) -> RewardFunction:
    """The verifier of the task of that name."""
    return _kind(name).rewards


def _kind(name: str) -> TaskKind:
    if name not in TASKS:
        raise LabError(f"unknown task {name!r}: choose one of {', '.join(TASKS)}.")
    return TASKS[name]
