"""Figures of the critic: why its loss is BCE, how it learns, and how far its values can be believed.

They draw plain arrays and return a matplotlib ``Figure``.  N prompts, each with V(s_p) and its pass rate.  Margins are
set by hand, which draws faster than ``layout="constrained"``: a slider redraws these.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sppo_lab.errors import LabError
from sppo_lab.figures import BLUE, GREEN, GREY, ORANGE, VERMILION, empty, keep_titles

BESIDE = {"frameon": False, "loc": "upper left", "bbox_to_anchor": (1.01, 1)}  # a legend that no point can touch


@dataclass(frozen=True)
class Reliability:
    """What happened, per bin of equal width of what the critic said; 0 in a bin that holds nothing."""

    values: np.ndarray  # (bins,) mean V
    outcomes: np.ndarray  # (bins,) mean outcome: the share of right responses
    margins: np.ndarray  # (bins,) half a 95 % interval of that mean over prompts; 0 for fewer than two prompts
    counts: np.ndarray  # (bins,) prompts

    @property
    def filled(self) -> np.ndarray:
        """(bins,) True where there is something to draw."""
        return self.counts > 0


def reliability(values: ArrayLike, outcomes: ArrayLike, bins: int = 10) -> Reliability:
    """Values (N,) in [0, 1] and outcomes (N,), rewards or pass rates, in ``bins`` bins of V; V = 1 is in the last.

    Source: Guo et al. 2017 (arXiv 1706.04599), section 2.
    """
    values, outcomes = paired(values, outcomes)
    place = np.minimum((values * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    share = np.maximum(counts, 1)
    mean_value = np.bincount(place, values, bins) / share
    mean_outcome = np.bincount(place, outcomes, bins) / share
    squares = np.bincount(place, (outcomes - mean_outcome[place]) ** 2, bins)
    margins = 1.96 * np.sqrt(squares / np.maximum(counts - 1, 1) / share)
    return Reliability(mean_value, mean_outcome, margins, counts)


def paired(values: ArrayLike, outcomes: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays (N,); LabError unless they are as many, at least one, and the values probabilities."""
    values, outcomes = np.asarray(values, dtype=float), np.asarray(outcomes, dtype=float)
    if values.shape != outcomes.shape or values.ndim != 1 or len(values) == 0:
        raise LabError(f"expected as many values as outcomes, found shapes {values.shape} and {outcomes.shape}.")
    if values.min() < 0 or values.max() > 1:
        raise LabError("a reliability diagram needs values in [0, 1]: take the sigmoid of the critic's logits first.")
    return values, outcomes


def reliability_figure(values: ArrayLike, outcomes: ArrayLike, bins: int = 10) -> Figure:
    """Reliability diagram: mean outcome against mean V per bin with 95 % intervals, and the prompts in each bin."""
    return ReliabilityPanels().show(values, outcomes, bins)


class ReliabilityPanels:
    """The two panels of ``reliability_figure``, which ``show`` draws into as often as one likes."""

    def __init__(self):
        self.figure = Figure(figsize=(8.2, 5.6))
        FigureCanvasAgg(self.figure)  # keeps its measures of words between redraws
        self.figure.subplots_adjust(left=0.085, right=0.67, bottom=0.09, top=0.94, hspace=0.1)
        self.upper, self.lower = self.figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        self.upper.set(title="Reliability: what happened where the critic said V", ylabel="mean pass rate")
        self.upper.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
        self.lower.set(xlabel="V(s_p)", ylabel="prompts")
        finish(self.upper, self.lower)

    def show(self, values: ArrayLike, outcomes: ArrayLike, bins: int = 10) -> Figure:
        """The one figure, of these values (N,) and outcomes (N,)."""
        found = reliability(values, outcomes, bins)
        empty(self.upper)
        empty(self.lower)
        draw_diagonal(self.upper, "calibrated")
        draw_bins(self.upper, found)
        bars = self.lower.bar((np.arange(bins) + 0.5) / bins, found.counts, 0.9 / bins, color=GREY)
        self.lower.bar_label(bars, [str(count) if count else "" for count in found.counts], fontsize=8, padding=1)
        self.lower.set_ylim(0, 1.25 * found.counts.max())
        if self.upper.get_legend() is None:
            self.upper.legend(**BESIDE)
        return self.figure


def draw_bins(ax: Axes, found: Reliability) -> None:
    """The mean of each bin that holds something, with its interval inside [0, 1]."""
    low = np.minimum(found.margins, found.outcomes)
    high = np.minimum(found.margins, 1 - found.outcomes)
    filled = found.filled
    ax.errorbar(
        found.values[filled],
        found.outcomes[filled],
        yerr=[low[filled], high[filled]],
        fmt="-o",
        color=BLUE,
        capsize=4,
        label="mean of a bin, 95 % interval",
    )


def regression_figure(
    values: ArrayLike, pass_rates: ArrayLike, groups: int = 5, title: str = "V against pass rate"
) -> Figure:
    """V against pass rate, a dot per prompt, with the mean of each given the other.

    The prompts are cut into ``groups`` of about equal size, once by pass rate and once by V.  A calibrated critic has
    its second line on the diagonal; the first is then flatter, because ``slope = Var(V) / Var(p)`` for such a critic.
    """
    values, pass_rates = paired(values, pass_rates)
    figure = Figure(figsize=(8.2, 5.4))
    figure.subplots_adjust(left=0.085, right=0.67, bottom=0.1, top=0.93)
    ax = figure.subplots()
    draw_diagonal(ax, "V = pass rate")
    ax.axhline(values.mean(), color=GREY, linestyle=":", linewidth=1, label="mean V")
    ax.plot(pass_rates, values, "o", color=GREEN, alpha=0.35, markersize=4, label="a prompt")
    for key, style, color, label in (
        (pass_rates, "-o", BLUE, "mean V at a pass rate"),
        (values, "--s", VERMILION, "mean pass rate at a V"),
    ):
        parts = equal_parts(key, groups)
        rates, said = ([column[part].mean() for part in parts] for column in (pass_rates, values))
        ax.plot(rates, said, style, color=color, linewidth=2, label=label)
    ax.set(title=title, xlabel="pass rate", ylabel="V(s_p)")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ax.legend(**BESIDE)
    finish(ax)
    return figure


