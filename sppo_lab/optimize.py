"""Taking a batch apart and stepping an optimizer: what the updates of policy and critic share."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sppo_lab.errors import NonFiniteError
from sppo_lab.models import trainable_parameters
from sppo_lab.rollout import Rollouts


class Learner:
    """The trainable weights of a module and their AdamW.  ``name`` is for messages: ``the policy``."""

    def __init__(self, module: nn.Module, lr: float, max_grad_norm: float, name: str):
        self.parameters = list(trainable_parameters(module).values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=0.0)
        self.max_grad_norm, self.name = max_grad_norm, name

    def backward(self, loss: Tensor) -> float:
        """Add the loss's gradient; returns the loss.  Raises NonFiniteError if it is not a number."""
        self._require_finite(loss, "loss")
        loss.backward()
        return loss.item()

    def step(self) -> float:
        """Clip the gradient, step, clear; returns the gradient's length before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self._require_finite(norm, "gradient")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm.item()

    def _require_finite(self, number: Tensor, what: str) -> None:
        if not math.isfinite(number.item()):
            raise NonFiniteError(f"{self.name}'s {what} is {number.item()}.")


def mini_batches(rollouts: Rollouts, count: int, generator: torch.Generator) -> Iterator[Rollouts]:
    """The batch in random order, in at most ``count`` parts."""
    order = torch.randperm(len(rollouts), generator=generator, device=generator.device)
    for rows in order.chunk(count):
        yield rollouts.select(rows)


def micro_batches(batch: Rollouts, size: int | None) -> Iterator[tuple[Rollouts, Tensor]]:
    """The batch in parts small enough for memory, each with the rows it came from."""
    rows = torch.arange(len(batch), device=batch.response_mask.device)
    for part in rows.split(size or len(batch)):
        yield batch.select(part), part
