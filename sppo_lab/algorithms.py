"""The algorithms as data: a row says what is sampled, what the reward is compared with and how the advantage is formed.

A new algorithm is a new row, and where needed one pure function in ``advantage.py`` or ``loss.py``; the loop in
``trainer.py`` does not change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sppo_lab.advantage import (
    batch_mean_advantage,
    broadcast_to_tokens,
    divide_by_group_std,
    generalized_advantage,
    greedy_advantage,
    group_mean_advantage,
    leave_one_out_advantage,
    sequence_advantage,
    stepwise_advantage,
    whiten,
)
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.rollout import Rollouts

UNSET = {  # what a field of Config that was left to the algorithm is, unless its row says otherwise
    "group_size": 1,
    "filter_groups": False,
    "overlong_buffer": 0.0,
    "advantage_scale": "none",
    "prune": 0.0,
    "aggregation": "token-mean",
}


@dataclass(frozen=True)
class Algorithm:
    """One row of the table."""

    name: str
    summary: str
    advantage: Callable[[Rollouts, Config], Tensor]  # a judged batch to (B,) or (B, T), before scaling
    baseline: Literal["none", "prompt", "token", "token-bce", "tracker", "probe"] = "none"
    small_critic: bool = False  # the critic's backbone is smaller than the policy
    greedy_baseline: bool = False  # a greedy response to each prompt is sampled as well
    stepwise: bool = False  # an action is a reasoning step instead of a token
    min_group_size: int = 1  # fewer responses per prompt make the advantage meaningless
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of Config, where the user leaves them open

    @property
    def has_critic(self) -> bool:
        """Whether its baseline is a critic, of prompts or of tokens."""
        return self.baseline in ("prompt", "token", "token-bce")

    def fill(self, config: Config) -> Config:
        """The configuration with every field that was left to the algorithm set."""
        own = UNSET | dict(self.settings)
        return config.replace(**{name: value for name, value in own.items() if getattr(config, name) is None})


def _gae(batch: Rollouts, config: Config) -> Tensor:
    return generalized_advantage(batch.scores, batch.values, batch.response_mask, config.gamma, config.gae_lambda)


def _stepwise(batch: Rollouts, config: Config) -> Tensor:
    return stepwise_advantage(
        batch.scores, batch.values, batch.action_starts, batch.response_mask, config.gamma, config.gae_lambda
    )


def _group(batch: Rollouts, config: Config) -> Tensor:
    return group_mean_advantage(batch.scores, config.group_size)


def _sequence(batch: Rollouts, config: Config) -> Tensor:
    return sequence_advantage(batch.scores, batch.values)


ROWS = (
    Algorithm(
        "sppo",
        "one response per prompt, baseline V(s_p) from a critic as large as the policy",
        _sequence,
        baseline="prompt",
    ),
    Algorithm(
        "sppo-small-critic",
        "SPPO whose critic has a smaller backbone than the policy",
        _sequence,
        baseline="prompt",
        small_critic=True,
    ),
    Algorithm(
        "ppo",
        "a critic of every token, generalized advantage estimation, whitened",
        _gae,
        baseline="token",
        settings={"advantage_scale": "whiten"},
    ),
    Algorithm(
        "ppo-bce",
        "PPO whose critic learns by cross-entropy, as SPPO's does",
        _gae,
        baseline="token-bce",
        settings={"advantage_scale": "whiten"},
    ),
    Algorithm(
        "reinforce",
        "no critic: the baseline is the mean reward of the batch",
        lambda batch, config: batch_mean_advantage(batch.scores),
    ),
    Algorithm(
        "remax",
        "no critic: the baseline is the reward of the greedy response",
        lambda batch, config: greedy_advantage(batch.scores, batch.greedy_rewards),
        greedy_baseline=True,
    ),
    Algorithm(
        "rloo",
        "no critic: the baseline is the mean of the other responses to the prompt",
        lambda batch, config: leave_one_out_advantage(batch.scores, config.group_size),
        min_group_size=2,
        settings={"group_size": 8},
    ),
    Algorithm(
        "grpo",
        "the group's mean is the baseline, its standard deviation the scale",
        _group,
        min_group_size=2,
        settings={"group_size": 8, "advantage_scale": "group", "aggregation": "seq-mean-token-mean"},
    ),
    Algorithm(
        "dr-grpo",
        "GRPO without its two divisions, by the deviation and by the length",
        _group,
        min_group_size=2,
        settings={"group_size": 8, "aggregation": "seq-mean-token-sum-norm"},
    ),
    Algorithm(
        "dapo",
        "GRPO with clip-higher, groups without signal replaced, long responses penalised",
        _group,
        min_group_size=2,
        settings={
            "group_size": 8,
            "advantage_scale": "group",
            "filter_groups": True,
            "epsilon_high": 0.28,
            "overlong_buffer": 0.2,
        },
    ),
    Algorithm(
        "cppo",
        "GRPO that updates on the half of each group with the largest advantages",
        _group,
        min_group_size=2,
        settings={
            "group_size": 8,
            "advantage_scale": "group",
            "aggregation": "seq-mean-token-mean",
            "prune": 0.5,
        },
    ),
    Algorithm(
        "spo",
        "one response per prompt, baseline from a tracker of each prompt's solve rate, whitened",
        _sequence,
        baseline="tracker",
        settings={"advantage_scale": "whiten"},
    ),
    Algorithm(
        "poise",
        "baseline from a linear probe on the policy's own hidden states of the other response",
        _sequence,
        baseline="probe",
        min_group_size=2,
        settings={"group_size": 2},
    ),
    Algorithm(
        "steppo",
        "PPO over reasoning steps instead of tokens",
        _stepwise,
        baseline="token",
        stepwise=True,
        settings={"advantage_scale": "whiten"},
    ),
)
ALGORITHMS = {row.name: row for row in ROWS}


def get_algorithm(name: str) -> Algorithm:
    """The row of that name; an unknown one raises LabError."""
    if name not in ALGORITHMS:
        raise LabError(f"unknown algorithm {name!r}: choose one of {', '.join(ALGORITHMS)}.")
    return ALGORITHMS[name]


def at_equal_rollouts(config: Config) -> Config:
    """As many responses per step as ``sppo`` samples: a method that samples several per prompt gets fewer prompts.

    Raises LabError where ``prompts_per_step`` cannot be shared evenly.
    """
    row = get_algorithm(config.algorithm)
    per_prompt = row.fill(config).group_size + row.greedy_baseline
    if config.prompts_per_step % per_prompt:
        raise LabError(
            f"prompts_per_step = {config.prompts_per_step} rollouts cannot be shared by {per_prompt} per prompt "
            f"({config.algorithm}): choose a multiple."
        )
    return config.replace(prompts_per_step=config.prompts_per_step // per_prompt)


def scaled_advantages(raw: Tensor, batch: Rollouts, config: Config) -> tuple[Tensor, Tensor]:
    """An algorithm's advantage, (B,) or (B, T), as (B, T) before scaling and as (B, T) for the loss."""
    mask = batch.response_mask
    scaled = raw
    if config.advantage_scale == "group":
        scaled = divide_by_group_std(raw, batch.scores, config.group_size)
    elif config.advantage_scale == "whiten":
        scaled = whiten(raw, mask if raw.dim() == 2 else torch.ones_like(raw))
    before, after = (a if a.dim() == 2 else broadcast_to_tokens(a, mask) for a in (raw, scaled))
    return before, after
