"""Taking a batch apart and stepping an optimizer: what the updates of policy and critic share."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sppo_lab.errors import NonFiniteError
from sppo_lab.memory import Result, within_memory
from sppo_lab.parallel import add_up_gradients, add_up_numbers, share
from sppo_lab.rollout import Rollouts

PASS_COST = {"cpu": 32, "cuda": 2048}  # what one more pass costs, in tokens: between 1,000 and 5,000 on an H200


class Learner:
    """Weights, by name, and their AdamW.  ``name`` is for messages: ``the policy``.

    ``part`` responses go through the model at a time, None for all; when the memory does not suffice it is halved.

    With ``half``, where the loss comes through layers in float16, it is multiplied so that small gradients are not
    rounded to 0, and the gradients are divided again before the step.  A gradient that is not finite is left out;
    so many in a row raise NonFiniteError.
    """

    PATIENCE = 20  # updates in a row left out; a fresh loss scale takes up to 16 to find its size

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        lr: float,
        max_grad_norm: float,
        name: str,
        half: bool = False,
        part: int | None = None,
    ):
        self.parameters = list(weights.values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=0.0)
        self.scaler = torch.amp.GradScaler(self.parameters[0].device.type, enabled=half)
        self.max_grad_norm, self.name, self.part = max_grad_norm, name, part
        self.skipped = 0  # updates left out since the last one that was not

    def within_memory(self, batch: Rollouts, attempt: Callable[[int], Result]) -> Result:
        """``attempt(part)``, with half of it where the memory does not suffice, and then from now on."""
        size = min(self.part or len(batch), len(batch))
        result, fitted = within_memory(size, attempt, "micro_batch_size")
        if fitted < size:
            self.part = fitted
        return result

    def backward(self, loss: Tensor) -> float:
        """Add the loss's gradient; returns the loss.  Raises NonFiniteError if it is not a number."""
        if not math.isfinite(loss.item()):
            raise NonFiniteError(f"{self.name}'s loss is {loss.item()}.")
        self.scaler.scale(loss).backward()
        return loss.item()

    def accumulate(
        self, batch: Rollouts, loss_of: Callable[[Rollouts, Tensor], tuple[Tensor, dict[str, float]]]
    ) -> dict[str, float]:
        """The gradient of a loss that is a sum over responses, in as many parts as the memory asks for.

        ``loss_of(part, rows)`` is the share of those rows of the batch in it, and in what is measured.  Returns the
        sums over all parts and processes; ``loss`` is the loss's.
        """

        def attempt(size: int) -> dict[str, float]:
            self.optimizer.zero_grad()
            sums: dict[str, float] = defaultdict(float)
            for part, rows in micro_batches(batch, size):
                loss, measured = loss_of(part, rows)
                sums["loss"] += self.backward(loss)
                for name, number in measured.items():
                    sums[name] += number
            return sums

        sums = add_up_numbers(self.within_memory(batch, attempt))
        add_up_gradients(self.parameters)
        return sums

    def gradients(self) -> list[Tensor]:
        """The gradient of each weight as the loss has it, whatever the loss was multiplied by."""
        return [weight.grad / self.scaler.get_scale() for weight in self.parameters]

    def step(self) -> float | None:
        """Clip the gradient, step, clear; returns its length before clipping, None where it was left out."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm).item()
        finite = math.isfinite(norm)
        if finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped >= self.PATIENCE:
            raise NonFiniteError(f"{self.name}'s gradient was {norm} in {self.skipped} updates in a row.")
        return norm if finite else None

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["adamw"])
        self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]


def update_metrics(prefix: str, norms: list[float | None]) -> dict[str, float]:
    """``PREFIX/grad_norm``, the mean over the updates that were made, and ``PREFIX/skipped_updates``, of the others."""
    made = [norm for norm in norms if norm is not None]
    return {
        f"{prefix}/grad_norm": sum(made) / len(made) if made else 0.0,
        f"{prefix}/skipped_updates": float(len(norms) - len(made)),
    }


def mini_batches(rollouts: Rollouts, count: int, generator: torch.Generator) -> Iterator[Rollouts]:
    """The batch in random order, in at most ``count`` parts."""
    order = torch.randperm(len(rollouts), generator=generator, device=generator.device)
    for rows in order.chunk(count):
        yield rollouts.select(rows)


def micro_batches(batch: Rollouts, size: int) -> Iterator[tuple[Rollouts, Tensor]]:
    """This process's share of the batch in parts of at most ``size``, each with the rows it came from.

    Rows of like length go through the model together, so that little of the work is spent on padding.
    """
    rows = torch.tensor(share(len(batch)), dtype=torch.long, device=batch.response_mask.device)
    if not len(rows):
        return
    tokens = (batch.prompt_mask.sum(1) + batch.lengths)[rows]
    for alike in rows[tokens.argsort(stable=True)].split(like_lengths(tokens.sort().values.cpu(), rows.device.type)):
        for part in alike.split(size):
            yield batch.select(part), part


def like_lengths(tokens: Tensor, device: str) -> list[int]:
    """How many of the rows, whose tokens (B,) ascend, to take at a time: cut where that saves more than a pass costs.

    A cut after k rows spares each of them the padding up to the longest of all.
    """
    saved = torch.arange(1, len(tokens)) * (tokens[-1] - tokens[:-1])
    if len(tokens) == 1 or saved.max() <= PASS_COST.get(device, PASS_COST["cuda"]):
        return [len(tokens)]
    cut = int(saved.argmax()) + 1
    return like_lengths(tokens[:cut], device) + like_lengths(tokens[cut:], device)
