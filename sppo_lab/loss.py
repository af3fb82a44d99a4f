"""Losses, composed from small pure functions.

A policy loss is the sum of token losses (B, T) times token weights (B, T).  The weights decide how much a
token of a long response counts, and they are computed once for a whole mini-batch, so that splitting it
into micro-batches changes nothing.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sppo_lab.errors import LabError


def probability_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """``r_t = pi(y_t) / pi_old(y_t)``, (B, T), from the log-probabilities of the same tokens."""
    return torch.exp(logprobs - old_logprobs)


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float | None = None
) -> Tensor:
    """PPO's token losses ``-min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A)``, (B, T).

    ``epsilon_high`` is ``epsilon`` unless given.  Source: arXiv 2604.08865, eq. 3; arXiv 1707.06347, eq. 7.
    """
    ratio = probability_ratio(logprobs, old_logprobs)
    upper = epsilon if epsilon_high is None else epsilon_high
    return -torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + upper) * advantages)


def clipped_low(ratio: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    """(B, T) True where the lower clip holds the loss, so that the token has no gradient: r < 1 - epsilon, A < 0."""
    return (ratio < 1 - epsilon) & (advantages < 0)


def clipped_high(ratio: Tensor, advantages: Tensor, epsilon_high: float) -> Tensor:
    """(B, T) True where the upper clip holds the loss, so that the token has no gradient: r > 1 + epsilon, A > 0."""
    return (ratio > 1 + epsilon_high) & (advantages > 0)


def token_mean_weights(mask: Tensor) -> Tensor:
    """``token-mean``: every token of the batch counts the same, (B, T), summing to 1."""
    return mask / mask.sum()


def sequence_mean_weights(mask: Tensor) -> Tensor:
    """``seq-mean-token-mean``: every response counts the same, its tokens share its weight, (B, T)."""
    return mask / mask.sum(1, keepdim=True) / len(mask)


TOKEN_WEIGHTS = {"token-mean": token_mean_weights, "seq-mean-token-mean": sequence_mean_weights}


def bce_value_loss(logits: Tensor, rewards: Tensor) -> Tensor:
    """The critic's loss, per response (B,): ``BCEWithLogits(logit V(s_p), R)``.

    Raises LabError for a reward outside [0, 1]: V is a probability, and BCE against anything else has no
    minimum.  Source: arXiv 2604.08865, eq. 2.
    """
    if not bool(((rewards >= 0) & (rewards <= 1)).all()):
        raise LabError(
            f"a BCE critic needs rewards in [0, 1], but they run from {rewards.min():g} to {rewards.max():g}. "
            "Rescale the task's rewards, or choose an algorithm without a critic, such as reinforce."
        )
    return binary_cross_entropy_with_logits(logits.float(), rewards.float(), reduction="none")