def equal_parts(key: np.ndarray, groups: int) -> list[np.ndarray]:
    """Rows in at most ``groups`` parts of about equal size by ascending key; equal keys stay together."""
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order])) + 1  # where another key begins
    wanted = np.arange(1, groups) * len(key) / groups
    cuts = {int(starts[np.abs(starts - place).argmin()]) for place in wanted} if len(starts) else set()
    return np.split(order, sorted(cuts))


def bce_gradient(value: ArrayLike, reward: ArrayLike) -> np.ndarray:
    """Gradient of BCE at the logit of V: ``V - R``.  ``reward`` may be a solve rate: the loss is linear in R."""
    return np.asarray(value, dtype=float) - reward


def squared_gradient(value: ArrayLike, reward: ArrayLike) -> np.ndarray:
    """Gradient of half the squared error at the logit of V: ``(V - R) V (1 - V)``, by the chain rule."""
    value = np.asarray(value, dtype=float)
    return (value - reward) * value * (1 - value)


def descent(gradient, start: float, reward: float, rate: float, steps: int) -> np.ndarray:
    """V after 0, 1, ... ``steps`` steps of gradient descent on the logit alone, (steps + 1,)."""
    logit = np.log(start / (1 - start))
    found = [start]
    for _ in range(steps):
        logit -= rate * float(gradient(found[-1], reward))
        found.append(1 / (1 + np.exp(-logit)))
    return np.array(found)


def value_gradient_figure(
    start: float = 0.02, reward: float = 1.0, rate: float = 1.0, steps: int = 60, values: ArrayLike | None = None
) -> Figure:
    """The gradients of BCE and of squared error at the logit, and where each takes a V that starts at ``start``.

    Raises LabError unless ``start`` lies between 0 and 1, where the logit is finite.
    """
    if not 0 < start < 1:
        raise LabError(f"start = {start:g}, but V lies between 0 and 1: its logit must be finite.")
    values = np.linspace(0, 1, 101) if values is None else np.asarray(values, dtype=float)
    figure = Figure(figsize=(10, 3.8))
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.13, top=0.92, wspace=0.2)
    left, right = figure.subplots(1, 2)
    for gradient, style, color, label in (
        (bce_gradient, "-", BLUE, "BCE: V - R"),
        (squared_gradient, "--", VERMILION, "squared error: (V - R) V (1 - V)"),
    ):
        left.plot(values, gradient(values, reward), style, color=color, linewidth=2, label=label)
        way = descent(gradient, start, reward, rate, steps)
        right.plot(np.arange(steps + 1), way, style, color=color, linewidth=2, label=label.split(":")[0])
    left.axhline(0, color=GREY, linewidth=1)
    left.axvline(start, color=GREY, linestyle=":", linewidth=1.5, label=f"V = {start:g}")
    right.axhline(reward, color=GREY, linestyle=":", linewidth=1.5, label=f"R = {reward:g}")
    left.set(title=f"Gradient at the logit, R = {reward:g}", xlabel="V", ylabel="gradient", xlim=(0, 1))
    right.set(title=f"Descent from V = {start:g}", xlabel="step", ylabel="V", ylim=(-0.03, 1.08))
    left.legend(frameon=False, fontsize=9)
    right.legend(frameon=False, fontsize=9, loc="lower right" if reward > 0.5 else "upper right")
    finish(left, right)
    return figure


def critic_learning_figure(
    losses: ArrayLike, steps: ArrayLike, held_out: ArrayLike, references: dict[str, float]
) -> Figure:
    """A critic's BCE while it learns: each training batch, and held-out prompts at ``steps``, beside constants.

    ``losses`` (S,) is one loss per training step, ``steps`` and ``held_out`` (M,) are measurements along the way,
    ``references`` at most four labelled losses, from the highest to the lowest.
    """
    losses = np.asarray(losses, dtype=float)
    figure = Figure(figsize=(8, 4))
    figure.subplots_adjust(left=0.09, right=0.7, bottom=0.13, top=0.92)
    ax = figure.subplots()
    ax.plot(np.arange(1, len(losses) + 1), losses, color=BLUE, alpha=0.25, linewidth=1, label="each training batch")
    ax.plot(steps, held_out, "-o", color=BLUE, linewidth=2, markersize=4, label="held-out prompts")
    looks = zip((GREY, ORANGE, GREEN, VERMILION), (":", "-.", (0, (5, 1)), "--"), strict=True)
    for (label, level), (color, style) in zip(references.items(), looks, strict=False):
        ax.axhline(level, color=color, linestyle=style, linewidth=1.5, label=f"{label}, {level:.3f}")
    ax.set(title="The critic's loss", xlabel="step", ylabel="BCE, nats per response")
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    finish(ax)
    return figure


def draw_diagonal(ax: Axes, label: str) -> None:
    """The line on which both axes agree."""
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label=label)


def finish(*axes: Axes) -> None:
    """The frame of every figure here: no line above, none at the right."""
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    keep_titles(axes)
