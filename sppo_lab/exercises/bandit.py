"""Exercises of notebook 01, the bandit reformulation."""

import torch
from torch import Tensor

from sppo_lab.checks import Exercise, Mistake
from sppo_lab.horizon import TokenTask


def draw_logprobs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(3, 5) log-probabilities and a mask of responses of 2 to 5 tokens."""
    logprobs = -torch.rand(3, 5, generator=generator)
    lengths = torch.randint(2, 5, (3,), generator=generator)
    return logprobs, (torch.arange(5) < lengths[:, None]).float()


RESPONSE = Exercise(
    "01.1",
    lambda logprobs, mask: (logprobs * mask).sum(1),
    (
        Mistake("the tokens after the end count too; the mask is 0 there", lambda lp, m: lp.sum(1)),
        Mistake(
            "that is the mean of a token, and a response that is twice as long comes out no less likely",
            lambda lp, m: (lp * m).sum(1) / m.sum(1),
        ),
        Mistake("that is the probability; the question is for its logarithm", lambda lp, m: (lp * m).sum(1).exp()),
        Mistake(
            "it is the probabilities that are multiplied, not their logarithms",
            lambda lp, m: torch.where(m == 1, lp, 1.0).prod(1),
        ),
    ),
    draw_logprobs,
)


def draw_baselines(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(4,) probabilities and (4,) baselines that differ from action to action."""
    return torch.randn(4, generator=generator).softmax(0), torch.rand(4, generator=generator)


BASELINE = Exercise(
    "01.2",
    lambda probs, baselines: probs * (baselines - (probs * baselines).sum()),
    (
        Mistake(
            "the score function has two parts, e_a - pi: one of them is missing",
            lambda probs, baselines: probs * baselines,
        ),
        Mistake(
            "an expectation weighs each action by how likely the policy takes it; every action weighs the same here",
            lambda probs, baselines: baselines - probs * baselines.sum(),
        ),
        Mistake("the sign is turned round", lambda probs, baselines: probs * ((probs * baselines).sum() - baselines)),
        Mistake(
            "zero is right when every action has the same baseline; here it may differ from action to action",
            lambda probs, baselines: torch.zeros_like(probs),
        ),
        Mistake(
            "what is subtracted is a plain mean of the baselines, as if all actions were equally likely",
            lambda probs, baselines: probs * (baselines - baselines.mean()),
        ),
    ),
    draw_baselines,
)


def credit_left(length: int, lam: float) -> Tensor:
    """(T,) ``lambda^(T - t)`` for t = 1 to T: GAE over R - V(s_p) where the critic always says V(s_p), gamma 1."""
    return lam ** torch.arange(length - 1, -1, -1).double()


def draw_lambda(generator: torch.Generator) -> tuple[int, float]:
    """3 to 8 tokens, lambda between 0.5 and 0.9."""
    return int(torch.randint(3, 9, (), generator=generator)), 0.5 + 0.4 * float(torch.rand((), generator=generator))


CREDIT = Exercise(
    "01.4",
    credit_left,
    (
        Mistake(
            "the wrong end: the reward is paid after the last token, and travels backward from there",
            lambda length, lam: credit_left(length, lam).flip(0),
        ),
        Mistake(
            "one power of lambda too many: the last token is next to the reward",
            lambda length, lam: lam * credit_left(length, lam),
        ),
        Mistake(
            "those are the weights of GAE's mixture of n-step advantages; write down A_T first, then A_T-1",
            lambda length, lam: (1 - lam) * credit_left(length, lam),
        ),
        Mistake(
            "that is lambda = 1; count how often the last delta is multiplied by lambda on its way to token t",
            lambda length, lam: torch.ones(length).double(),
        ),
    ),
    draw_lambda,
)


def td_errors(rewards: Tensor, values: Tensor, gamma: float) -> Tensor:
    """(B,) rewards at the end and (B, T) values before each token to the errors delta_t (B, T)."""
    following = torch.cat([gamma * values[:, 1:], rewards[:, None]], 1)
    return following - values


def draw_values(generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Three responses of 5 tokens, at least one of them right; gamma between 0.5 and 0.9."""
    rewards = torch.cat([torch.ones(1), torch.randint(2, (2,), generator=generator).float()])
    return rewards, torch.rand(3, 5, generator=generator), 0.5 + 0.4 * float(torch.rand((), generator=generator))


def _with_last(rewards: Tensor, values: Tensor, gamma: float, last: Tensor) -> Tensor:
    """The errors with something else, (B,), added to the last one."""
    errors = td_errors(rewards, values, gamma)
    errors[:, -1] += last
    return errors


ERRORS = Exercise(
    "01.3",
    td_errors,
    (
        Mistake(
            "after the last token there is no state left to expect anything from, not even the first one again",
            lambda rewards, values, gamma: _with_last(rewards, values, gamma, gamma * values[:, 0]),
        ),
        Mistake(
            "the last token expects its own value once more, but after the end nothing is left to expect",
            lambda rewards, values, gamma: _with_last(rewards, values, gamma, gamma * values[:, -1]),
        ),
        Mistake("the reward is missing: it is paid at the last token", lambda r, v, g: _with_last(r, v, g, -r)),
        Mistake(
            "every token got the reward; it is paid once, at the last token",
            lambda r, v, g: td_errors(r, v, g) + r[:, None] * (torch.arange(v.shape[1]) < v.shape[1] - 1),
        ),
        Mistake("gamma is not in it", lambda r, v, g: td_errors(r, v, 1.0)),
        Mistake(
            "gamma discounts what comes later, V(s_t+1), not V(s_t)",
            lambda r, v, g: torch.cat([v[:, 1:], r[:, None]], 1) - g * v,
        ),
        Mistake("the sign is turned round", lambda r, v, g: -td_errors(r, v, g)),
    ),
    draw_values,
)


def value_table(right: Tensor, needed: int) -> Tensor:
    """(T,) chances to (T + 1, T + 1): V after t tokens with c of them right, 0 where c > t; every token counts."""
    return TokenTask(right, torch.ones_like(right), needed).values().tril()


def draw_chances(generator: torch.Generator) -> tuple[Tensor, int]:
    """(4,) chances and how many tokens must be right, 2 or 3."""
    return torch.rand(4, generator=generator).double(), int(torch.randint(2, 4, (), generator=generator))


VALUES = Exercise(
    "01.5",
    value_table,
    (
        Mistake(
            "right and wrong are swapped: c grows where a token is right",
            lambda right, needed: value_table(1 - right, needed),
        ),
        Mistake(
            "with exactly `needed` tokens right the reward is 1 already",
            lambda right, needed: value_table(right, needed + 1),
        ),
        Mistake(
            "the places are off by one: after t tokens comes the token whose chance is right[t]",
            lambda right, needed: value_table(right.roll(1), needed),
        ),
        Mistake(
            "states with c > t do not exist: leave them 0",
            lambda right, needed: TokenTask(right, torch.ones_like(right), needed).values(),
        ),
        Mistake(
            "only the last row is filled: step backward from it, row by row",
            lambda right, needed: value_table(right, needed) * (torch.arange(len(right) + 1) == len(right))[:, None],
        ),
    ),
    draw_chances,
    piece="sppo_lab.horizon.TokenTask.values",
)

EXERCISES = (RESPONSE, BASELINE, ERRORS, CREDIT, VALUES)
