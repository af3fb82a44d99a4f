"""verl's reward function: the lab's own verifiers.  ``data_source`` is the name of the task.

Part of every export; verl loads it by ``reward.custom_reward_function``.
"""

from typing import Any

from sppo_lab.tasks import get_task_kind


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> float:
    """1.0 if the task's verifier accepts the response ``solution_str``, else 0.0."""
    (reward,) = get_task_kind(data_source).rewards([solution_str], [ground_truth])
    return reward
