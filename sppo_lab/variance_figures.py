"""Figures of the lens on variance; they draw what is handed to them."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sppo_lab.bandit import Bandit, Estimator
from sppo_lab.figures import BLUE, GREEN, GREY, ORANGE, VERMILION, keep_titles
from sppo_lab.gradient import GradientNoise
from sppo_lab.variance import Separation, Split

STYLES = {"rloo": (ORANGE, "-.", "rloo, dr-grpo"), "grpo": (VERMILION, "--", "grpo")}


def values_off_by(bandit: Bandit, error: float) -> Tensor:
    """(C,) what a critic says that is off by ``error`` at every prompt, up or down in turn."""
    signs = torch.where(torch.arange(len(bandit.solve_rates)) % 2 == 0, 1.0, -1.0)
    return bandit.solve_rates + error * signs


def bandit_figure(solve_rates: Tensor, error: float = 0.0, rollouts: int = 64, sizes=(2, 4, 8, 16, 32)) -> Figure:
    """Exact noise-to-signal of the gradient at equal rollouts, and the share without signal, against the group size.

    ``error`` is what the critic of sppo is off by at every prompt, up or down in turn.
    """
    bandit = Bandit.with_solve_rates(solve_rates)
    values = values_off_by(bandit, error).clamp(0, 1)
    single = bandit.moments(Estimator.of("sppo", 1), rollouts, values)
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(1 / single.signal_to_noise, color=BLUE, linewidth=2, label=f"sppo, critic off by {error:g}")
    for name, (color, style, label) in STYLES.items():
        found = [bandit.moments(Estimator.of(name, size), rollouts) for size in sizes]
        left.plot(sizes, [1 / m.signal_to_noise for m in found], style, color=color, marker="o", label=label)
        if name == "grpo":
            right.plot(sizes, [m.silent for m in found], style, color=color, marker="o", label="every group method")
    right.axhline(single.silent, color=BLUE, linewidth=2, label="sppo")
    left.set(
        title=f"Noise-to-signal of the gradient, {rollouts} rollouts",
        xlabel="group size G",
        ylabel="variance / squared length",
        ylim=(0, None),
    )
    right.set(title="Rollouts without signal", xlabel="group size G", ylabel="share", ylim=(-0.03, 1.03))
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.minorticks_off()
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def critic_error_figure(solve_rates: Tensor, group_size: int = 8, rollouts: int = 64) -> Figure:
    """Exact noise-to-signal of sppo against its critic's error, beside a group method that needs no critic."""
    bandit = Bandit.with_solve_rates(solve_rates)
    errors = np.linspace(0, 0.5, 26)
    found = [bandit.moments(Estimator.of("sppo", 1), rollouts, values_off_by(bandit, float(e))) for e in errors]
    group = bandit.moments(Estimator.of("rloo", group_size), rollouts)
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    noise = found[0].second_moment
    left.fill_between(errors, 0, noise, color=GREY, alpha=0.35, label="E[p(1 - p)], irreducible")
    left.fill_between(errors, noise, [m.second_moment for m in found], color=BLUE, alpha=0.5, label="E[(p - V)^2]")
    left.set(title="Second moment of the advantage", xlabel="error of the critic", ylabel="E[A^2]", ylim=(0, None))
    right.plot(errors, [1 / m.signal_to_noise for m in found], color=BLUE, linewidth=2, label="sppo")
    right.axhline(
        1 / group.signal_to_noise, color=ORANGE, linestyle="-.", linewidth=2, label=f"rloo, {group_size} per prompt"
    )
    right.set(
        title=f"Noise-to-signal of the gradient, {rollouts} rollouts",
        xlabel="error of the critic",
        ylabel="variance / squared length",
        ylim=(0, None),
    )
    for ax in (left, right):
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def noise_figure(measured: dict[str, GradientNoise]) -> Figure:
    """Measured gradients at equal rollouts: variance, noise-to-signal, share without signal; label to its noise."""
    labels, found = list(measured), list(measured.values())
    figure = Figure(figsize=(11, 0.55 * len(found) + 1.6), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    rows = np.arange(len(found))[::-1]
    variance = np.array([noise.variance for noise in found])
    low, high = np.array([noise.variance_interval for noise in found]).T
    axes[0].barh(rows, variance, color=GREY, xerr=[variance - low, high - variance], capsize=4)
    axes[0].set(title="Variance (depends on the scale of A)", xlabel="trace of the covariance")
    ratio = np.array([noise.noise_to_signal for noise in found])
    ends = np.array([noise.noise_to_signal_interval for noise in found])
    known = ratio[np.isfinite(ratio)]
    limit = 2.5 * known.max() if len(known) else 1.0  # an interval may have no end
    axes[1].barh(rows, np.minimum(ratio, limit), color=BLUE, alpha=0.8)
    for row, value, (start, end) in zip(rows, ratio, ends, strict=True):
        if np.isinf(value):
            place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            axes[1].annotate("the signal drowns: more repeats", (0, row), **place)
            continue
        axes[1].plot([start, min(end, limit)], [row, row], color="black", linewidth=1.5)
        axes[1].plot(start, row, "|", color="black", markersize=9)
        axes[1].plot(
            min(end, limit), row, "|" if end <= limit else ">", color="black", markersize=9 if end <= limit else 5
        )
    axes[1].set(title="Noise-to-signal (free of scale)", xlabel="variance / squared length", xlim=(0, limit * 1.04))
    axes[2].barh(rows, [noise.silent for noise in found], color=VERMILION)
    axes[2].set(title="Rollouts without signal", xlabel="share", xlim=(0, 1))
    axes[0].set_yticks(rows, labels)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def split_figure(splits: dict[int, Split]) -> Figure:
    """Noise and critic's error along a training run, stacked."""
    steps = list(splits)
    noise = np.array([splits[step].noise for step in steps])
    error = np.array([splits[step].error for step in steps])
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(steps))
    ax.bar(places, noise, 0.6, color=GREY, label="E[p(1 - p)], irreducible")
    ax.bar(places, np.maximum(error, 0), 0.6, bottom=noise, color=BLUE, label="E[(p - V)^2], the critic")
    ax.set_xticks(places, [str(step) for step in steps])
    ax.set(title="Second moment of the advantage", xlabel="step", ylabel="E[A^2]", ylim=(0, None))
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def separation_figure(found: dict[str, Separation]) -> Figure:
    """V(s_t) along right and wrong responses, and how well it tells them apart; label to its separation."""
    figure = Figure(figsize=(10, 3.8))
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.13, top=0.92, wspace=0.2)
    left, right = figure.subplots(1, 2)
    for (label, one), color in zip(found.items(), (BLUE, VERMILION, GREEN, ORANGE), strict=False):
        left.plot(one.places, one.right, "-", color=color, marker="o", markersize=4, label=f"{label}, right")
        left.plot(one.places, one.wrong, "--", color=color, marker="x", markersize=5, label=f"{label}, wrong")
        right.plot(one.places, one.areas, "-", color=color, marker="o", markersize=4, label=label)
    right.axhline(0.5, color=GREY, linewidth=1)
    right.annotate("chance", (1, 0.5), (0, 3), textcoords="offset points", ha="right", color=GREY)
    left.set(title="What the critic says along the response", ylabel="mean V(s_t)", ylim=(-0.03, 1.03))
    right.set(title="Right from wrong by V(s_t)", ylabel="AUC", ylim=(0.4, 1.02))
    for ax in (left, right):
        ax.set(xlabel="place in the response, share of its length", xlim=(0, 1))
        ax.legend(frameon=False, fontsize=9, loc="lower right")
        ax.spines[["top", "right"]].set_visible(False)
    keep_titles((left, right))
    return figure
