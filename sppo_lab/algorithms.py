"""The algorithms as data: a row says what is sampled, which critic is used and how the advantage is formed.

A new algorithm is a new row, and where needed one pure function in ``advantage.py`` or ``loss.py``; the loop in
``trainer.py`` does not change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sppo_lab.advantage import batch_mean_advantage, sequence_advantage
from sppo_lab.errors import LabError
from sppo_lab.rollout import Rollouts


@dataclass(frozen=True)
class Algorithm:
    """One row of the table."""

    name: str
    summary: str
    advantage: Callable[[Rollouts], Tensor]  # rewards, values and groups of the batch to (B,)
    critic: Literal["none", "prompt"] = "none"
    small_critic: bool = False  # the critic's backbone is smaller than the policy
    group_size: int = 1  # responses per prompt, unless the configuration says otherwise
    min_group_size: int = 1  # fewer make the advantage meaningless
    aggregation: str = "token-mean"  # a key of loss.TOKEN_WEIGHTS


ALGORITHMS = {
    row.name: row
    for row in (
        Algorithm(
            name="sppo",
            summary="one response per prompt, baseline V(s_p) from a critic as large as the policy",
            critic="prompt",
            advantage=lambda batch: sequence_advantage(batch.rewards, batch.values),
        ),
        Algorithm(
            name="sppo-small-critic",
            summary="SPPO whose critic has a smaller backbone than the policy",
            critic="prompt",
            small_critic=True,
            advantage=lambda batch: sequence_advantage(batch.rewards, batch.values),
        ),
        Algorithm(
            name="reinforce",
            summary="no critic: the baseline is the mean reward of the batch",
            advantage=lambda batch: batch_mean_advantage(batch.rewards),
        ),
    )
}


def get_algorithm(name: str) -> Algorithm:
    """The row of that name; an unknown one raises LabError."""
    if name not in ALGORITHMS:
        raise LabError(f"unknown algorithm {name!r}: choose one of {', '.join(ALGORITHMS)}.")
    return ALGORITHMS[name]
