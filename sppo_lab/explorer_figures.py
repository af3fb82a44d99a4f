"""The figure of the variance explorer: what the exact answers say at one setting, with a study's measured points.

Each panel makes its artists once and ``show`` moves them: making axes, ticks and legends anew takes most of a redraw.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sppo_lab.bandit import Bandit, Estimator
from sppo_lab.figures import BLUE, GREY, ORANGE, VERMILION, keep_titles
from sppo_lab.horizon import TokenEstimator, TokenTask, late_critic
from sppo_lab.variance_figures import values_off_by

PROMPTS = 12
SIZES = (2, 4, 8, 16, 32)
HALVES = (0.0, 0.5, 1.0)
P = np.linspace(0, 1, 101)
GROUP_METHODS = {"rloo": (ORANGE, "-", 4, "rloo, dr-grpo"), "grpo": (VERMILION, "--", 1.5, "grpo")}  # often alike
ROOM = 1.35  # of an axis over what is drawn below the legend


class VariancePanels:
    """Four linked panels: noise against G, silent rollouts against p, E[A^2] against p, noise against the horizon.

    ``measured`` are the metrics of a study, whose steps are drawn as points.
    """

    def __init__(self, measured: pd.DataFrame | None = None):
        self.figure = Figure(figsize=(10.6, 6.4))
        FigureCanvasAgg(self.figure)  # keeps its measures of words between redraws
        self.figure.subplots_adjust(left=0.06, right=0.985, top=0.95, bottom=0.09, hspace=0.36, wspace=0.16)
        axes = self.figure.subplots(2, 2)
        self.sizes, self.silent = GroupSizes(axes[0, 0]), Silent(axes[0, 1], measured)
        self.moment, self.horizon = SecondMoment(axes[1, 0], measured), Horizon(axes[1, 1])
        for ax in axes.flat:
            ax.yaxis.get_major_locator().set_params(nbins=4)
            ax.spines[["top", "right"]].set_visible(False)
        keep_titles(axes.flat)

    def show(
        self,
        solve_rate: float = 0.4,
        spread: float = 0.3,
        group_size: int = 8,
        error: float = 0.1,
        rollouts: int = 64,
        length: int = 16,
    ) -> Figure:
        """The one figure, at these settings.

        The prompts' solve rates lie evenly within ``solve_rate`` plus and minus ``spread``, kept inside 0.02 to 0.98.
        ``error`` is what the critic is off by.
        """
        self.sizes.show(solve_rates(solve_rate, spread), group_size, error, rollouts)
        self.silent.show(solve_rate, group_size)
        self.moment.show(solve_rate, error)
        self.horizon.show(solve_rate, length)
        return self.figure


def solve_rates(middle: float, spread: float) -> torch.Tensor:
    """(PROMPTS,) solve rates of the bandit's prompts."""
    return torch.linspace(middle - spread, middle + spread, PROMPTS).clamp(0.02, 0.98)


@lru_cache(maxsize=1024)
def noise(rates: tuple[float, ...], name: str, group_size: int, error: float) -> float:
    """Noise-to-signal of an estimator on the bandit, exactly, of one group; at N rollouts it is G / N of that."""
    bandit = Bandit.with_solve_rates(torch.tensor(rates))
    values = values_off_by(bandit, error).clamp(0, 1)
    return 1 / bandit.moments(Estimator.of(name, group_size), group_size, values).signal_to_noise


class GroupSizes:
    """Noise-to-signal against the group size, at equal rollouts; the marks are at the group size chosen."""

    def __init__(self, ax: Axes):
        self.ax = ax
        self.sppo = ax.axhline(1, color=BLUE, linewidth=2, label="sppo")
        self.curves = {
            name: ax.plot([], [], style, color=color, linewidth=width, label=label)[0]
            for name, (color, style, width, label) in GROUP_METHODS.items()
        }
        self.marks = {name: ax.plot([], [], "o", color=color)[0] for name, (color, *_) in GROUP_METHODS.items()}
        ax.set_xscale("log", base=2)
        ax.set_xticks(SIZES, [str(size) for size in SIZES])
        ax.minorticks_off()
        ax.set(xlabel="group size G", xlim=(1.8, 35), title="Noise-to-signal")
        draw_legend(ax, 0.1, 3)

    def show(self, rates: torch.Tensor, group_size: int, error: float, rollouts: int) -> None:
        given, size = tuple(rates.tolist()), min(group_size, rollouts)
        sizes = sorted({size for size in SIZES if size <= rollouts} | {size})
        single = noise(given, "sppo", 1, error) / rollouts
        self.sppo.set_ydata([single, single])
        top = single
        for name, curve in self.curves.items():
            found = [noise(given, name, size, 0.0) * size / rollouts for size in sizes]
            curve.set_data(sizes, found)
            self.marks[name].set_data([size], [found[sizes.index(size)]])
            top = max(top, *found)
        self.ax.set_ylim(0, ROOM * top)
        self.ax.title.set_text(f"Noise-to-signal, {rollouts} rollouts, critic off by {error:g}")


class Silent:
    """Share of rollouts whose group is all right or all wrong, ``p^G + (1 - p)^G``."""

    def __init__(self, ax: Axes, measured: pd.DataFrame | None):
        (self.curve,) = ax.plot([], [], color=VERMILION, label="groups of G, all prompts alike")
        (self.mark,) = ax.plot([], [], "o", color=VERMILION)
        draw_measured(ax, measured, "grpo", "frac_reward_zero_std", "measured, groups of 8")
        ax.axhline(0, color=BLUE, linewidth=2, label="sppo, unless V = R")
        ax.set(title="Rollouts without signal", xlabel="solve rate p", xticks=HALVES)
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.03, 1.03))
        draw_legend(ax, 0.28)
        self.ax = ax

    def show(self, solve_rate: float, group_size: int) -> None:
        self.curve.set_data(P, silent_share(P, group_size))
        self.mark.set_data([solve_rate], [silent_share(solve_rate, group_size)])
        self.ax.title.set_text(f"Rollouts without signal, G = {group_size}")


