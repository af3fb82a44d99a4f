"""Notebook 04: advantage, ratio, clip and aggregation."""

from collections.abc import Callable

import torch
from torch import Tensor

from sppo_lab.advantage import broadcast_to_tokens, divide_by_group_std, group_mean_advantage, sequence_advantage
from sppo_lab.checks import Exercise, Mistake
from sppo_lab.loss import (
    clipped_high,
    clipped_low,
    clipped_surrogate,
    constant_length_weights,
    probability_ratio,
    sequence_mean_weights,
    token_mean_weights,
)

WIDTH = 6  # positions of the masks drawn here


def named(answers: dict[str, Callable]) -> tuple[Mistake, ...]:
    """Mistakes from what to say to each and the wrong answer itself."""
    return tuple(Mistake(message, answer) for message, answer in answers.items())


def token_advantages(rewards: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """``R - V(s_p)`` on the tokens of each response, (B,), (B,) and (B, T) to (B, T)."""
    return broadcast_to_tokens(sequence_advantage(rewards, values), mask)


def group_advantage(rewards: Tensor, group_size: int) -> Tensor:
    """GRPO's advantage, (B,)."""
    return divide_by_group_std(group_mean_advantage(rewards, group_size), rewards, group_size)


def without_gradient(ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float) -> Tensor:
    """(B, T) True where the clipped surrogate has no gradient."""
    held = clipped_low(ratio, advantages, epsilon) | clipped_high(ratio, advantages, epsilon_high)
    return held | (advantages == 0)


def all_weights(mask: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """token-mean, seq-mean-token-mean and constant length, each (B, T)."""
    return token_mean_weights(mask), sequence_mean_weights(mask), constant_length_weights(mask, limit)


def loss_gradient(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """(B, T) the gradient of the token-mean clipped loss by the log-probabilities, by autograd."""
    logprobs = logprobs.clone().requires_grad_()
    losses = clipped_surrogate(probability_ratio(logprobs, old_logprobs), advantages, epsilon)
    (gradient,) = torch.autograd.grad((losses * token_mean_weights(mask)).sum(), logprobs)
    return gradient


def some_mask(generator: torch.Generator) -> Tensor:
    """(4, WIDTH) 1 on the tokens of responses of random lengths, the first one shorter than the width."""
    lengths = torch.randint(2, WIDTH + 1, (4,), generator=generator)
    lengths[0] = torch.randint(2, WIDTH, (), generator=generator)
    return (torch.arange(WIDTH) < lengths[:, None]).long()


def some_ratios(generator: torch.Generator) -> Tensor:
    """(4, WIDTH) ratios, one in two outside the clip range."""
    return 0.5 + 1.1 * torch.rand(4, WIDTH, generator=generator)


def judged(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and a mask."""
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0])[torch.randperm(4, generator=generator)]
    return rewards, torch.rand(4, generator=generator), some_mask(generator)


def grouped(generator: torch.Generator) -> tuple[Tensor, int]:
    """Three groups of four: one and two right in two of them, and a third one all right or all wrong."""
    mixed = [torch.tensor([1.0] * n + [0.0] * (4 - n))[torch.randperm(4, generator=generator)] for n in (1, 2)]
    equal = torch.randint(0, 2, (1,), generator=generator).float().expand(4)
    return torch.cat([*mixed, equal]), 4


def moved(generator: torch.Generator) -> tuple[Tensor, Tensor, float, float]:
    """Ratios, advantages of which some are 0, and two different bounds."""
    advantages = torch.randn(4, WIDTH, generator=generator)
    return some_ratios(generator), advantages.where(torch.rand(4, WIDTH, generator=generator) < 0.8, 0.0), 0.2, 0.28


def scored(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Log-probabilities now and at sampling, advantages by response and a mask, 0 beyond it as in a batch."""
    mask = some_mask(generator)
    old = -2 * torch.rand(4, WIDTH, generator=generator) * mask
    new = old + some_ratios(generator).log() * mask
    return new, old, broadcast_to_tokens(torch.randn(4, generator=generator), mask), mask, 0.2


def padded(generator: torch.Generator) -> tuple[Tensor, int]:
    """A mask, and a limit that no response reaches."""
    return some_mask(generator), 2 * WIDTH


def by_formula(clip=True, sided=True, ratio=True, padding=False, sign=-1.0):
    """The gradient ``-w r A`` where no clip holds the token, or that with one piece wrong."""

    def answer(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, epsilon: float) -> Tensor:
        r = torch.exp(new - old)
        outside = (r < 1 - epsilon) | (r > 1 + epsilon)
        held = ((r < 1 - epsilon) & (advantages < 0)) | ((r > 1 + epsilon) & (advantages > 0))
        count = mask.numel() if padding else mask.sum()
        gradient = sign * advantages * (r if ratio else 1.0) * mask / count
        return gradient.where(~(held if sided else outside), 0.0) if clip else gradient

    return answer


def scaled_by(center, deviation):
    """GRPO's formula from functions of the groups, (N, G), one of them wrong."""

    def answer(rewards: Tensor, group_size: int) -> Tensor:
        groups = rewards.view(-1, group_size)
        return (center(groups) / (deviation(groups) + 1e-4)).flatten()

    return answer


def centred(groups: Tensor) -> Tensor:
    return groups - groups.mean(1, keepdim=True)


def across(rewards: Tensor, group_size: int) -> Tensor:
    """GRPO's advantage as if the responses to one prompt lay ``B / G`` apart."""
    mixed = rewards.view(group_size, -1).T.flatten()
    return group_advantage(mixed, group_size).view(-1, group_size).T.flatten()


def surrogate_of(loss):
    """A wrong surrogate from a function of ratio, clipped ratio and advantage."""
    return lambda ratio, advantages, low, high: loss(ratio, ratio.clamp(1 - low, 1 + high), advantages)


def weights_with(token=token_mean_weights, sequence=sequence_mean_weights, constant=constant_length_weights):
    """The three rules, with one of them wrong."""
    return lambda mask, limit: (token(mask), sequence(mask), constant(mask, limit))


SPREAD = {  # wrong answers to 04.1
    "the sign is right, but the mask is missing: positions after a response's end get an advantage too": (
        lambda rewards, values, mask: (rewards - values)[:, None].expand(mask.shape)
    ),
    "the mask is right, but the sign is turned round: a reward above V should raise the response": (
        lambda rewards, values, mask: token_advantages(values, rewards, mask)
    ),
    "the advantage is shared out among the tokens of a response: every token gets all of it": (
        lambda rewards, values, mask: (rewards - values)[:, None] * mask / mask.sum(1, keepdim=True)
    ),
    "only the last token got it: the reward arrives there, but the action is the whole response": (
        lambda rewards, values, mask: (
            token_advantages(rewards, values, mask) * (mask.cumsum(1) == mask.sum(1, keepdim=True))
        )
    ),
    "this is the reward alone: what the critic had expected of the prompt is not subtracted": (
        lambda rewards, values, mask: rewards[:, None] * mask
    ),
}
SCALED = {  # wrong answers to 04.2
    "the mean and the deviation are those of the whole batch: each prompt has a group of its own": (
        scaled_by(lambda groups: groups - groups.mean(), lambda groups: groups.std())
    ),
    "the deviation is the population's: a sample of G needs the correction that divides by G - 1": (
        scaled_by(centred, lambda groups: groups.std(1, correction=0, keepdim=True))
    ),
    "it is divided by the variance: the deviation is its root": (
        scaled_by(centred, lambda groups: groups.var(1, keepdim=True))
    ),
    "it is centred but not scaled: that is Dr. GRPO's advantage": group_mean_advantage,
    "the groups are read across the batch: the responses to one prompt lie next to each other": across,
}
STILL = {  # wrong answers to 04.3
    "the ratio is looked at alone: each bound acts for one sign of A only": (
        lambda ratio, a, low, high: (ratio < 1 - low) | (ratio > 1 + high) | (a == 0)
    ),
    "the sides are exchanged: ask in which direction the advantage pushes the ratio": (
        lambda ratio, a, low, high: clipped_low(ratio, -a, low) | clipped_high(ratio, -a, high) | (a == 0)
    ),
    "both clips are right, but a third kind of token is missing: look at A = 0": (
        lambda ratio, a, low, high: clipped_low(ratio, a, low) | clipped_high(ratio, a, high)
    ),
    "the upper bound is 1 + epsilon_high, not 1 + epsilon": (
        lambda ratio, a, low, high: without_gradient(ratio, a, low, low)
    ),
    "this is the opposite: True where there is a gradient": (
        lambda ratio, a, low, high: ~without_gradient(ratio, a, low, high)
    ),
}
CLIPPED = {  # wrong answers to 04.4
    "this is what to maximise: a loss is minimised": (
        surrogate_of(lambda r, clipped, a: torch.min(r * a, clipped * a))
    ),
    "the clipped term is taken everywhere, so a token that went the wrong way cannot come back": (
        surrogate_of(lambda r, clipped, a: -clipped * a)
    ),
    "nothing is clipped": surrogate_of(lambda r, clipped, a: -r * a),
    "of the two terms it takes the larger objective: the surrogate takes the smaller one": (
        surrogate_of(lambda r, clipped, a: -torch.max(r * a, clipped * a))
    ),
    "the minimum is taken of the ratios, before A comes in: for A < 0 that is the wrong one": (
        surrogate_of(lambda r, clipped, a: -torch.min(r, clipped) * a)
    ),
}
WEIGHED = {  # wrong answers to 04.5
    "token-mean divides by all positions: padding is not a token": (
        weights_with(token=lambda mask: mask / mask.numel())
    ),
    "seq-mean-token-mean divides by the width of the batch: each response has its own length": (
        weights_with(sequence=lambda mask: mask / mask.numel())
    ),
    "seq-mean-token-mean is a mean over tokens, but the mean over the responses is missing": (
        weights_with(sequence=lambda mask: mask / mask.sum(1, keepdim=True))
    ),
    "the constant is the longest response of the batch: it must not depend on the batch": (
        weights_with(constant=lambda mask, limit: mask / mask.sum(1).max() / len(mask))
    ),
    "the constant-length rule lacks the mean over the responses": (
        weights_with(constant=lambda mask, limit: mask / limit)
    ),
    "the sizes are right, but the mask is missing: padding weighs something too": (
        lambda mask, limit: tuple(w[:, :1].expand(mask.shape) for w in all_weights(mask, limit))
    ),
}
GRADIENT = {  # wrong answers to 04.6
    "every ratio outside the range gets 0: a clip holds it only on the side that A pushes to": (
        by_formula(sided=False)
    ),
    "the ratio is missing: the derivative of exp(x) by x is exp(x) itself": by_formula(ratio=False),
    "padding is counted in the mean: it is over response tokens": by_formula(padding=True),
    "this is the direction of the step: the gradient of the loss points the other way": by_formula(sign=1.0),
    "nothing is clipped: some of these tokens are where the loss is flat": by_formula(clip=False),
}

EXERCISES: tuple[Exercise, ...] = (
    Exercise("04.1", token_advantages, named(SPREAD), judged, "sequence_advantage and broadcast_to_tokens"),
    # Any small constant beside the deviation will do.
    Exercise(
        "04.2", group_advantage, named(SCALED), grouped, "group_mean_advantage and divide_by_group_std", tolerance=2e-3
    ),
    Exercise("04.3", without_gradient, named(STILL), moved, "clipped_low, clipped_high and A = 0"),
    Exercise("04.4", clipped_surrogate, named(CLIPPED), moved, "clipped_surrogate"),
    Exercise("04.5", all_weights, named(WEIGHED), padded, "the functions in TOKEN_WEIGHTS"),
    Exercise("04.6", loss_gradient, named(GRADIENT), scored, "the gradient that autograd finds"),
)
