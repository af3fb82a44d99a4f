"""The policy update: clipped surrogate, KL penalty and entropy bonus, over mini-batches and epochs."""

from collections import defaultdict

import torch
from torch import Tensor

from sppo_lab.config import Config
from sppo_lab.loss import (
    KL_ESTIMATORS,
    TOKEN_WEIGHTS,
    clipped_high,
    clipped_low,
    clipped_surrogate,
    probability_ratio,
    sequence_ratio,
)
from sppo_lab.models import Policy
from sppo_lab.optimize import Learner, mini_batches, update_metrics
from sppo_lab.rollout import Rollouts, response_logprobs


def update_policy(
    policy: Policy, learner: Learner, rollouts: Rollouts, config: Config, generator: torch.Generator
) -> dict[str, float]:
    """``epochs`` passes over the batch, one optimizer step per mini-batch.  Returns the metrics of the update."""
    sums: dict[str, float] = defaultdict(float)
    norms = []
    for _ in range(config.epochs):
        for batch in mini_batches(rollouts, config.mini_batches, generator):
            for name, number in accumulate_gradient(policy, learner, batch, config).items():
                sums[name] += number
            norms.append(learner.step())
    means = {name: total / len(norms) for name, total in sums.items()} | update_metrics("policy", norms)
    return means | {"clip_ratio/region_mean": means["clip_ratio/low_mean"] + means["clip_ratio/high_mean"]}


def accumulate_gradient(policy: Policy, learner: Learner, batch: Rollouts, config: Config) -> dict[str, float]:
    """The gradient of the loss of a mini-batch, in micro-batches.  Returns its loss and what is measured of it."""
    mask = loss_mask(batch, config)
    weights = TOKEN_WEIGHTS[config.aggregation](mask, config.max_new_tokens)
    shares = mask / mask.sum().clamp(min=1)  # for the metrics, which are means over tokens

    def loss_of(part: Rollouts, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        width = part.response_mask.shape[1]
        losses, per_token = token_losses(policy, part, config)
        measured = {name: (numbers * shares[rows, :width]).sum().item() for name, numbers in per_token.items()}
        return (losses * weights[rows, :width]).sum(), measured

    sums = learner.accumulate(batch, loss_of)
    return {"policy/loss": sums.pop("loss")} | sums


def loss_mask(batch: Rollouts, config: Config) -> Tensor:
    """(B, T) 1 on the tokens that the loss counts: all of the response, or none of a truncated one."""
    if not config.mask_truncated:
        return batch.response_mask
    return batch.response_mask * ~batch.truncated[:, None]


def token_losses(policy: Policy, part: Rollouts, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each response token, (B, T), and what is measured of it, each (B, T) without gradient."""
    logprobs, entropy = response_logprobs(
        policy.model, part, config.temperature, entropy_gradient=config.entropy_coef > 0
    )
    if config.importance_sampling_level == "sequence":
        ratio = sequence_ratio(logprobs, part.old_logprobs, part.response_mask)
    else:
        ratio = probability_ratio(logprobs, part.old_logprobs)
    epsilon_high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    losses = clipped_surrogate(ratio, part.advantages, config.epsilon, epsilon_high, config.dual_clip)
    with torch.no_grad():
        not_zero = ratio.clamp(min=torch.finfo(ratio.dtype).tiny)  # to which a very small one is rounded
        measured = {
            "entropy": entropy.detach(),
            "policy/approx_kl": ratio - 1 - not_zero.log(),
            "clip_ratio/low_mean": clipped_low(ratio, part.advantages, config.epsilon).float(),
            "clip_ratio/high_mean": clipped_high(ratio, part.advantages, epsilon_high).float(),
        }
    if config.kl_coef > 0:
        kl = KL_ESTIMATORS[config.kl_estimator](logprobs, part.reference_logprobs)
        losses = losses + config.kl_coef * kl
        measured["kl"] = kl.detach()
    if config.entropy_coef > 0:
        losses = losses - config.entropy_coef * entropy
    return losses, measured
