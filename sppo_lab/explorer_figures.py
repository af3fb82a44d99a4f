"""The figure of the variance explorer: what the exact answers say at one setting, with a study's measured points."""

from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sppo_lab.bandit import Bandit, Estimator
from sppo_lab.figures import BLUE, GREY, ORANGE, VERMILION
from sppo_lab.horizon import TokenEstimator, TokenTask, late_critic
from sppo_lab.variance_figures import values_off_by

PROMPTS = 12
SIZES = (2, 4, 8, 16, 32)
HALVES = (0.0, 0.5, 1.0)
GROUP_METHODS = (("rloo", ORANGE, "-."), ("grpo", VERMILION, "--"))


def explorer_figure(
    solve_rate: float = 0.4,
    spread: float = 0.3,
    group_size: int = 8,
    error: float = 0.1,
    rollouts: int = 64,
    length: int = 16,
    measured: pd.DataFrame | None = None,
) -> Figure:
    """Four linked panels: noise against G, silent rollouts against p, E[A^2] against p, noise against the horizon.

    The prompts' solve rates lie evenly within ``solve_rate`` plus and minus ``spread``, kept inside 0.02 to 0.98.
    ``error`` is what the critic is off by; ``measured`` the metrics of a study, whose steps are drawn as points.
    """
    figure = Figure(figsize=(11, 6.4))
    figure.subplots_adjust(left=0.07, right=0.985, top=0.95, bottom=0.09, hspace=0.36, wspace=0.2)
    axes = figure.subplots(2, 2)
    draw_group_sizes(axes[0, 0], solve_rates(solve_rate, spread), group_size, error, rollouts)
    draw_silent(axes[0, 1], solve_rate, group_size, measured)
    draw_second_moment(axes[1, 0], solve_rate, error, measured)
    draw_horizon(axes[1, 1], solve_rate, length)
    for ax in axes.flat:
        ax.yaxis.get_major_locator().set_params(nbins=4)  # ticks take most of the time of a redraw
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    return figure


def solve_rates(middle: float, spread: float) -> torch.Tensor:
    """(PROMPTS,) solve rates of the bandit's prompts."""
    return torch.linspace(middle - spread, middle + spread, PROMPTS).clamp(0.02, 0.98)


@lru_cache(maxsize=256)
def noise(rates: tuple[float, ...], name: str, group_size: int, error: float, rollouts: int) -> float:
    """Noise-to-signal of an estimator on the bandit, exactly."""
    bandit = Bandit.with_solve_rates(torch.tensor(rates))
    values = values_off_by(bandit, error).clamp(0, 1)
    return 1 / bandit.moments(Estimator.of(name, group_size), rollouts, values).signal_to_noise


def draw_group_sizes(ax: Axes, rates: torch.Tensor, group_size: int, error: float, rollouts: int) -> None:
    given = tuple(rates.tolist())
    ax.axhline(
        noise(given, "sppo", 1, error, rollouts), color=BLUE, linewidth=2, label=f"sppo, critic off by {error:g}"
    )
    sizes = sorted({size for size in SIZES if size <= rollouts} | {min(group_size, rollouts)})
    for name, color, style in GROUP_METHODS:
        found = [noise(given, name, size, 0.0, rollouts) for size in sizes]
        ax.plot(sizes, found, style, color=color, label=name)
        ax.plot(group_size, found[sizes.index(min(group_size, rollouts))], "o", color=color)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set(title=f"Noise-to-signal, {rollouts} rollouts", xlabel="group size G", ylim=(0, None))


def draw_silent(ax: Axes, solve_rate: float, group_size: int, measured: pd.DataFrame | None) -> None:
    """Share of rollouts whose group is all right or all wrong, ``p^G + (1 - p)^G``."""
    p = np.linspace(0, 1, 101)
    ax.plot(
        p, p**group_size + (1 - p) ** group_size, color=VERMILION, label=f"groups of {group_size}, all prompts alike"
    )
    ax.plot(solve_rate, solve_rate**group_size + (1 - solve_rate) ** group_size, "o", color=VERMILION)
    draw_measured(ax, measured, "grpo", "frac_reward_zero_std", "measured, groups of 8")
    ax.axhline(0, color=BLUE, linewidth=2, label="sppo, unless V = R")
    ax.set(title="Rollouts without signal", xlabel="solve rate p", ylim=(-0.03, 1.03), xlim=(0, 1), xticks=HALVES)


def draw_second_moment(ax: Axes, solve_rate: float, error: float, measured: pd.DataFrame | None) -> None:
    """``E[A^2] = p(1 - p) + error^2``."""
    p = np.linspace(0, 1, 101)
    coin = p * (1 - p)
    ax.fill_between(p, 0, coin, color=GREY, alpha=0.3, label="p(1 - p), irreducible")
    ax.fill_between(p, coin, coin + error**2, color=BLUE, alpha=0.4, label="the critic's squared error")
    ax.plot(solve_rate, solve_rate * (1 - solve_rate) + error**2, "o", color=BLUE)
    draw_measured(ax, measured, "sppo", "advantage/second_moment", "measured, sppo")
    ax.set(title="Second moment of SPPO's advantage", xlabel="solve rate p", xlim=(0, 1), ylim=(0, 0.4), xticks=HALVES)


def draw_measured(ax: Axes, measured: pd.DataFrame | None, algorithm: str, metric: str, label: str) -> None:
    """A study's steps in tens: mean reward against a metric, mean over its seeds."""
    if measured is None or algorithm not in set(measured["algorithm"]):
        return
    steps = measured[measured["algorithm"] == algorithm]
    means = steps.groupby((steps["step"] - 1) // 10)[["reward", metric]].mean()
    ax.plot(means["reward"], means[metric], "x", color="black", markersize=5, label=label)


def draw_horizon(ax: Axes, solve_rate: float, length: int) -> None:
    """Noise-to-signal of one response of T tokens that must all be right."""
    lengths = sorted({1, max(1, length // 4), max(1, length // 2), length})
    for name, (color, style) in {"sequence": (BLUE, "-"), "exact": (GREY, "--"), "late": (VERMILION, "-.")}.items():
        ax.plot(lengths, [horizon_noise(name, solve_rate, t) for t in lengths], style, color=color, label=LABELS[name])
    ax.set(title="Noise-to-signal of one response", xlabel="tokens T, all must be right", ylim=(0, None))


LABELS = {"sequence": "R - V(s_p)", "exact": "GAE 0.95, exact V(s_t)", "late": "GAE 0.95, V(s_t) late"}
TOKEN_ESTIMATORS = {
    "sequence": TokenEstimator("sequence"),
    "exact": TokenEstimator("exact", TokenTask.values, lam=0.95),
    "late": TokenEstimator("late", lambda task: late_critic(task, 0.8), lam=0.95),
}


@lru_cache(maxsize=256)
def horizon_noise(name: str, solve_rate: float, length: int) -> float:
    """Noise-to-signal of a token estimator, exactly."""
    task = TokenTask.all_right(length, min(max(solve_rate, 0.02), 0.98))
    return float(TOKEN_ESTIMATORS[name].moments(task).noise_to_signal)
