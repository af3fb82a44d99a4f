"""Advantage estimators: one pure function each, tensors in, tensor out.

Rewards R and values V(s_p) are (B,), one number per response.  The responses to one prompt lie together, G of
them.  A sequence advantage is (B,); ``broadcast_to_tokens`` gives every token of a response the same number.
A token advantage is (B, T).  Scaling comes after, in functions of its own, because it hides what the estimator did.
"""

import torch
from torch import Tensor

GROUP_STD_EPSILON = 1e-4  # TRL's; verl adds 1e-6


def sequence_advantage(rewards: Tensor, values: Tensor) -> Tensor:
    """SPPO: ``A = R - V(s_p)``, (B,).  ``values`` must come from the critic before its update.

    Source: arXiv 2604.08865, eq. 1.
    """
    return rewards - values


def batch_mean_advantage(rewards: Tensor) -> Tensor:
    """REINFORCE with the batch mean as its baseline: ``A = R - mean(R)``, (B,)."""
    return rewards - rewards.mean()


def group_mean_advantage(rewards: Tensor, group_size: int) -> Tensor:
    """Dr. GRPO, and GRPO before scaling: ``A = r_i - m`` with m the mean of the group, (B,).

    Source: arXiv 2503.20783, section 3.2; arXiv 2402.03300, section 4.1.2.
    """
    groups = rewards.view(-1, group_size)
    return (groups - groups.mean(1, keepdim=True)).flatten()


def leave_one_out_advantage(rewards: Tensor, group_size: int) -> Tensor:
    """RLOO: each reward minus the mean of the *others* of its group, ``G / (G - 1) (r_i - m)``, (B,).

    Source: arXiv 2402.14740, eq. 8.
    """
    return group_mean_advantage(rewards, group_size) * group_size / (group_size - 1)


def greedy_advantage(rewards: Tensor, greedy_rewards: Tensor) -> Tensor:
    """ReMax: ``A = R - R_greedy``, the reward of the greedy response to the same prompt, (B,).

    Source: arXiv 2310.10505, eq. 4.
    """
    return rewards - greedy_rewards


def generalized_advantage(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """GAE over the tokens of each response, (B, T), 0 where masked.

    The reward (B,) is paid at the last real token.  ``values`` (B, T) holds V(s_t), what the critic expects before
    token t is written; it is ignored where masked.  Masked positions lie at the end.

    ``delta_t = r_t + gamma V(s_t+1) - V(s_t)`` and ``A_t = delta_t + gamma lam A_t+1``, so that ``A_t = R - V(s_t)``
    for gamma = lam = 1.  Source: arXiv 1506.02438, eq. 16.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    following_value = following_advantage = torch.zeros_like(rewards)
    last = mask.sum(1) - 1
    for t in reversed(range(mask.shape[1])):
        reward = rewards * (last == t)
        delta = reward + gamma * following_value - values[:, t]
        advantages[:, t] = (delta + gamma * lam * following_advantage) * mask[:, t]
        following_value, following_advantage = values[:, t], advantages[:, t]
    return advantages


def stepwise_advantage(
    rewards: Tensor, values: Tensor, starts: Tensor, mask: Tensor, gamma: float, lam: float
) -> Tensor:
    """StepPO: GAE over reasoning steps instead of tokens, every token with the advantage of its step, (B, T).

    ``starts`` (B, T) is 1 where a step begins, the first token included; the values at those positions alone are
    read.  With a step per token this is GAE; with one step per response it is ``R - V(s_p)``.
    Source: arXiv 2604.18401.
    """
    step = (starts.cumsum(1) - 1).clamp(min=0)  # (B, T) which step a token belongs to
    count = int(step.max()) + 1
    at_start = torch.zeros(len(values), count, dtype=values.dtype, device=values.device)
    at_start.scatter_add_(1, step, values * starts)
    step_mask = (torch.arange(count, device=values.device) < starts.sum(1, keepdim=True)).to(mask.dtype)
    return generalized_advantage(rewards, at_start, step_mask, gamma, lam).gather(1, step) * mask


def broadcast_to_tokens(advantage: Tensor, response_mask: Tensor) -> Tensor:
    """Give each token of a response its response's advantage: (B,) to (B, T), 0 where masked."""
    return advantage[:, None].where(response_mask.bool(), 0.0)


def divide_by_group_std(advantage: Tensor, rewards: Tensor, group_size: int) -> Tensor:
    """GRPO: divide a group's advantages, (B,) or (B, T), by the standard deviation of its rewards (Bessel) + 1e-4."""
    std = rewards.view(-1, group_size).std(1).repeat_interleave(group_size)
    std = std if advantage.dim() == 1 else std[:, None]
    return advantage / (std + GROUP_STD_EPSILON)


def whiten(advantage: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over the elements with mask 1 (Bessel), 0 elsewhere; any shape."""
    count = mask.sum()
    mean = (advantage * mask).sum() / count
    variance = ((advantage - mean).square() * mask).sum() / (count - 1).clamp(min=1)
    return (advantage - mean) * torch.rsqrt(variance + 1e-8) * mask


def overlong_penalty(lengths: Tensor, limit: int, buffer: float) -> Tensor:
    """DAPO's soft penalty (B,): 0 up to ``(1 - buffer) limit`` tokens, then falling linearly to -1 at ``limit``.

    ``buffer`` is a share of ``limit``; 0 switches the penalty off.  Source: arXiv 2503.14476, eq. 13.
    """
    if buffer == 0:
        return torch.zeros(len(lengths), device=lengths.device)
    room = buffer * limit
    return ((limit - room - lengths) / room).clamp(min=-1.0, max=0.0)
