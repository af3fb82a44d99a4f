"""The policy-gradient estimator of an algorithm at a policy that is held still: its noise, its signal, its direction.

Everything follows from repeated batches and the inner products of their gradients.  With K the (R, R) matrix of these
products, the mean of its diagonal is ``|g|^2 + tr Cov`` and the mean off the diagonal is ``|g|^2``, both without bias.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from sppo_lab.errors import LabError
from sppo_lab.evaluate import Interval
from sppo_lab.metrics import batch_metrics
from sppo_lab.rollout import Rollouts
from sppo_lab.trainer import Trainer
from sppo_lab.update import accumulate_gradient


def policy_gradient(trainer: Trainer, batch: Rollouts) -> Tensor:
    """The gradient of the loss over all LoRA parameters, (D,), as the first update of a step would see it."""
    learner = trainer.learner
    accumulate_gradient(trainer.policy, learner, batch, trainer.config)
    found = torch.cat([gradient.flatten() for gradient in learner.gradients()])
    learner.optimizer.zero_grad()
    return found


@dataclass(frozen=True)
class GradientSample:
    """Gradients from independent batches, sampled from a policy that did not move."""

    algorithm: str
    rollouts: float  # responses sampled for one gradient, greedy and replaced ones included
    gradients: Tensor  # (R, D)
    silent: float  # share of the responses whose advantage is 0
    second_moment: float  # of the advantage before scaling


def sample_gradients(trainer: Trainer, repeats: int, progress: Callable[..., Any] = tqdm) -> GradientSample:
    """``repeats`` batches and their gradients, without any update.  LabError for fewer than 3, which say no spread."""
    if repeats < 3:
        raise LabError("an interval for a gradient's variance needs at least 3 repeats.")
    gradients, silent, second = [], [], []
    before = trainer.num_rollouts
    for _ in progress(range(repeats), desc=f"gradients of {trainer.config.algorithm}", unit="batch"):
        _, sampled = trainer.collect()
        trainer.form_advantages(sampled)
        silent.append(float((sampled.advantages.abs().amax(1) == 0).float().mean()))
        second.append(batch_metrics(sampled, trainer.config.group_size)["advantage/second_moment"])
        gradients.append(policy_gradient(trainer, trainer.select(sampled)))
    return GradientSample(
        algorithm=trainer.config.algorithm,
        rollouts=(trainer.num_rollouts - before) / repeats,
        gradients=torch.stack(gradients).cpu(),
        silent=float(np.mean(silent)),
        second_moment=float(np.mean(second)),
    )


@dataclass(frozen=True)
class GradientNoise:
    """What repeated batches say of one estimator; intervals are of 95 %."""

    algorithm: str
    rollouts: int  # responses that one estimate costs
    repeats: int
    variance: float  # trace of the covariance
    variance_interval: Interval
    signal: float  # squared length of the mean gradient; may come out below 0 where noise drowns it
    signal_to_noise: float  # signal / variance: free of scale, doubling every advantage changes nothing
    signal_to_noise_interval: Interval
    silent: float  # share of the responses whose advantage is 0
    second_moment: float  # of the advantage before scaling

    @property
    def noise_to_signal(self) -> float:
        """Infinite where the signal came out at or below 0."""
        return reciprocal(self.signal_to_noise)

    @property
    def noise_to_signal_interval(self) -> Interval:
        low, high = self.signal_to_noise_interval
        return reciprocal(high), reciprocal(low)


def reciprocal(number: float) -> float:
    return 1 / number if number > 0 else float("inf")


def gradient_noise(sample: GradientSample, rollouts: int | None = None) -> GradientNoise:
    """Variance and signal of an estimator, with jackknife intervals.

    ``rollouts`` is the budget of a comparison, where the sample's batches are of another size: the variance of a mean
    of independent batches falls as one over its size.
    """
    products = inner_products(sample.gradients, sample.gradients)
    scale = 1.0 if rollouts is None else sample.rollouts / rollouts
    (variance, ratio), (variance_interval, ratio_interval) = jackknife(
        lambda kept: noise_and_ratio(products[np.ix_(kept, kept)], scale), len(products)
    )
    return GradientNoise(
        algorithm=sample.algorithm,
        rollouts=rollouts or round(sample.rollouts),
        repeats=len(products),
        variance=variance,
        variance_interval=(max(0.0, variance_interval[0]), variance_interval[1]),
        signal=ratio * variance,
        signal_to_noise=ratio,
        signal_to_noise_interval=ratio_interval,
        silent=sample.silent,
        second_moment=sample.second_moment,
    )


def noise_and_ratio(products: np.ndarray, scale: float) -> np.ndarray:
    """(2,): trace of the covariance times ``scale``, and signal over that, from the (R, R) inner products.

    Where no batch had any gradient both are 0.
    """
    signal = off_diagonal_mean(products)
    variance = scale * (products.trace() / len(products) - signal)
    return np.array([variance, signal / variance if variance > 0 else 0.0])


def cosine(first: GradientSample, second: GradientSample) -> tuple[float, Interval]:
    """Cosine between two estimators' mean gradients, corrected for the noise in both lengths, and its interval.

    The samples must come from different batches.  1 means the same direction; NaN where noise drowns a length.
    """
    between = inner_products(first.gradients, second.gradients)
    own, other = (inner_products(s.gradients, s.gradients) for s in (first, second))
    repeats = len(own)

    def of(kept: np.ndarray) -> np.ndarray:
        """``kept`` indexes both samples' batches, the second's after the first's."""
        a, b = kept[kept < repeats], kept[kept >= repeats] - repeats
        lengths = off_diagonal_mean(own[np.ix_(a, a)]) * off_diagonal_mean(other[np.ix_(b, b)])
        return np.array([between[np.ix_(a, b)].mean() / lengths**0.5 if lengths > 0 else np.nan])

    (estimate,), (interval,) = jackknife(of, repeats + len(other))
    return estimate, interval


def inner_products(first: Tensor, second: Tensor) -> np.ndarray:
    """(R, D) and (Q, D) to (R, Q), in double precision."""
    return (first.double() @ second.double().T).numpy()


def off_diagonal_mean(products: np.ndarray) -> float:
    """Mean over pairs of different batches."""
    count = len(products)
    return float((products.sum() - products.trace()) / (count * (count - 1)))


def jackknife(statistic: Callable[[np.ndarray], np.ndarray], count: int) -> tuple[np.ndarray, list[Interval]]:
    """A (M,) statistic of ``count`` independent pieces, and a 95 % interval for each number of it.

    Student's interval around the estimate, its spread from leaving out a piece at a time.
    """
    everything = np.arange(count)
    estimate = statistic(everything)
    without = np.stack([statistic(np.delete(everything, i)) for i in everything])
    spread = ((count - 1) / count * ((without - without.mean(0)) ** 2).sum(0)) ** 0.5
    half = stats.t.ppf(0.975, count - 1) * spread
    return estimate, [(float(e - h), float(e + h)) for e, h in zip(estimate, half, strict=True)]
