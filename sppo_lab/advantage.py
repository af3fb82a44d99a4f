"""Advantage estimators: one pure function each, tensors in, tensor out.

Rewards R and values V are (B,), one number per response.  A sequence advantage is (B,) as well;
``broadcast_to_tokens`` gives every token of a response the same number.
"""

from torch import Tensor


def sequence_advantage(rewards: Tensor, values: Tensor) -> Tensor:
    """SPPO: ``A = R - V(s_p)``, (B,).  ``values`` must come from the critic before its update.

    Source: arXiv 2604.08865, eq. 1.
    """
    return rewards - values


def batch_mean_advantage(rewards: Tensor) -> Tensor:
    """REINFORCE with the batch mean as its baseline: ``A = R - mean(R)``, (B,)."""
    return rewards - rewards.mean()


def broadcast_to_tokens(advantage: Tensor, response_mask: Tensor) -> Tensor:
    """Give each token of a response its response's advantage: (B,) to (B, T), 0 where masked."""
    return advantage[:, None].where(response_mask.bool(), 0.0)
