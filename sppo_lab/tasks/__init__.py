"""Tasks: problems, prompts and the verifier that judges a response."""

from functools import partial

from sppo_lab.errors import LabError
from sppo_lab.reward import final_answer, math_rewards
from sppo_lab.tasks.base import Problem, RewardFunction, Task, TaskKind
from sppo_lab.tasks.benchmarks import BENCHMARKS, read_benchmark
from sppo_lab.tasks.chain_sum import STEP_MARK, after_mark, chain_sum_rewards, read_chain_sum
from sppo_lab.tasks.maths import read_gsm8k, read_math
from sppo_lab.tasks.own import own_kind
from sppo_lab.tasks.reasoning_gym import PREFIX, gym_task

__all__ = ["TASKS", "Problem", "RewardFunction", "Task", "TaskKind", "get_task_kind", "load_task"]


MATH_RULE = r"the last \boxed{…} of a response, else what follows its last ####, else its last line"
TASKS = {
    "chain-sum": TaskKind(
        read_chain_sum, chain_sum_rewards, after_mark, "what follows the last # of a response", STEP_MARK
    ),
    "gsm8k": TaskKind(read_gsm8k, math_rewards, final_answer, MATH_RULE),
    "math": TaskKind(read_math, math_rewards, final_answer, MATH_RULE),
} | {name: TaskKind(partial(read_benchmark, name), math_rewards, final_answer, MATH_RULE) for name in BENCHMARKS}


def load_task(name: str, data: str | None = None, test_data: str | None = None) -> Task:
    """The task of that name, on its own problems or on those of the files given.

    With ``data`` alone its last fifth is held out as the test split.  Raises LabError for an unknown task and for
    a file that cannot be read, with the line at fault.
    """
    kind = get_task_kind(name)
    train = kind.read(data, "train")
    if test_data is not None or data is None:
        return Task(name, train, kind.read(test_data, "test"), kind.rewards, kind.step_mark)
    if len(train) < 2:
        raise LabError(
            f"{data} holds one problem; the test split needs at least one more. Add some, or give test_data."
        )
    held_out = max(1, len(train) // 5)
    return Task(name, train[:-held_out], train[-held_out:], kind.rewards, kind.step_mark)


def get_task_kind(name: str) -> TaskKind:
    """The task of that name, without its problems; an unknown one raises LabError.

    ``reasoning-gym:NAME`` is one of that library's, ``path/to/file.py`` the user's own.
    """
    if name.startswith(PREFIX):
        return gym_task(name).kind()
    if name.endswith(".py"):
        return own_kind(name)
    if name not in TASKS:
        raise LabError(f"unknown task {name!r}: choose one of {', '.join(TASKS)}, {PREFIX}NAME, or a file of your own.")
    return TASKS[name]
