"""A contextual bandit small enough to enumerate: the policy gradient and its variance, exactly.

Contexts stand for prompts, actions for whole responses, the reward is 0 or 1.  The policy is a softmax over logits
(C, K), and the logits are its parameters.  Nothing is sampled except in ``simulate``, which is there to be compared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sppo_lab.advantage import (
    divide_by_group_std,
    group_mean_advantage,
    leave_one_out_advantage,
    sequence_advantage,
)

Advantage = Callable[[Tensor, Tensor], Tensor]  # rewards (N, G) and a value per row (N, 1) to advantages (N, G)


@dataclass(frozen=True)
class Estimator:
    """How the rewards of a group of ``group_size`` responses become advantages."""

    name: str
    group_size: int
    advantage: Advantage

    @classmethod
    def of(cls, name: str, group_size: int) -> "Estimator":
        """``sppo`` (with any prompt baseline), ``rloo``, ``dr-grpo`` or ``grpo``, by the package's own functions."""
        return cls(name, group_size, ADVANTAGES[name](group_size))


def _flat(function: Callable[[Tensor, int], Tensor], size: int) -> Advantage:
    return lambda rewards, values: function(rewards.flatten(), size).view_as(rewards)


def _grpo(rewards: Tensor, size: int) -> Tensor:
    return divide_by_group_std(group_mean_advantage(rewards, size), rewards, size)


ADVANTAGES: dict[str, Callable[[int], Advantage]] = {
    "sppo": lambda size: sequence_advantage,
    "rloo": lambda size: _flat(leave_one_out_advantage, size),
    "dr-grpo": lambda size: _flat(group_mean_advantage, size),
    "grpo": lambda size: _flat(_grpo, size),
}


@dataclass(frozen=True)
class Moments:
    """The gradient estimator at a budget of rollouts."""

    mean: Tensor  # (C, K) its expectation
    variance: float  # trace of its covariance
    silent: float  # share of rollouts whose advantage is 0
    second_moment: float  # E[A^2], before any comparison with the gradient

    @property
    def signal_to_noise(self) -> float:
        """``|mean|^2 / trace of the covariance``: unlike the variance it does not change if A is scaled."""
        return float(self.mean.square().sum()) / self.variance if self.variance else float("inf")


