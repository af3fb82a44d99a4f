"""What a reward is compared with, where that is learnt: a critic, a tracker per prompt, or a probe of the policy.

Each says V before the batch teaches it anything: ``values(batch)`` first, ``update(batch)`` after.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from sppo_lab.config import Config
from sppo_lab.models import Policy, trainable_parameters
from sppo_lab.optimize import Learner, micro_batches, mini_batches, update_metrics
from sppo_lab.parallel import add_up
from sppo_lab.rollout import Rollouts, position_ids, scores_in_parts
from sppo_lab.value import Critic, TokenCritic


class Baseline(Protocol):
    """What the loop asks of a baseline."""

    def values(self, batch: Rollouts) -> Tensor:
        """V of each response, (B,), or of each of its tokens, (B, T)."""

    def update(self, batch: Rollouts) -> dict[str, float]:
        """Learn from a judged batch; returns metrics."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class CriticBaseline:
    """A critic and its optimizer; one pass over the batch per step.  Its weights are saved apart from its state."""

    def __init__(self, critic: Critic, config: Config, generator: torch.Generator):
        self.critic, self.config, self.generator = critic, config, generator
        weights, half = trainable_parameters(critic), critic.backbone.dtype == torch.float16
        self.learner = Learner(
            weights, config.critic_lr, config.max_grad_norm, "the critic", half, config.micro_batch_size
        )

    def values(self, batch: Rollouts) -> Tensor:
        def attempt(size: int) -> Tensor:
            found = torch.zeros_like(batch.old_logprobs)  # a critic of prompts fills the first column alone
            for part, rows in micro_batches(batch, size):
                value = self.critic.as_value(self.critic(part))
                value = value * part.response_mask if value.dim() == 2 else value[:, None]
                found[rows, : value.shape[1]] = value
            return found

        with torch.no_grad():
            found = add_up(self.learner.within_memory(batch, attempt))
        return found if isinstance(self.critic, TokenCritic) else found[:, 0]

    def update(self, batch: Rollouts) -> dict[str, float]:
        total, norms = 0.0, []
        for mini in mini_batches(batch, self.config.mini_batches, self.generator):
            total += self.accumulate_gradient(mini) * len(mini) / len(batch)
            norms.append(self.learner.step())
        return {"value/loss": total} | update_metrics("value", norms)

    def accumulate_gradient(self, batch: Rollouts) -> float:
        """The gradient of the loss of a mini-batch.  Returns its loss."""
        weights = self.critic.weights(batch)

        def loss_of(part: Rollouts, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
            losses = self.critic.losses(part)
            counts = weights[rows] if losses.dim() == 1 else weights[rows, : losses.shape[1]]
            return (losses * counts).sum(), {}

        with self.critic.in_use():
            return self.learner.accumulate(batch, loss_of)["loss"]

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["optimizer"])


class BetaTracker:
    """SPO: the solve rate of each prompt as the mean of a Beta distribution that forgets.

    ``alpha <- rho alpha + R``, ``beta <- rho beta + 1 - R``, ``V = alpha / (alpha + beta)``; a prompt that was never
    seen stands at alpha = beta = 1.  Source: arXiv 2509.13232.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.counts: dict[str, list[float]] = {}

    def values(self, batch: Rollouts) -> Tensor:
        counts = torch.tensor([self.counts.get(prompt, [1.0, 1.0]) for prompt in batch.prompts])
        return (counts[:, 0] / counts.sum(1)).to(batch.old_logprobs)

    def update(self, batch: Rollouts) -> dict[str, float]:
        for prompt, reward in zip(batch.prompts, batch.scores.tolist(), strict=True):
            alpha, beta = self.counts.get(prompt, [1.0, 1.0])
            self.counts[prompt] = [self.decay * alpha + reward, self.decay * beta + 1 - reward]
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts = state["counts"]


class HiddenProbe:
    """POISE: a linear probe on the policy's own hidden states and entropy, cross-fitted over the responses to a prompt.

    The value of a response is what the probe reads from the *other* responses to its prompt, with weights fitted by
    ridge regression on earlier batches.  Neither depends on the response itself, so the gradient stays unbiased.
    Source: arXiv 2605.07579.
    """

    BATCHES = 8  # how many earlier batches the fit uses
    RIDGE = 10.0

    def __init__(self):
        self.seen: list[tuple[Tensor, Tensor]] = []  # features (B, F) of the others, and scores (B,)

    def values(self, batch: Rollouts) -> Tensor:
        if not self.seen:
            return torch.full_like(batch.scores, 0.5)
        features, scores = (torch.cat(column).double() for column in zip(*self.seen, strict=True))
        center, spread, mean = features.mean(0), features.std(0, correction=0) + 1e-6, scores.mean()
        x = (features - center) / spread
        ridge = self.RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weights = torch.linalg.solve(x.T @ x + ridge, x.T @ (scores - mean))
        found = mean + (batch.features.double() - center) / spread @ weights
        return found.clamp(0, 1).to(batch.scores)

    def update(self, batch: Rollouts) -> dict[str, float]:
        self.seen = [*self.seen, (batch.features, batch.scores)][-self.BATCHES :]
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = [tuple(pair) for pair in state["seen"]]


def of_the_others(features: Tensor, group_size: int) -> Tensor:
    """Mean features of the other responses to the same prompt, (B, F) to (B, F)."""
    groups = features.view(-1, group_size, features.shape[1])
    return ((groups.sum(1, keepdim=True) - groups) / (group_size - 1)).flatten(0, 1)


@torch.no_grad()
def hidden_features(policy: Policy, batch: Rollouts) -> Tensor:
    """(B, 2H + 1): last hidden state of the prompt, mean one of the response, mean entropy of its tokens."""
    ids = torch.cat([batch.prompt_ids, batch.response_ids], dim=1)
    mask = torch.cat([batch.prompt_mask, batch.response_mask], dim=1)
    width, length = batch.prompt_ids.shape[1], batch.response_ids.shape[1]
    output = policy.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position_ids(mask),
        logits_to_keep=length + 1,
        use_cache=False,
        output_hidden_states=True,
    )
    hidden = output.hidden_states[-1].float()
    _, entropy = scores_in_parts(output.logits, batch.response_ids, temperature=1.0)
    share = batch.response_mask / batch.lengths[:, None]
    mean = (hidden[:, width:] * share[..., None]).sum(1)
    return torch.cat([hidden[:, width - 1], mean, (entropy * share).sum(1, keepdim=True)], dim=1)
