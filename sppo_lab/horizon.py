"""A response of T tokens small enough to enumerate: token-level credit and the sequence advantage, exactly.

Each token is right or wrong.  The reward is 1 if at least ``needed`` of the tokens that decide are right, paid at the
end.  The policy has one logit per place: token t is right with chance q_t whatever was written before, and its score
function is ``x_t - q_t``.  The state before a token is ``c``, how many deciding tokens were right so far.  A critic is
a table (T + 1, T + 1): ``critic[t, c]`` is what it says after t tokens.  Nothing is sampled except in ``simulate``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from sppo_lab.advantage import generalized_advantage
from sppo_lab.errors import LabError

LONGEST_ENUMERATION = 16  # tokens; 2 ** 16 responses


@dataclass(frozen=True)
class TokenMoments:
    """The gradient estimate ``(x_t - q_t) A_t`` of one response: its mean and its variance, place by place."""

    mean: Tensor  # (T,), or (D, T) for D critics
    variance: Tensor  # like mean; their sum over places is the trace of the covariance

    @property
    def noise_to_signal(self) -> Tensor:
        """Trace of the covariance over the squared length of the mean, (); free of the scale of A."""
        return self.variance.sum(-1) / self.mean.square().sum(-1)

    def cosine(self, truth: Tensor) -> Tensor:
        """Between the mean and the true gradient (T,): 1 where the estimator has no bias but a factor."""
        return torch.cosine_similarity(self.mean, truth, dim=-1)

    def error_left(self, truth: Tensor, rollouts: int) -> Tensor:
        """What a mean over ``rollouts`` responses misses of the true gradient (T,), after the best scaling; 0 to 1.

        ``min_k E|k g - truth|^2 / |truth|^2 = 1 - (E g . truth)^2 / (|truth|^2 E|g|^2)``: least squares in k.
        """
        square = self.mean.square().sum(-1) + self.variance.sum(-1) / rollouts  # E|g|^2
        return 1 - (self.mean * truth).sum(-1).square() / truth.square().sum() / square


@dataclass(frozen=True)
class TokenTask:
    """T tokens, each right or wrong, and what of them the reward asks for."""

    right: Tensor  # (T,) chance q_t that token t is right
    decides: Tensor  # (T,) 1 where the reward depends on the token, else 0
    needed: int  # how many of the tokens that decide must be right

    @classmethod
    def all_right(cls, length: int, solve_rate: float = 0.5) -> "TokenTask":
        """Every token must be right, as in a chain of steps; the solve rate is the same for every length."""
        return cls(torch.full((length,), solve_rate ** (1 / length)).double(), torch.ones(length), length)

    @classmethod
    def most_right(cls, length: int, chance: float = 0.5) -> "TokenTask":
        """More than half of the tokens must be right."""
        return cls(torch.full((length,), chance).double(), torch.ones(length), length // 2 + 1)

    @classmethod
    def first_right(cls, length: int, chance: float = 0.5) -> "TokenTask":
        """The first token decides; the others are right or wrong without effect."""
        return cls(torch.full((length,), chance).double(), (torch.arange(length) == 0).float(), 1)

    @property
    def length(self) -> int:
        """T."""
        return len(self.right)

    @property
    def solve_rate(self) -> float:
        """``p = P(R = 1 | s_p)``."""
        return float(self.values()[0, 0])

    def responses(self) -> Tensor:
        """(2^T, T) every response, 1 where a token is right.  Raises LabError for more than 16 tokens."""
        if self.length > LONGEST_ENUMERATION:
            raise LabError(f"{self.length} tokens make too many responses to list; moments() needs no list.")
        return torch.tensor(list(product((1.0, 0.0), repeat=self.length))).double()

    def chances(self, responses: Tensor) -> Tensor:
        """(N,) the probability of each response (N, T): the product of its tokens' probabilities."""
        return torch.where(responses == 1, self.right, 1 - self.right).prod(1)

    def rewards(self, responses: Tensor) -> Tensor:
        """(N,) 0 or 1 for responses (N, T)."""
        return ((responses * self.decides).sum(1) >= self.needed).double()

    def gradients(self, responses: Tensor, critic: Tensor, gamma: float, lam: float) -> Tensor:
        """(N, T) the gradient estimate of each response, with GAE by ``advantage.generalized_advantage``."""
        written = responses * self.decides
        before = (written.cumsum(1) - written).long()  # c before each token
        values = critic[torch.arange(self.length), before]
        advantages = generalized_advantage(
            self.rewards(responses), values, torch.ones_like(responses), gamma=gamma, lam=lam
        )
        return (responses - self.right) * advantages

    def enumerated(self, critic: Tensor, gamma: float, lam: float) -> TokenMoments:
        """Mean and variance from all 2^T responses, each with its chance; what ``moments`` computes without a list."""
        responses = self.responses()
        gradients, chances = self.gradients(responses, critic, gamma, lam), self.chances(responses)[:, None]
        mean = (chances * gradients).sum(0)
        return TokenMoments(mean, (chances * gradients.square()).sum(0) - mean.square())

    def simulate(self, critic: Tensor, gamma: float, lam: float, rollouts: int, generator: torch.Generator) -> Tensor:
        """(rollouts, T) gradient estimates of sampled responses."""
        drawn = torch.rand(rollouts, self.length, generator=generator, dtype=torch.double)
        return self.gradients((drawn < self.right).double(), critic, gamma, lam)

    def after(self, table: Tensor, t: int, right: int) -> Tensor:
        """Entries (..., T + 1) of the state that follows c if token t is right (1) or wrong (0)."""
        states = torch.arange(self.length + 1) + right * int(self.decides[t])
        return table[..., states.clamp(max=self.length)]

    def values(self) -> Tensor:
        """(T + 1, T + 1) ``V(s_t)``, the chance of a right response after t tokens with c right: backward induction.

        The last row is the reward.  Source: Bellman's equation, Sutton and Barto, Reinforcement Learning, eq. 3.14.
        """
        table = torch.zeros(self.length + 1, self.length + 1).double()
        table[-1] = torch.arange(self.length + 1) >= self.needed
        for t in reversed(range(self.length)):
            q = self.right[t]
            table[t] = q * self.after(table[t + 1], t, 1) + (1 - q) * self.after(table[t + 1], t, 0)
        return table

    def occupancy(self) -> Tensor:
        """(T + 1, T + 1) the chance that c of the first t tokens that decide are right; rows sum to 1."""
        table = torch.zeros(self.length + 1, self.length + 1).double()
        table[0, 0] = 1
        for t in range(self.length):
            q = self.right[t] * self.decides[t]
            table[t + 1] = (1 - q) * table[t]
            table[t + 1, 1:] += q * table[t, :-1]
        return table

    def gradient(self) -> Tensor:
        """(T,) the exact gradient of the solve rate by the logits: ``q_t (1 - q_t)`` times what token t is worth."""
        values, chances = self.values(), self.occupancy()
        gains = [self.after(values[t + 1], t, 1) - self.after(values[t + 1], t, 0) for t in range(self.length)]
        return self.right * (1 - self.right) * (chances[:-1] * torch.stack(gains)).sum(1)

    def moments(self, critic: Tensor, gamma: float = 1.0, lam: float = 1.0) -> TokenMoments:
        """Mean and variance of the gradient estimate of one response, exactly, in T^2 steps instead of 2^T.

        GAE is ``A_t = delta_t + gamma lam A_t+1``.  Given the state and token t, delta_t is one number, so that the
        mean and the second moment of A_t follow from those of A_t+1, from the last token backward.  A critic may
        be a stack (D, T + 1, T + 1); then the moments are (D, T).
        """
        chances, final = self.occupancy(), self.values()[-1]
        mean = square = torch.zeros_like(critic[..., 0, :])  # E[A_t+1 | c] and E[A_t+1^2 | c]
        means, seconds = [], []
        for t in reversed(range(self.length)):
            q, last = self.right[t], t == self.length - 1
            target = final if last else gamma * critic[..., t + 1, :]  # V after the end is 0
            outcomes = []
            for right in (1, 0):
                delta = self.after(target, t, right) - critic[..., t, :]
                rest, rest_square = self.after(mean, t, right), self.after(square, t, right)
                both = delta + gamma * lam * rest
                outcomes.append((both, delta * (2 * both - delta) + (gamma * lam) ** 2 * rest_square))
            (up, up_square), (down, down_square) = outcomes
            means.append(q * (1 - q) * (chances[t] * (up - down)).sum(-1))
            length = q * (1 - q) * ((1 - q) * up_square + q * down_square)  # E[(x - q)^2 A^2 | c]
            seconds.append((chances[t] * length).sum(-1))
            mean, square = q * up + (1 - q) * down, q * up_square + (1 - q) * down_square
        found = torch.stack(means[::-1], -1)
        return TokenMoments(found, torch.stack(seconds[::-1], -1) - found.square())