@dataclass(frozen=True)
class Bandit:
    """C contexts, equally likely, with K actions each."""

    logits: Tensor  # (C, K)
    rewards: Tensor  # (C, K) 0 or 1

    @classmethod
    def with_solve_rates(cls, solve_rates: Tensor, actions: int = 8) -> "Bandit":
        """Contexts with the given solve rates, (C,): half of the actions are right, equally likely among themselves."""
        p = solve_rates.double().clamp(1e-9, 1 - 1e-9)[:, None]
        right = torch.arange(actions) < actions // 2
        probs = torch.where(right, p / (actions // 2), (1 - p) / (actions - actions // 2))
        return cls(probs.log(), right.double().expand(len(p), actions).clone())

    @property
    def probs(self) -> Tensor:
        """(C, K) pi(a | c)."""
        return self.logits.softmax(1)

    @property
    def solve_rates(self) -> Tensor:
        """(C,) p = P(R = 1 | c)."""
        return (self.probs * self.rewards).sum(1)

    def gradient(self) -> Tensor:
        """(C, K) the exact gradient of the expected reward: ``pi(a | c) (r(c, a) - p(c)) / C``."""
        return self.probs * (self.rewards - self.solve_rates[:, None]) / len(self.logits)

    def moments(self, estimator: Estimator, rollouts: int, values: Tensor | None = None) -> Moments:
        """Mean and variance of the gradient estimate from ``rollouts / G`` contexts with G actions each, exactly.

        ``values`` (C,) is the baseline of each context, the true solve rate unless given.  Rewards are binary, so
        given the number s of successes in a group the advantages are two numbers, A+ and A-, and the actions are
        independent given their rewards.  The sum over s is then all there is to enumerate.
        """
        size = estimator.group_size
        p = self.solve_rates
        values = (p if values is None else values.to(p))[:, None]
        right = self._score_given(self.rewards)  # mean score function (C, K) and mean squared length (C,)
        wrong = self._score_given(1 - self.rewards)
        successes = torch.arange(size + 1).to(p)[:, None]  # s, (G + 1, 1); everything below is (G + 1, C)
        failures = size - successes
        chance = binomial_probabilities(size, p)
        outcomes = (torch.arange(size) < successes).to(p).repeat_interleave(len(p), 0)  # rewards, (S C, G)
        advantages = estimator.advantage(outcomes, values.repeat(size + 1, 1))
        plus = (advantages[:, 0].view(size + 1, -1) * (successes > 0)).to(p)
        minus = (advantages[:, -1].view(size + 1, -1) * (failures > 0)).to(p)

        mean = (chance * plus * successes).sum(0)[:, None] * right[0]
        mean = (mean + (chance * minus * failures).sum(0)[:, None] * wrong[0]) / (size * len(p))
        square = (
            plus**2 * (successes * right[1] + successes * (successes - 1) * right[0].square().sum(1))
            + minus**2 * (failures * wrong[1] + failures * (failures - 1) * wrong[0].square().sum(1))
            + 2 * plus * minus * successes * failures * (right[0] * wrong[0]).sum(1)
        ) / size**2
        variance = ((chance * square).sum(0).mean() - mean.square().sum()) / (rollouts / size)
        second = chance * (successes * plus**2 + failures * minus**2) / size
        silent = chance * (successes * (plus == 0) + failures * (minus == 0)) / size
        return Moments(mean, float(variance), float(silent.sum(0).mean()), float(second.sum(0).mean()))

    def _score_given(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the score function over the chosen actions, (C, K), and mean of its squared length, (C,).

        The score function of action a is ``e_a - pi``, whose squared length is ``1 - 2 pi(a) + |pi|^2``.
        """
        weights = self.probs * chosen
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-300)
        length = 1 - 2 * self.probs + self.probs.square().sum(1, keepdim=True)
        return weights - self.probs * weights.sum(1, keepdim=True), (weights * length).sum(1)

    def simulate(
        self,
        estimator: Estimator,
        rollouts: int,
        repeats: int,
        generator: torch.Generator,
        values: Tensor | None = None,
    ) -> Tensor:
        """(repeats, C, K) gradient estimates, each from ``rollouts`` sampled actions."""
        size = estimator.group_size
        values = self.solve_rates if values is None else values.to(self.solve_rates)
        groups = repeats * rollouts // size
        contexts = torch.randint(len(self.logits), (groups,), generator=generator)
        actions = torch.multinomial(self.probs[contexts], size, replacement=True, generator=generator)
        rewards = self.rewards[contexts].gather(1, actions)
        advantages = estimator.advantage(rewards, values[contexts][:, None]) / size
        gradient = torch.zeros(groups, self.logits.shape[1], dtype=self.logits.dtype)
        gradient.scatter_add_(1, actions, advantages)
        gradient -= advantages.sum(1, keepdim=True) * self.probs[contexts]
        found = torch.zeros(repeats, *self.logits.shape, dtype=self.logits.dtype)
        batch = torch.arange(groups) // (rollouts // size)
        found.index_put_((batch, contexts), gradient / (rollouts // size), accumulate=True)
        return found


def binomial_probabilities(n: int, p: Tensor) -> Tensor:
    """Chance of 0 to n successes in n trials, (n + 1, C), for each success rate p (C,)."""
    s = torch.arange(n + 1).to(p)[:, None]
    ways = torch.lgamma(torch.tensor(n + 1.0).to(p)) - torch.lgamma(s + 1) - torch.lgamma(n - s + 1)
    return torch.exp(ways + torch.xlogy(s, p) + torch.xlogy(n - s, 1 - p))
