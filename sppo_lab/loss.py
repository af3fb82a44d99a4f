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


def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """GSPO's ratio, ``(pi(y) / pi_old(y)) ** (1 / |y|)``, the same for every token of a response, (B, T).

    Source: arXiv 2507.18071, eq. 7.
    """
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    mean = ((logprobs - old_logprobs) * mask).sum(1, keepdim=True) / lengths
    return torch.exp(mean).expand_as(logprobs)


def clipped_surrogate(
    ratio: Tensor,
    advantages: Tensor,
    epsilon: float,
    epsilon_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's token losses ``-min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A)``, (B, T).

    ``epsilon_high`` is ``epsilon`` unless given.  ``dual_clip`` bounds the loss at ``-dual_clip A`` where A < 0,
    however large the ratio.  Source: arXiv 2604.08865, eq. 3; arXiv 1707.06347, eq. 7; arXiv 1912.09729, eq. 5.
    """
    upper = epsilon if epsilon_high is None else epsilon_high
    losses = -torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + upper) * advantages)
    if dual_clip is not None:
        losses = torch.where(advantages < 0, torch.min(losses, -dual_clip * advantages), losses)
    return losses


def clipped_low(ratio: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    """(B, T) True where the lower clip holds the loss, so that the token has no gradient: r < 1 - epsilon, A < 0."""
    return (ratio < 1 - epsilon) & (advantages < 0)


def clipped_high(ratio: Tensor, advantages: Tensor, epsilon_high: float) -> Tensor:
    """(B, T) True where the upper clip holds the loss, so that the token has no gradient: r > 1 + epsilon, A > 0."""
    return (ratio > 1 + epsilon_high) & (advantages > 0)


def kl_k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """``log pi - log pi_ref`` of the sampled tokens, (B, T): unbiased for the KL divergence, and often negative."""
    return logprobs - reference


def kl_k2(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Half the square of k1, (B, T): biased, never negative; its gradient is the KL divergence's."""
    return 0.5 * (logprobs - reference).square()


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """``x - 1 - log x`` with ``x = pi_ref / pi``, (B, T): unbiased and never negative.

    Source: J. Schulman, "Approximating KL Divergence", 2020; arXiv 2402.03300, eq. 4.
    """
    return torch.exp(reference - logprobs) - 1 - (reference - logprobs)


KL_ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def token_mean_weights(mask: Tensor, limit: int = 0) -> Tensor:
    """``token-mean``: every token of the batch counts the same, (B, T), summing to 1."""
    return mask / mask.sum().clamp(min=1)


def sequence_mean_weights(mask: Tensor, limit: int = 0) -> Tensor:
    """``seq-mean-token-mean`` (GRPO): every response counts the same, its tokens share its weight, (B, T)."""
    return mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)


def sequence_sum_weights(mask: Tensor, limit: int = 0) -> Tensor:
    """``seq-mean-token-sum``: the sum over a response's tokens, mean over responses, (B, T)."""
    return mask / len(mask)


def constant_length_weights(mask: Tensor, limit: int) -> Tensor:
    """``seq-mean-token-sum-norm`` (Dr. GRPO): every token weighs ``1 / (B limit)``, (B, T)."""
    return mask / (len(mask) * limit)


TOKEN_WEIGHTS = {
    "token-mean": token_mean_weights,
    "seq-mean-token-mean": sequence_mean_weights,
    "seq-mean-token-sum": sequence_sum_weights,
    "seq-mean-token-sum-norm": constant_length_weights,
}


def bce_value_loss(logits: Tensor, rewards: Tensor) -> Tensor:
    """The critic's loss, elementwise: ``BCEWithLogits(logit V, R)``, in the shape of both.

    Raises LabError for a reward outside [0, 1]: V is a probability, and BCE against anything else has no
    minimum.  Source: arXiv 2604.08865, eq. 2.
    """
    if not bool(((rewards >= 0) & (rewards <= 1)).all()):
        raise LabError(
            f"a BCE critic needs rewards in [0, 1], but they run from {rewards.min():g} to {rewards.max():g}. "
            "Rescale the task's rewards, or choose an algorithm without a critic, such as reinforce."
        )
    return binary_cross_entropy_with_logits(logits.float(), rewards.float(), reduction="none")


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """PPO's critic loss, elementwise: half the larger squared error of V and of V kept near its old value.

    Source: the implementation of arXiv 1707.06347 in OpenAI baselines; verl's ``compute_value_loss``.
    """
    kept = torch.min(torch.max(values, old_values - clip), old_values + clip)
    return 0.5 * torch.max((values - returns).square(), (kept - returns).square())
