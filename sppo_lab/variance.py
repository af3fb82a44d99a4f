"""Where an advantage's variance comes from: the coin's own noise and the critic's error, along a run and a response.

The raw variance of the advantage compares algorithms only while none of them scales it: a whitened advantage has
variance 1 and one divided by its group's deviation about 1, whatever the estimator.  What counts is the variance of
the *gradient*, at an equal number of rollouts, against its length: see ``gradient.py``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from sppo_lab.algorithms import at_equal_rollouts, get_algorithm
from sppo_lab.checkpoint import load_weights
from sppo_lab.errors import LabError
from sppo_lab.evaluate import Evaluation
from sppo_lab.recorder import Recorder
from sppo_lab.rollout import Rollouts
from sppo_lab.trainer import Trainer


@dataclass(frozen=True)
class Split:
    """``E[A^2] = noise + error`` of ``A = R - V(s_p)``."""

    noise: float  # E[p(1 - p)]: no baseline removes it
    error: float  # E[(p - V)^2]: what the critic adds

    @property
    def second_moment(self) -> float:
        return self.noise + self.error


def split_second_moment(solved: np.ndarray, samples: int, values: np.ndarray) -> Split:
    """The split from k samples per prompt, without bias: k of n successes say p(1 - p) with a factor k / (k - 1).

    ``solved`` (N,) counts the right responses of ``samples`` to each prompt, ``values`` (N,) is V(s_p).
    """
    if samples < 2:
        raise LabError("splitting the advantage's variance needs at least 2 samples per prompt: raise eval_samples.")
    rates = np.asarray(solved) / samples
    spread = rates * (1 - rates) / (samples - 1)  # the variance of each rate as an estimate of p
    noise = spread * samples
    error = (rates - np.asarray(values)) ** 2 - spread
    return Split(float(noise.mean()), float(error.mean()))


def split_evaluation(evaluation: Evaluation) -> Split:
    """The split at an evaluated policy and critic."""
    if evaluation.values is None:
        raise LabError("this run has no critic, so there is no V to split the advantage's variance by.")
    return split_second_moment(np.array(evaluation.solved), evaluation.samples, np.array(evaluation.values))


def trainer_at(
    folder: str | Path, algorithm: str, step: int | None = None, *, warmup: int = 0, **changes: Any
) -> Trainer:
    """A trainer of ``algorithm`` at the policy of a run (its newest checkpoint, or that of ``step``).

    It samples as many responses for one estimate as the run did per step; ``changes`` are fields of Config.  With
    ``warmup`` a learnt baseline first learns from that many batches, while the policy is held still; it starts from
    the run's own where the run holds one.  Without, an algorithm whose baseline the run does not hold raises LabError.
    """
    recorder = Recorder.open(folder)
    kind, own = get_algorithm(algorithm).baseline, get_algorithm(recorder.config.algorithm).baseline
    if kind not in ("none", own) and not warmup:
        raise LabError(
            f"{algorithm} needs a trained baseline ({kind}), which the {recorder.config.algorithm} run in {folder} "
            "does not hold: give a run of that algorithm, or let it learn one with warmup = 100 batches."
        )
    config = recorder.config.replace(**{"group_size": None} | changes | {"algorithm": algorithm})
    trainer = Trainer(at_equal_rollouts(config.replace(critic_warmup=warmup)))
    load_weights(recorder.checkpoint_of(step), trainer.policy, trainer.critic if kind == own else None)
    if kind != "none":
        for _ in tqdm(range(warmup), desc=f"baseline of {algorithm}", unit="batch"):
            trainer.train_step()
    return trainer


@dataclass(frozen=True)
class Separation:
    """What a critic of tokens says along right and along wrong responses, per part of the response's length."""

    places: np.ndarray  # (bins,) the middle of each part, as a share of the length
    areas: np.ndarray  # (bins,) AUC there: chance that V is higher in a right response than in a wrong one
    right: np.ndarray  # (bins,) mean V there in right responses
    wrong: np.ndarray  # (bins,) and in wrong ones


def separation_by_position(values: Tensor, rewards: Tensor, lengths: Tensor, bins: int = 10) -> Separation:
    """How early V(s_t) tells right from wrong responses.

    ``values`` (B, T), ``rewards`` and ``lengths`` (B,).  An AUC of 0.5 is chance.  A critic of tokens that separates
    the responses only at their end shows the tail effect.  Source: arXiv 2604.08865, figures 1 and 9.
    """
    places = (np.arange(bins) + 0.5) / bins
    rewards = rewards.cpu().numpy()
    right, wrong = rewards > 0.5, rewards <= 0.5
    if not right.any() or not wrong.any():
        raise LabError("there are only right or only wrong responses, so nothing can be told apart: sample more.")
    rows = []
    for place in places:
        position = (place * lengths).long().clamp(max=values.shape[1] - 1)
        at = values.gather(1, position[:, None]).squeeze(1).cpu().numpy()
        statistic = stats.mannwhitneyu(at[right], at[wrong]).statistic
        rows.append((statistic / (right.sum() * wrong.sum()), at[right].mean(), at[wrong].mean()))
    return Separation(places, *np.array(rows).T)


def sample_token_values(trainer: Trainer, responses: int) -> Rollouts:
    """Judged responses to the first training prompts, with what the critic says before every token in ``values``."""
    if trainer.algorithm.baseline not in ("token", "token-bce"):
        raise LabError(f"{trainer.config.algorithm} has no value per token: give a run of ppo or ppo-bce.")
    problems = trainer.task.train[:responses]
    rollouts = trainer.sample(problems)
    rollouts.rewards = trainer.judge(rollouts, problems)
    rollouts.action_starts = rollouts.response_mask
    rollouts.values = trainer.baseline.values(rollouts)
    return rollouts
