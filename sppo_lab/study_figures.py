"""The picture of a study: accuracy while training, final accuracy, and what the verdict rests on; or of a search."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sppo_lab.figures import BLUE, GREEN, GREY, ORANGE, VERMILION
from sppo_lab.statistics import best_rates, bootstrap_mean

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
    """Reward against rollouts, mean over seeds; final accuracy of every seed; advantage variance of every seed.

    Where an algorithm has several learning rates: accuracy against the learning rate.
    """
    names = list(summary["algorithm"].unique())
    if len(summary[["algorithm", "lr"]].drop_duplicates()) > len(names):
        return search_figure(summary)
    figure = Figure(figsize=(13, max(3.8, 0.32 * len(names) + 1.4)), layout="constrained")
    curves, accuracy, variance = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    for name in names:
        color, style = LOOKS.get(name, (GREY, "-"))
        runs = metrics[metrics["algorithm"] == name]
        mean = runs.groupby("step")[["num_rollouts", "reward"]].mean()
        steps = max(1, round(window / mean["num_rollouts"].iloc[0]))
        curves.plot(
            mean["num_rollouts"],
            mean["reward"].rolling(steps, min_periods=1).mean(),
            style,
            color=color,
            linewidth=1.6,
            label=name,
        )
    curves.set(
        title=f"Training reward, mean over seeds and {window} responses",
        xlabel="rollouts",
        ylabel="share of right responses",
        ylim=(0, 1),
    )
    curves.legend(frameon=False, loc="lower right", fontsize=8, ncols=2)
    strips(accuracy, summary, names, "accuracy")
    accuracy.set(title="Accuracy after training", xlabel="avg@k on the test problems")
    strips(variance, summary, names, "advantage_variance")
    variance.set(title="Advantage variance, unscaled", xlabel="mean over training", xlim=(0, None))
    variance.set_yticklabels([])
    for ax in (curves, accuracy, variance):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def strips(ax: Axes, summary: pd.DataFrame, names: list[str], column: str) -> None:
    """A row per algorithm: every seed a dot, and the mean with its bootstrap interval."""
    rows = np.arange(len(names))[::-1]
    for row, name in zip(rows, names, strict=True):
        color, _ = LOOKS.get(name, (GREY, "-"))
        values = summary[summary["algorithm"] == name][column].to_numpy()
        found = bootstrap_mean(values)
        ax.plot(values, np.full(len(values), row + 0.22), "o", color=color, markersize=4, alpha=0.55, markeredgewidth=0)
        ax.plot(found.mean, row, "D", color=color, markersize=5)
        if found.low is not None:
            ax.plot([found.low, found.high], [row, row], color=color, linewidth=2)
    ax.set_yticks(rows, names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.grid(axis="x", color=GREY, alpha=0.25)


def search_figure(summary: pd.DataFrame) -> Figure:
    """Accuracy against the learning rate: mean over seeds as a line, the best rate of each algorithm marked."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    ax = figure.subplots()
    for name, best in best_rates(summary).items():
        color, style = LOOKS.get(name, (GREY, "-"))
        means = summary[summary["algorithm"] == name].groupby("lr")["accuracy"].mean()
        ax.plot(means.index, means, style, color=color, marker="o", markersize=4, label=name)
        ax.plot(best, means[best], "D", color=color, markersize=9, fillstyle="none")
    rates = sorted(summary["lr"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.set(
        title="Search over learning rates, the best of each marked", xlabel="learning rate", ylabel="avg@k, held out"
    )
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.spines[["top", "right"]].set_visible(False)
    return figure
