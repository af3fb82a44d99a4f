"""Looking at runs with and without a mistake: the logged metrics, a few further numbers, and the first batch."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor

from sppo_lab.config import Config
from sppo_lab.errors import NonFiniteError
from sppo_lab.museum.rooms import Bug
from sppo_lab.rollout import Rollouts, response_logprobs
from sppo_lab.selection import groups_with_signal
from sppo_lab.tasks import Task, load_task
from sppo_lab.trainer import Trainer


def watch(config: Config, bug: Bug | None = None) -> pd.DataFrame:
    """The steps of a run, a row each: what the loop logs, and ``clues``.  Where a run breaks off, clues alone."""
    rows = []
    with switched(bug):
        trainer = Trainer(config, some_problems())
        try:
            for record in trainer:
                rows.append(record.metrics | clues(trainer, record.rollouts))
        except NonFiniteError:
            rows.append({"step": trainer.step + 1} | clues(trainer, trainer.rollouts))
    return pd.DataFrame(rows)


def first_batch(config: Config, bug: Bug | None = None) -> tuple[Rollouts, Tensor]:
    """The first batch, its advantages formed, and the log-probabilities (B, T) of its tokens scored once more."""
    with switched(bug), torch.no_grad():
        trainer = Trainer(config, some_problems())
        _, rollouts = trainer.collect()
        trainer.form_advantages(rollouts)
        logprobs, _ = response_logprobs(trainer.policy.model, rollouts, trainer.config.temperature)
    return rollouts, logprobs


def scored_tokens(config: Config, bug: Bug | None = None) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the N tokens in the first batch's loss, when sampled and scored once more, each (N,)."""
    rollouts, logprobs = first_batch(config, bug)
    inside = rollouts.response_mask.bool()
    return rollouts.old_logprobs[inside], logprobs[inside]


@functools.cache
def some_problems(count: int = 512) -> Task:
    """The first training problems of the embedded task: a trainer that reads but these starts sooner."""
    whole = load_task("chain-sum")
    return dataclasses.replace(whole, train=whole.train[:count], test=[])


@contextlib.contextmanager
def switched(bug: Bug | None) -> Iterator[None]:
    """The mistake on, if there is one; dropout draws from a seed of its own."""
    with torch.random.fork_rng(devices=[]), contextlib.nullcontext() if bug is None else bug.switched_on():
        torch.manual_seed(0)
        yield


def clues(trainer: Trainer, rollouts: Rollouts) -> dict[str, float]:
    """Numbers that the loop does not log, of a batch that it has just learnt from."""
    size = trainer.config.group_size
    right, ended = rollouts.rewards == 1, ~rollouts.truncated
    of_response = (rollouts.raw_advantages * rollouts.response_mask).sum(1) / rollouts.lengths
    characters = torch.tensor([len(text) for text in rollouts.texts])  # the embedded model has a token per character
    found = {
        "A, right minus wrong": of_response[right].mean() - of_response[~right].mean(),
        "A that is no number": rollouts.advantages.isnan().any(1).float().mean(),
        "tokens beyond the text": (rollouts.lengths - characters)[ended].float().mean(),
    }
    if size > 1:
        silent = ~groups_with_signal(rollouts.rewards, size).repeat_interleave(size)
        found["|A| without signal"] = of_response[silent].abs().mean()
    if trainer.critic is not None and rollouts.values.dim() == 1:
        found["V moved by padding"] = moved_by_padding(trainer, rollouts)
    return {name: float(number) for name, number in found.items()}


def moved_by_padding(trainer: Trainer, rollouts: Rollouts, rows: int = 4) -> Tensor:
    """Largest change of V, over the first rows of a batch, when a prompt is valued alone, so without padding."""
    together = trainer.baseline.values(rollouts)[:rows]
    alone = [trainer.baseline.values(rollouts.select(torch.tensor([row]))) for row in range(rows)]
    return (torch.cat(alone) - together).abs().max()
