"""Figures of the horizon: where credit lands, how noise and direction change with T, what lambda buys.

What takes computing is computed first, by ``grow`` and ``by_lambda``; the figures draw what is handed to them.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sppo_lab.bandit import Bandit, Estimator
from sppo_lab.figures import BLUE, GREEN, GREY, ORANGE, VERMILION
from sppo_lab.horizon import TokenEstimator, TokenTask

LINES = ((BLUE, "-"), (GREEN, "--"), (ORANGE, "-."), (VERMILION, ":"), (GREY, (0, (5, 1))))

Curves = dict[str, list[tuple[float, float]]]  # name to a pair of numbers per place on the horizontal axis


def grow(make: Callable[[int], TokenTask], lengths: Iterable[int], estimators: Iterable[TokenEstimator]) -> Curves:
    """Name to (noise-to-signal, cosine with the true gradient) for every length T, exactly."""
    found: Curves = {estimator.name: [] for estimator in estimators}
    for task in map(make, lengths):
        truth = task.gradient()
        for estimator in estimators:
            moments = estimator.moments(task)
            found[estimator.name].append((float(moments.noise_to_signal), float(moments.cosine(truth))))
    return found


def by_lambda(task: TokenTask, critics: dict[str, Tensor], lams: Iterable[float], rollouts: tuple[int, int]) -> Curves:
    """Name to the error left with the smaller and with the larger number of rollouts, for every lambda.

    A stack of critics (D, T + 1, T + 1) gives the mean over them.
    """
    truth = task.gradient()
    found: Curves = {}
    for name, critic in critics.items():
        moments = [task.moments(critic, 1.0, float(lam)) for lam in lams]
        found[name] = [tuple(float(m.error_left(truth, n).mean()) for n in rollouts) for m in moments]
    return found


def baseline_figure(bandit: Bandit, values: Tensor) -> Figure:
    """What the baseline ``values`` (N,), the same for every prompt, does to mean and variance of the gradient."""
    truth = bandit.gradient()
    estimator, prompts = Estimator.of("sppo", 1), len(bandit.solve_rates)
    found = [bandit.moments(estimator, 1, torch.full((prompts,), float(v))) for v in values]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(values, [float(m.mean.norm() / truth.norm()) for m in found], color=BLUE, linewidth=2, label="length")
    cosines = [float((m.mean * truth).sum() / m.mean.norm() / truth.norm()) for m in found]
    left.plot(values, cosines, "--", color=ORANGE, linewidth=2, label="cosine")
    left.set(title="Mean gradient, against the true one", ylim=(0, 1.2))
    variances = [m.variance for m in found]
    right.plot(values, variances, color=BLUE, linewidth=2)
    best = float(values[int(np.argmin(variances))])
    right.plot(best, min(variances), "o", color=VERMILION, label=f"lowest, V = {best:.2f}")
    right.axvline(float(bandit.solve_rates.mean()), color=GREY, linestyle=":", label="solve rate")
    right.set(title="Variance of the gradient", ylabel="trace of the covariance", ylim=(0, None))
    for ax in (left, right):
        ax.set_xlabel("baseline V")
    return finished(figure, (left, right))


def credit_figure(task: TokenTask, estimators: Iterable[TokenEstimator]) -> Figure:
    """Mean and standard deviation of the gradient estimate of one response, token by token."""
    places = np.arange(1, task.length + 1)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(places, task.gradient(), color=GREY, linewidth=7, alpha=0.4, label="true gradient")
    for estimator, (color, style) in zip(estimators, LINES, strict=False):
        moments = estimator.moments(task)
        left.plot(places, moments.mean, linestyle=style, color=color, linewidth=2, label=estimator.name)
        right.plot(places, moments.variance.sqrt(), linestyle=style, color=color, linewidth=2)
    left.set(title="Mean: where the credit lands", ylabel="gradient by the token's logit")
    right.set(title="Noise of one response", ylabel="standard deviation")
    for ax in (left, right):
        ax.set(xlabel="place in the response", ylim=(0, None))
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return finished(figure, (left, right), legend=False)


def horizon_figure(lengths: Iterable[int], found: dict[str, Curves], limit: float) -> Figure:
    """Noise and direction against T, a column per task; noise above ``limit`` leaves the panel."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, len(found), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
    for column, (title, curves) in enumerate(found.items()):
        for (name, pairs), (color, style) in zip(curves.items(), LINES, strict=False):
            for ax, numbers in zip(axes[:, column], zip(*pairs, strict=True), strict=True):
                ax.plot(list(lengths), numbers, linestyle=style, color=color, linewidth=2, label=name)
        axes[0, column].set_title(title)
        axes[1, column].set_xlabel("tokens T")
    axes[0, 0].set(ylabel="noise-to-signal, one response", ylim=(-0.02 * limit, limit))
    axes[1, 0].set(ylabel="cosine with the truth", ylim=(0.5, 1.03))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return finished(figure, axes.flat, legend=False)


def lambda_figure(lams: Iterable[float], found: Curves, rollouts: tuple[int, int]) -> Figure:
    """The error left against lambda, a panel per number of rollouts."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for (name, pairs), (color, style) in zip(found.items(), LINES, strict=False):
        for ax, numbers in zip(axes, zip(*pairs, strict=True), strict=True):
            ax.plot(list(lams), numbers, linestyle=style, color=color, linewidth=2, label=name)
    for ax, count in zip(axes, rollouts, strict=True):
        ax.set(title=f"{count} rollouts", xlabel="λ", ylim=(0, 1.02))
    axes[0].set_ylabel("error left after the best scaling")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return finished(figure, axes, legend=False)


def finished(figure: Figure, axes: Iterable[Axes], legend: bool = True) -> Figure:
    """Without the box around the panels, and with their legends."""
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        if legend:
            ax.legend(frameon=False)
    return figure
