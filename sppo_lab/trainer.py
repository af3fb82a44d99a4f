"""The one loop.  What SPPO deletes from PPO is not here: no value per token, no GAE, no lambda, no gamma, no
reward shaping along the response, no reference model, no second sample of the same prompt.

The trainer knows nothing of files, plots or widgets: ``for record in Trainer(config): ...``
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sppo_lab.advantage import broadcast_to_tokens
from sppo_lab.algorithms import Algorithm, get_algorithm
from sppo_lab.config import Config
from sppo_lab.errors import LabError, NonFiniteError
from sppo_lab.loss import (
    TOKEN_WEIGHTS,
    bce_value_loss,
    clipped_high,
    clipped_low,
    clipped_surrogate,
    probability_ratio,
)
from sppo_lab.metrics import batch_metrics
from sppo_lab.models import load_critic, load_policy, trainable_parameters
from sppo_lab.rollout import Rollouts, encode_prompts, response_logprobs, sample
from sppo_lab.tasks import Problem, Task, load_task


@dataclass(frozen=True)
class StepRecord:
    """What one step yields."""

    step: int
    metrics: dict[str, float]  # the names and meanings are in metrics.METRICS
    problems: list[Problem]  # B, one per response
    rollouts: Rollouts


class Trainer:
    """Trains a policy by one row of the algorithm table; iterate over it to run the steps.

    It can be stopped between any two steps and continued, also in another process through ``state_dict``.
    """

    def __init__(self, config: Config, task: Task | None = None):
        self.config = config
        self.algorithm = get_algorithm(config.algorithm)
        self.group_size = config.group_size or self.algorithm.group_size
        _check_sizes(config, self.algorithm, self.group_size)
        self.task = task or load_task(config.task, config.data, config.test_data)
        self.policy = load_policy(config)
        # Every prompt, now: one that is empty or too long must not stop the run hours later.
        encode_prompts(self.policy, [p.prompt for p in self.task.train + self.task.test], config.max_new_tokens)
        self.policy_parameters = list(trainable_parameters(self.policy.model).values())
        self.optimizer = torch.optim.AdamW(self.policy_parameters, lr=config.lr, weight_decay=0.0)
        self.critic = self.critic_optimizer = None
        if self.algorithm.critic == "prompt":
            self.critic = load_critic(config, self.policy)
            self.critic_parameters = list(trainable_parameters(self.critic).values())
            self.critic_optimizer = torch.optim.AdamW(self.critic_parameters, lr=config.critic_lr, weight_decay=0.0)
        self.generator = torch.Generator(self.policy.device).manual_seed(config.seed)
        self.rollouts: Rollouts | None = None  # the latest batch, for whoever must explain a failure
        self.step = self.num_rollouts = self.num_tokens = 0

    def __iter__(self) -> Iterator[StepRecord]:
        while self.step < self.config.steps:
            yield self.train_step()

    def train_step(self) -> StepRecord:
        """Sample, judge, value, update the critic, update the policy."""
        started = time.perf_counter()
        problems = self.next_problems()
        rollouts = self.rollouts = self.sample(problems)
        sampled = time.perf_counter()

        problems = [problems[i] for i in rollouts.group.tolist()]
        rewards = self.task.rewards(rollouts.texts, [problem.answer for problem in problems])
        rollouts.rewards = torch.tensor(rewards, dtype=torch.float32, device=self.policy.device)
        if self.critic is not None:
            rollouts.values = self.critic.values(rollouts.prompt_ids, rollouts.prompt_mask)
        advantage = self.algorithm.advantage(rollouts)
        rollouts.advantages = broadcast_to_tokens(advantage, rollouts.response_mask)
        if self.policy.model.dtype != torch.float32:
            rollouts.old_logprobs = self.rescore(rollouts)

        judged = time.perf_counter()
        metrics = batch_metrics(rollouts, advantage, self.group_size)
        if self.critic is not None:
            metrics |= self.update_critic(rollouts)
        if self.step >= self.config.critic_warmup:
            metrics |= self.update_policy(rollouts)
        ended = time.perf_counter()

        self.step += 1
        self.num_rollouts += len(rollouts)
        self.num_tokens += int(rollouts.lengths.sum())
        metrics |= {
            "num_rollouts": self.num_rollouts,
            "num_tokens": self.num_tokens,
            "step_time": ended - started,
            "time/sample": sampled - started,
            "time/update": ended - judged,
        }
        return StepRecord(self.step, {"step": self.step} | metrics, problems, rollouts)

    def next_problems(self) -> list[Problem]:
        """The prompts of this step: every pass over the training set in a new order, fixed by the seed alone.

        So two algorithms with the same seed see the same prompts in the same order.
        """
        total, size = len(self.task.train), self.config.prompts_per_step
        picked, orders = [], {}
        for index in range(self.step * size, (self.step + 1) * size):
            epoch, place = divmod(index, total)
            if epoch not in orders:
                shuffle = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
                orders[epoch] = torch.randperm(total, generator=shuffle).tolist()
            picked.append(self.task.train[orders[epoch][place]])
        return picked

    def sample(self, problems: list[Problem]) -> Rollouts:
        """``group_size`` responses to each problem."""
        try:
            return sample(
                self.policy,
                [problem.prompt for problem in problems],
                max_new_tokens=self.config.max_new_tokens,
                temperature=self.config.temperature,
                group_size=self.group_size,
                generator=self.generator,
            )
        except NonFiniteError as error:
            raise NonFiniteError(f"step {self.step + 1}: {error} {self.advice()}") from error

    def update_critic(self, rollouts: Rollouts) -> dict[str, float]:
        """One pass over the batch: V(s_p) towards R by binary cross-entropy."""
        losses, norms = 0.0, []
        for batch in self.mini_batches(rollouts):
            for part, _ in self.micro_batches(batch):
                logits = self.critic(part.prompt_ids, part.prompt_mask)
                loss = bce_value_loss(logits, part.rewards).sum()
                self.require_finite(loss, "the critic's loss")
                (loss / len(batch)).backward()
                losses += loss.item()
            norms.append(self.optimizer_step(self.critic_optimizer, self.critic_parameters, "the critic's gradient"))
        return {"value/loss": losses / len(rollouts), "value/grad_norm": sum(norms) / len(norms)}

    def update_policy(self, rollouts: Rollouts) -> dict[str, float]:
        """``epochs`` passes over the batch, one optimizer step per mini-batch, on the clipped loss."""
        config = self.config
        epsilon_high = config.epsilon if config.epsilon_high is None else config.epsilon_high
        sums: dict[str, float] = defaultdict(float)
        updates = 0
        for _ in range(config.epochs):
            for batch in self.mini_batches(rollouts):
                weights = TOKEN_WEIGHTS[self.algorithm.aggregation](batch.response_mask)
                for part, rows in self.micro_batches(batch):
                    mask = part.response_mask
                    share = weights[rows, : mask.shape[1]]
                    logprobs, entropy = response_logprobs(self.policy.model, part, config.temperature)
                    losses = clipped_surrogate(
                        logprobs, part.old_logprobs, part.advantages, config.epsilon, epsilon_high
                    )
                    loss = (losses * share).sum()
                    self.require_finite(loss, "the policy's loss")
                    loss.backward()

                    ratio = probability_ratio(logprobs.detach(), part.old_logprobs)
                    low = clipped_low(ratio, part.advantages, config.epsilon) * mask
                    high = clipped_high(ratio, part.advantages, epsilon_high) * mask
                    per_token = mask / batch.response_mask.sum()
                    sums["policy/loss"] += loss.item()
                    sums["entropy"] += (entropy * per_token).sum().item()
                    sums["policy/approx_kl"] += ((ratio - 1 - ratio.log()) * per_token).sum().item()
                    sums["clip_ratio/low_mean"] += (low * per_token).sum().item()
                    sums["clip_ratio/high_mean"] += (high * per_token).sum().item()
                sums["policy/grad_norm"] += self.optimizer_step(
                    self.optimizer, self.policy_parameters, "the policy's gradient"
                )
                updates += 1
        means = {name: total / updates for name, total in sums.items()}
        return means | {"clip_ratio/region_mean": means["clip_ratio/low_mean"] + means["clip_ratio/high_mean"]}

    def rescore(self, rollouts: Rollouts) -> Tensor:
        """Old log-probabilities (B, T) from a pass like the loss's own.

        In float32 those of the sampling pass are the same; in half precision decoding one token at a time
        rounds differently from scoring all at once, and the ratio would not start at 1.
        """
        fresh = torch.zeros_like(rollouts.old_logprobs)
        with torch.no_grad():
            for part, rows in self.micro_batches(rollouts):
                logprobs, _ = response_logprobs(self.policy.model, part, self.config.temperature)
                fresh[rows, : logprobs.shape[1]] = logprobs
        return fresh

    def mini_batches(self, rollouts: Rollouts) -> Iterator[Rollouts]:
        """The batch in random order, in ``mini_batches`` parts."""
        order = torch.randperm(len(rollouts), generator=self.generator, device=self.policy.device)
        for rows in order.chunk(self.config.mini_batches):
            yield rollouts.select(rows)

    def micro_batches(self, batch: Rollouts) -> Iterator[tuple[Rollouts, Tensor]]:
        """The batch in parts small enough for memory, each with the rows it came from."""
        rows = torch.arange(len(batch), device=self.policy.device)
        for part in rows.split(self.config.micro_batch_size or len(batch)):
            yield batch.select(part), part

    def optimizer_step(self, optimizer: torch.optim.Optimizer, parameters: list[Tensor], what: str) -> float:
        """Clip the gradient, step, clear; returns the gradient's length before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        self.require_finite(norm, what)
        optimizer.step()
        optimizer.zero_grad()
        return norm.item()

    def require_finite(self, number: Tensor, what: str) -> None:
        if not math.isfinite(number.item()):
            raise NonFiniteError(f"step {self.step + 1}: {what} is {number.item()}. {self.advice()}")

    def advice(self) -> str:
        return (
            f"Usually a learning rate is too high (lr = {self.config.lr:g}, critic_lr = {self.config.critic_lr:g}): "
            "start again with a lower one."
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights that the next step depends on."""
        return {
            "step": self.step,
            "num_rollouts": self.num_rollouts,
            "num_tokens": self.num_tokens,
            "generator": self.generator.get_state(),
            "optimizer": self.optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer and self.critic_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        self.step = state["step"]
        self.num_rollouts = state["num_rollouts"]
        self.num_tokens = state["num_tokens"]
        self.generator.set_state(state["generator"].cpu())
        self.optimizer.load_state_dict(state["optimizer"])
        if self.critic_optimizer is not None:
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])


def _check_sizes(config: Config, algorithm: Algorithm, group_size: int) -> None:
    """Settings that are each allowed but do not go together raise LabError."""
    if group_size < algorithm.min_group_size:
        raise LabError(
            f"group_size = {group_size}, but {algorithm.name} compares the responses to one prompt with each other "
            f"and needs at least {algorithm.min_group_size}."
        )
    batch = config.prompts_per_step * group_size
    if config.mini_batches > batch:
        raise LabError(
            f"mini_batches = {config.mini_batches} is more than the {batch} responses of a step: lower it, or raise "
            "prompts_per_step."
        )
