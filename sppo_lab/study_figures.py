"""The picture of a study: accuracy while training, final accuracy, and what the verdict rests on."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sppo_lab.figures import BLUE, GREEN, GREY, ORANGE, VERMILION
from sppo_lab.statistics import bootstrap_mean

LOOKS = {  # color and line style, the same in every picture of a study
    "sppo": (BLUE, "-"),
    "sppo-small-critic": (BLUE, "--"),
    "ppo": (VERMILION, "-"),
    "ppo-bce": (VERMILION, "--"),
    "grpo": (ORANGE, "-"),
    "rloo": (ORANGE, "--"),
    "dr-grpo": (ORANGE, ":"),
    "dapo": (ORANGE, "-."),
    "remax": (GREEN, "-"),
    "reinforce": (GREEN, "--"),
}


def study_figure(summary: pd.DataFrame, metrics: pd.DataFrame, window: int = 640) -> Figure:
    """Reward against rollouts, mean over seeds; final accuracy of every seed; advantage variance of every seed."""
    names = [(name, rate) for name, rate in summary[["algorithm", "lr"]].drop_duplicates().itertuples(index=False)]
    searched = len({name for name, _ in names}) < len(names)
    labels = [f"{name}, lr {rate:g}" if searched else name for name, rate in names]
    figure = Figure(figsize=(13, max(3.8, 0.32 * len(names) + 1.4)), layout="constrained")
    curves, accuracy, variance = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    for (name, rate), label in zip(names, labels, strict=True):
        color, style = LOOKS.get(name, (GREY, "-"))
        runs = metrics[(metrics["algorithm"] == name) & (metrics["lr"] == rate)]
        mean = runs.groupby("step")[["num_rollouts", "reward"]].mean()
        steps = max(1, round(window / mean["num_rollouts"].iloc[0]))
        curves.plot(
            mean["num_rollouts"],
            mean["reward"].rolling(steps, min_periods=1).mean(),
            style,
            color=color,
            linewidth=1.6,
            label=label,
        )
    curves.set(
        title=f"Training reward, mean over seeds and {window} responses",
        xlabel="rollouts",
        ylabel="share of right responses",
        ylim=(0, 1),
    )
    if not searched:
        curves.legend(frameon=False, loc="lower right", fontsize=8, ncols=2)
    strips(accuracy, summary, names, labels, "accuracy")
    accuracy.set(title="Accuracy after training", xlabel="avg@k on the test problems")
    strips(variance, summary, names, labels, "advantage_variance")
    variance.set(title="Advantage variance, unscaled", xlabel="mean over training", xlim=(0, None))
    variance.set_yticklabels([])
    for ax in (curves, accuracy, variance):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def strips(ax: Axes, summary: pd.DataFrame, names: list[tuple[str, float]], labels: list[str], column: str) -> None:
    """A row per algorithm: every seed a dot, and the mean with its bootstrap interval."""
    rows = np.arange(len(names))[::-1]
    for row, (name, rate) in zip(rows, names, strict=True):
        color, _ = LOOKS.get(name, (GREY, "-"))
        values = summary[(summary["algorithm"] == name) & (summary["lr"] == rate)][column].to_numpy()
        found = bootstrap_mean(values)
        ax.plot(values, np.full(len(values), row + 0.22), "o", color=color, markersize=4, alpha=0.55, markeredgewidth=0)
        ax.plot(found.mean, row, "D", color=color, markersize=5)
        if found.low is not None:
            ax.plot([found.low, found.high], [row, row], color=color, linewidth=2)
    ax.set_yticks(rows, labels)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.grid(axis="x", color=GREY, alpha=0.25)