def silent_share(p, group_size: int):
    """Chance that a group of a prompt with solve rate ``p``, a number or an array, is all right or all wrong."""
    return p**group_size + (1 - p) ** group_size


def squared_error(p, error: float):
    """Mean of ``(p - V)^2`` for V off by ``error``, up as often as down, kept inside 0 to 1; p a number or array."""
    up, down = np.minimum(p + error, 1) - p, p - np.maximum(p - error, 0)
    return (up**2 + down**2) / 2


class SecondMoment:
    """``E[A^2] = p(1 - p) + (p - V)^2``."""

    def __init__(self, ax: Axes, measured: pd.DataFrame | None):
        self.ax, self.coin = ax, P * (1 - P)
        ax.fill_between(P, 0, self.coin, color=GREY, alpha=0.3, linewidth=0, label="p(1 - p), irreducible")
        (self.band,) = ax.fill(P, self.coin, color=BLUE, alpha=0.4, linewidth=0, label="the critic's squared error")
        (self.mark,) = ax.plot([], [], "o", color=BLUE)
        draw_measured(ax, measured, "sppo", "advantage/second_moment", "measured, sppo")
        ax.set(title="Second moment of SPPO's advantage", xlabel="solve rate p", xlim=(-0.01, 1.01), xticks=HALVES)
        draw_legend(ax, 0.28)

    def show(self, solve_rate: float, error: float) -> None:
        lower, upper = np.stack([P, self.coin]), np.stack([P, self.coin + squared_error(P, error)])
        self.band.set_xy(np.concatenate([lower, upper[:, ::-1]], 1).T)
        self.mark.set_data([solve_rate], [solve_rate * (1 - solve_rate) + squared_error(solve_rate, error)])
        self.ax.set_ylim(0, 1.6 * upper[1].max())


def draw_measured(ax: Axes, measured: pd.DataFrame | None, algorithm: str, metric: str, label: str) -> None:
    """A study's steps in tens: mean reward against a metric, mean over its seeds."""
    if measured is None or algorithm not in set(measured["algorithm"]):
        return
    steps = measured[measured["algorithm"] == algorithm]
    means = steps.groupby((steps["step"] - 1) // 10)[["reward", metric]].mean()
    ax.plot(means["reward"], means[metric], "x", color="black", markersize=5, label=label)


class Horizon:
    """Noise-to-signal of one response of T tokens that must all be right."""

    def __init__(self, ax: Axes):
        styles = {"sequence": (BLUE, "-"), "exact": (GREY, "--"), "late": (VERMILION, "-.")}
        self.ax = ax
        self.curves = {
            name: ax.plot([], [], style, color=color, marker="o", markersize=4, label=LABELS[name])[0]
            for name, (color, style) in styles.items()  # the marks are all there is where T = 1
        }
        ax.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        ax.set(title="Noise-to-signal of one response", xlabel="tokens T, all must be right")
        draw_legend(ax, 0.03)

    def show(self, solve_rate: float, length: int) -> None:
        lengths = sorted({1, max(1, length // 4), max(1, length // 2), length})
        for name, curve in self.curves.items():
            curve.set_data(lengths, [horizon_noise(name, solve_rate, t) for t in lengths])
        top = max(max(curve.get_ydata()) for curve in self.curves.values())
        self.ax.set(xlim=(0.9, max(length, 2) + 0.1), ylim=(0, 1.2 * ROOM * top))  # three lines of legend


def draw_legend(ax: Axes, left: float, columns: int = 1) -> None:
    """Lines and words at a fixed place, from ``left`` on, a share of the axes.

    ``ax.legend`` would lay itself out anew at every redraw, which takes a third of it.
    """
    for number, (handle, label) in enumerate(zip(*ax.get_legend_handles_labels(), strict=True)):
        row, column = divmod(number, columns)
        start, height = left + 0.3 * column, 0.94 - 0.085 * row
        at = {"transform": ax.transAxes, "clip_on": False}
        ax.plot([start, start + 0.03, start + 0.06], [height] * 3, **sample(handle), **at)
        ax.text(start + 0.08, height, label, fontsize=9, va="center_baseline", **at)


def sample(handle: Artist) -> dict[str, Any]:
    """The look of a line in a legend; that of a surface is a broad one."""
    if not isinstance(handle, Line2D):
        return {"color": np.ravel(handle.get_facecolor()), "linewidth": 7, "solid_capstyle": "butt"}
    names = ("color", "linestyle", "linewidth", "marker", "markersize")
    return {name: getattr(handle, f"get_{name}")() for name in names} | {"markevery": [1]}


LABELS = {"sequence": "R - V(s_p)", "exact": "GAE 0.95, exact V(s_t)", "late": "GAE 0.95, V(s_t) late"}
TOKEN_ESTIMATORS = {
    "sequence": TokenEstimator("sequence"),
    "exact": TokenEstimator("exact", TokenTask.values, lam=0.95),
    "late": TokenEstimator("late", lambda task: late_critic(task, 0.8), lam=0.95),
}


@lru_cache(maxsize=1024)
def horizon_noise(name: str, solve_rate: float, length: int) -> float:
    """Noise-to-signal of a token estimator, exactly."""
    task = TokenTask.all_right(length, min(max(solve_rate, 0.02), 0.98))
    return float(TOKEN_ESTIMATORS[name].moments(task).noise_to_signal)
