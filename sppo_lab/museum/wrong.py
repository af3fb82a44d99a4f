"""Twelve functions as people write them by mistake, each beside the package's own that it stands in for.

``right_…`` is the package's function where a mistake is made before or after calling it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from sppo_lab.config import Config
from sppo_lab.metrics import batch_metrics
from sppo_lab.models import Policy
from sppo_lab.models import load_policy as right_load_policy
from sppo_lab.rollout import Rollouts
from sppo_lab.rollout import sample_together as right_sample
from sppo_lab.rollout import token_scores as right_token_scores
from sppo_lab.trainer import StepRecord, Trainer
from sppo_lab.update import update_policy
from sppo_lab.value import Critic


def value_minus_reward(rewards: Tensor, values: Tensor) -> Tensor:
    """Instead of ``sequence_advantage``: (B,) and (B,) to (B,)."""
    return values - rewards


def score_without_temperature(
    logits: Tensor, ids: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Instead of ``token_scores``: both (B, T), at temperature 1 whatever the responses were sampled at."""
    return right_token_scores(logits, ids, 1.0, entropy_gradient)


def score_one_place_late(
    logits: Tensor, ids: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Instead of ``token_scores``: both (B, T), each token scored by the logits at its own place."""
    logits = logits[:, 1:]
    scores = torch.log_softmax(logits.float() / temperature, dim=-1)
    logprobs = scores.gather(2, ids[..., None]).squeeze(2)
    return logprobs, -(scores.exp() * scores).sum(-1).detach()


def load_policy_for_training(config: Config) -> Policy:
    """Instead of ``load_policy``: a model with dropout in its attention, as GPT-2 has, left in training mode."""
    policy = right_load_policy(config)
    for module in policy.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1
    policy.model.train()
    return policy


def sample_with_late_mask(policy: Policy, prompts: list[str], *settings: Any) -> Rollouts:
    """Instead of ``sample_together``: the mask (B, T) is cut out a column early, as logits are, so its 1s come late."""
    rollouts = right_sample(policy, prompts, *settings)
    whole = torch.cat([rollouts.prompt_mask, rollouts.response_mask], dim=1)
    rollouts.response_mask = whole[:, rollouts.prompt_mask.shape[1] - 1 : -1]
    return rollouts


def sample_with_mask_from_ids(policy: Policy, prompts: list[str], *settings: Any) -> Rollouts:
    """Instead of ``sample_together``: the mask (B, T) is made from token values, with the end token for padding."""
    rollouts = right_sample(policy, prompts, *settings)
    for end in policy.stop_ids:
        rollouts.response_mask = rollouts.response_mask * (rollouts.response_ids != end)
    return rollouts


def ratio_to_itself(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Instead of ``probability_ratio``, (B, T): the old ones are computed anew, and nothing cuts their gradient."""
    old_logprobs = logprobs
    return torch.exp(logprobs - old_logprobs)


def output_at_column_of_length(self: Critic, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
    """Instead of ``Critic.prompt_output``, (B,): the last token of a prompt that is padded on the right."""
    hidden = self.hidden(prompt_ids, prompt_mask)
    last = prompt_mask.sum(1) - 1
    return self.head(hidden[torch.arange(len(hidden), device=hidden.device), last]).squeeze(1)


def learn_before_valuing(self: Trainer) -> StepRecord:
    """Instead of ``Trainer.run_step``: the critic learns the batch before it values it."""
    problems, rollouts = self.collect()
    learnt = self.baseline.update(rollouts)
    self.form_advantages(rollouts)
    metrics = batch_metrics(rollouts, self.config.group_size) | learnt
    metrics |= update_policy(self.policy, self.learner, rollouts, self.config, self.generator)
    self.step += 1
    return StepRecord(self.step, {"step": self.step} | metrics, problems, rollouts, *self.look_back(rollouts))


def reward_in_the_last_column(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Instead of ``generalized_advantage``, (B, T): the reward is paid where the rectangle ends."""
    values = values * mask
    token_rewards = pad(rewards[:, None], (mask.shape[1] - 1, 0))
    following = pad(values[:, 1:], (0, 1))
    deltas = token_rewards + gamma * following - values
    advantages, later = torch.zeros_like(values), torch.zeros_like(rewards)
    for t in reversed(range(mask.shape[1])):
        later = advantages[:, t] = (deltas[:, t] + gamma * lam * later) * mask[:, t]
    return advantages


def divide_by_bare_std(advantage: Tensor, rewards: Tensor, group_size: int) -> Tensor:
    """Instead of ``divide_by_group_std``, (B,): without a constant beside the deviation."""
    std = rewards.view(-1, group_size).std(1).repeat_interleave(group_size)
    return advantage / std


def mean_of_mixed_groups(rewards: Tensor, group_size: int) -> Tensor:
    """Instead of ``group_mean_advantage``, (B,): rows and columns of the groups are swapped."""
    groups = rewards.view(group_size, -1)
    return (groups - groups.mean(0)).flatten()