def prompt_critic(task: TokenTask, value: float | None = None) -> Tensor:
    """(T + 1, T + 1) one number in every state, the solve rate unless given.

    With it and ``gamma = lam = 1``, GAE is the sequence advantage ``R - V(s_p)`` at every token.
    """
    return torch.full_like(task.values(), task.solve_rate if value is None else value)


def late_critic(task: TokenTask, share: float) -> Tensor:
    """(T + 1, T + 1) the solve rate until ``share`` of the response is written, the true value from then on."""
    blind = torch.arange(task.length + 1)[:, None] < share * task.length
    return torch.where(blind, prompt_critic(task), task.values())


def noisy_critics(task: TokenTask, error: float, count: int, generator: torch.Generator) -> Tensor:
    """(count, T + 1, T + 1) the true value off by ``error`` in every state, up or down by the toss of a coin."""
    coins = torch.randint(2, (count, *task.values().shape), generator=generator)
    return task.values() + error * (2 * coins - 1)


@dataclass(frozen=True)
class TokenEstimator:
    """A critic with the settings of GAE, under a name for figures and tables."""

    name: str
    critic: Callable[[TokenTask], Tensor] = prompt_critic  # its table for a task of any length
    gamma: float = 1.0
    lam: float = 1.0

    def moments(self, task: TokenTask) -> TokenMoments:
        """Exact mean and variance of the gradient estimate."""
        return task.moments(self.critic(task), self.gamma, self.lam)
