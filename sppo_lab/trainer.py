"""The one loop: sample, judge, compare with a baseline, update.

What SPPO deletes from PPO is what its row of the algorithm table does not ask for: no value per token, no GAE, no
lambda, no gamma, no reward along the response, no reference model, no second sample of the same prompt.

The trainer knows nothing of files, plots or widgets: ``for record in Trainer(config): ...``
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sppo_lab.advantage import overlong_penalty
from sppo_lab.algorithms import get_algorithm, scaled_advantages
from sppo_lab.baseline import Baseline, BetaTracker, CriticBaseline, HiddenProbe, hidden_features, of_the_others
from sppo_lab.config import Config
from sppo_lab.errors import LabError, NonFiniteError
from sppo_lab.loss import probability_ratio
from sppo_lab.metrics import batch_metrics
from sppo_lab.models import load_critic, load_policy
from sppo_lab.optimize import Learner, micro_batches
from sppo_lab.parallel import add_up, judge
from sppo_lab.rollout import Rollouts, encode_prompts, response_logprobs, sample_within_memory, step_starts
from sppo_lab.selection import groups_with_signal, kept_rows
from sppo_lab.tasks import Problem, Task, load_task
from sppo_lab.update import update_policy
from sppo_lab.value import Critic


@dataclass(frozen=True)
class StepRecord:
    """What one step yields."""

    step: int
    metrics: dict[str, float]  # the names and meanings are in metrics.METRICS
    problems: list[Problem]  # B, one per response
    rollouts: Rollouts  # every response sampled, those that the update left out too
    ratios: Tensor  # (N, T) pi / pi_old of the first save_responses of them, after the step; 0 where masked
    entropies: Tensor  # (N, T) of the next-token distributions there, in nats


class Trainer:
    """Trains a policy by one row of the algorithm table; iterate over it to run the steps.

    It can be stopped between any two steps and continued, also in another process through ``state_dict``.
    """

    def __init__(self, config: Config, task: Task | None = None):
        self.algorithm = get_algorithm(config.algorithm)
        self.config = config = self.algorithm.fill(config)
        self.check_sizes()
        self.task = task or load_task(config.task, config.data, config.test_data)
        self.policy = load_policy(config)
        # Every prompt, now: one that is empty or too long must not stop the run hours later.
        encode_prompts(self.policy, [p.prompt for p in self.task.train + self.task.test], config.max_new_tokens)
        half = self.policy.model.dtype == torch.float16
        self.learner = Learner(
            self.policy.weights, config.lr, config.max_grad_norm, "the policy", half, config.micro_batch_size
        )
        self.sampled_at_once = config.sample_batch_size  # less where the memory does not suffice
        self.generator = torch.Generator(self.policy.device).manual_seed(config.seed)
        self.critic: Critic | None = None
        self.baseline = self.make_baseline()
        self.rollouts: Rollouts | None = None  # the latest batch, for whoever must explain a failure
        self.step = self.num_prompts = self.num_rollouts = self.num_tokens = 0

    def make_baseline(self) -> Baseline | None:
        """What the algorithm compares rewards with, where that is learnt."""
        kind = self.algorithm.baseline
        if kind == "none":
            return None
        if kind == "tracker":
            return BetaTracker(self.config.tracker_decay)
        if kind == "probe":
            return HiddenProbe()
        self.critic = load_critic(self.config, self.policy)
        return CriticBaseline(self.critic, self.config, self.generator)

    def __iter__(self) -> Iterator[StepRecord]:
        while self.step < self.config.steps:
            yield self.train_step()

    def train_step(self) -> StepRecord:
        """One step; a number that is not finite raises NonFiniteError with the step and what to do."""
        try:
            return self.run_step()
        except NonFiniteError as error:
            raise NonFiniteError(
                f"step {self.step + 1}: {error} Usually a learning rate is too high (lr = {self.config.lr:g}, "
                f"critic_lr = {self.config.critic_lr:g}): start again with a lower one."
            ) from error

    def run_step(self) -> StepRecord:
        """Sample and judge, value, update the baseline, update the policy."""
        started = time.perf_counter()
        problems, rollouts = self.collect()
        self.rollouts = rollouts
        sampled = time.perf_counter()

        self.form_advantages(rollouts)
        batch = self.select(rollouts)
        judged = time.perf_counter()

        metrics = batch_metrics(rollouts, self.config.group_size)
        if len(batch) < len(rollouts):
            metrics["frac_responses_used"] = len(batch) / len(rollouts)
        if self.baseline is not None:
            metrics |= self.baseline.update(batch)
        if self.step >= self.config.critic_warmup:
            metrics |= update_policy(self.policy, self.learner, batch, self.config, self.generator)
        ended = time.perf_counter()

        self.step += 1
        metrics |= {
            "num_rollouts": self.num_rollouts,
            "num_tokens": self.num_tokens,
            "step_time": ended - started,
            "time/sample": sampled - started,
            "time/update": ended - judged,
        }
        return StepRecord(self.step, {"step": self.step} | metrics, problems, rollouts, *self.look_back(rollouts))

    def look_back(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Ratio and entropy of the responses to be saved, under the policy as the step has left it."""
        count = min(self.config.save_responses, len(rollouts))
        if count == 0:
            return torch.zeros(0, 0), torch.zeros(0, 0)
        saved = rollouts.select(torch.arange(count))
        logprobs, entropies = self.score(saved)
        return probability_ratio(logprobs, saved.old_logprobs) * saved.response_mask, entropies

    def collect(self) -> tuple[list[Problem], Rollouts]:
        """Sample a batch and judge it; further batches where the algorithm replaces groups without signal.

        Returns a problem per response, and the responses.
        """
        wanted, size = self.config.prompts_per_step, self.config.group_size
        problems, parts, found = [], [], 0
        for _ in range(self.config.max_gen_batches if self.config.filter_groups else 1):
            chosen = self.next_problems()
            part = self.sample(chosen, group_size=size)
            chosen_per_response = [problem for problem in chosen for _ in range(size)]
            part.rewards = self.judge(part, chosen_per_response)
            if self.algorithm.greedy_baseline:
                greedy = self.judge(self.sample(chosen, greedy=True), chosen)
                part.greedy_rewards = greedy.repeat_interleave(size)
            problems += chosen_per_response
            parts.append(part)
            found += int(groups_with_signal(part.rewards, size).sum())
            if found >= wanted:
                break
        return problems, Rollouts.join(parts)

    def next_problems(self) -> list[Problem]:
        """The next prompts: every pass over the training set in a new order, fixed by the seed alone.

        So two algorithms with the same seed see the same prompts in the same order.
        """
        total, size = len(self.task.train), self.config.prompts_per_step
        picked, orders = [], {}
        for index in range(self.num_prompts, self.num_prompts + size):
            epoch, place = divmod(index, total)
            if epoch not in orders:
                shuffle = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
                orders[epoch] = torch.randperm(total, generator=shuffle).tolist()
            picked.append(self.task.train[orders[epoch][place]])
        self.num_prompts += size
        return picked

    def sample(self, problems: list[Problem], **options: Any) -> Rollouts:
        """Responses to each problem, counted; several batches where ``sample_batch_size`` asks for them."""
        rollouts, self.sampled_at_once = sample_within_memory(
            self.policy,
            [problem.prompt for problem in problems],
            batch_size=self.sampled_at_once,
            generator=self.generator,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            **options,
        )
        self.num_rollouts += len(rollouts)
        self.num_tokens += int(rollouts.lengths.sum())
        return rollouts

    def judge(self, rollouts: Rollouts, problems: list[Problem]) -> Tensor:
        """R of each response, (B,)."""
        rewards = judge(self.task.rewards, rollouts.texts, [problem.answer for problem in problems])
        return torch.tensor(rewards, dtype=torch.float32, device=self.policy.device)

    def form_advantages(self, rollouts: Rollouts) -> None:
        """Fill in scores, values and advantages, before anything learns from the batch."""
        config = self.config
        penalty = overlong_penalty(rollouts.lengths, config.max_new_tokens, config.overlong_buffer)
        rollouts.scores = rollouts.rewards + penalty
        rollouts.action_starts = rollouts.response_mask
        if self.algorithm.stepwise:
            rollouts.action_starts = step_starts(rollouts, self.policy.tokenizer, self.task.step_mark)
        if self.algorithm.baseline == "probe":
            rollouts.features = of_the_others(self.features(rollouts), config.group_size)
        if self.baseline is not None:
            rollouts.values = self.baseline.values(rollouts)
        raw = self.algorithm.advantage(rollouts, config)
        rollouts.raw_advantages, rollouts.advantages = scaled_advantages(raw, rollouts, config)

    def features(self, rollouts: Rollouts) -> Tensor:
        """What the policy's hidden states say of each response, (B, F)."""
        width = 2 * self.policy.model.config.get_text_config().hidden_size + 1

        def attempt(size: int) -> Tensor:
            found = torch.zeros(len(rollouts), width, device=self.policy.device)
            for part, rows in micro_batches(rollouts, size):
                found[rows] = hidden_features(self.policy, part)
            return found

        return add_up(self.learner.within_memory(rollouts, attempt))

    def select(self, rollouts: Rollouts) -> Rollouts:
        """The responses that the update uses, with the log-probabilities that it needs."""
        rows = kept_rows(rollouts, self.config)
        batch = rollouts if len(rows) == len(rollouts) else rollouts.select(rows)
        # In float32 the sampling pass gives what the loss's own pass would; in half precision decoding one token at
        # a time rounds differently from scoring all at once, as paged attention may in any precision, and the ratio
        # would not start at 1.
        if self.policy.model.dtype != torch.float32 or self.config.sampler == "continuous":
            batch.old_logprobs, _ = self.score(batch)
        if self.config.kl_coef > 0:
            with self.policy.model.disable_adapter():
                batch.reference_logprobs, _ = self.score(batch)
        return batch

    @torch.no_grad()
    def score(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the response tokens as the policy stands, and entropies, each (B, T)."""

        def attempt(size: int) -> tuple[Tensor, Tensor]:
            found = torch.zeros_like(rollouts.old_logprobs), torch.zeros_like(rollouts.old_logprobs)
            for part, rows in micro_batches(rollouts, size):
                for whole, scored in zip(
                    found, response_logprobs(self.policy.model, part, self.config.temperature), strict=True
                ):
                    whole[rows, : scored.shape[1]] = scored
            return found

        logprobs, entropies = self.learner.within_memory(rollouts, attempt)
        return add_up(logprobs), add_up(entropies)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights that the next step depends on."""
        return {
            "step": self.step,
            "num_prompts": self.num_prompts,
            "num_rollouts": self.num_rollouts,
            "num_tokens": self.num_tokens,
            "generator": self.generator.get_state(),
            "optimizer": self.learner.state_dict(),
            "baseline": self.baseline and self.baseline.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        for name in ("step", "num_prompts", "num_rollouts", "num_tokens"):
            setattr(self, name, state[name])
        self.generator.set_state(state["generator"].cpu())
        self.learner.load_state_dict(state["optimizer"])
        if self.baseline is not None:
            self.baseline.load_state_dict(state["baseline"])

    def check_sizes(self) -> None:
        """Settings that are each allowed but do not go together raise LabError."""
        config, least = self.config, self.algorithm.min_group_size
        if config.group_size < least:
            raise LabError(
                f"group_size = {config.group_size}, but {config.algorithm} compares the responses to one prompt with "
                f"each other and needs at least {least}."
            )
        for name, active in (("filter_groups", config.filter_groups), ("prune", config.prune)):
            if active and config.group_size < 2:
                raise LabError(f"{name} works on groups: set group_size to 2 or more.")
        if config.advantage_scale == "group" and config.group_size < 2:
            raise LabError("advantage_scale = 'group' divides by a group's deviation: set group_size to 2 or more.")
        if config.gradient_repeats in (1, 2):
            raise LabError("gradient_repeats needs at least 3 batches to say how far it can be trusted, or 0 for none.")
        batch = int(config.prompts_per_step * config.group_size * (1 - config.prune))
        if config.mini_batches > batch:
            raise LabError(
                f"mini_batches = {config.mini_batches} is more than the {batch} responses of a step: lower it, or "
                "raise prompts_per_step."
            )
