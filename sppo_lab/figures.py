"""Figures from records.  They draw what is handed to them and return a matplotlib ``Figure``; nothing is global.

The colours are Okabe and Ito's, which people with colour-vision deficiencies can tell apart; lines differ in
style as well.
"""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from sppo_lab.evaluate import Evaluation, critic_quality

if TYPE_CHECKING:
    from sppo_lab.recorder import Recorder

DRAWING = threading.RLock()  # matplotlib draws in one thread at a time; cells, front ends and runs call from several
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7F7F7F"
RUN_STYLES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (ORANGE, ":"))


def run_figure(run: "Recorder") -> Figure:
    """A run in six panels: reward, length, V against pass rate, advantage, clipping, entropy."""
    metrics, before, after = run.metrics(), run.evaluation("before"), run.evaluation("after")
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)
    axes = figure.subplots(2, 3).ravel()
    config = run.config
    figure.suptitle(
        f"{config.algorithm} on {config.task}, model {Path(config.model).name}, seed {config.seed}", fontsize=12
    )
    if metrics.empty:
        for ax in axes:
            ax.set_axis_off()
        axes[1].text(0.5, 0.5, "no step has been recorded yet", ha="center", va="center")
        return figure
    draw_reward(axes[0], metrics, before, after)
    draw_length(axes[1], metrics, config.max_new_tokens)
    draw_calibration(axes[2], after or before, "after" if after else "before")
    draw_advantage(axes[3], metrics)
    draw_clipping(axes[4], metrics)
    draw_entropy(axes[5], metrics)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def comparison_figure(runs: dict[str, pd.DataFrame], names: list[str]) -> Figure:
    """The same metrics of several runs over each other, a panel per metric; at most four runs."""
    return Comparison(names).show(runs)


class Comparison:
    """Panels, one per metric, that ``show`` fills with up to four runs, as often as one likes.

    The artists are made once and moved: making them anew takes most of a redraw.
    """

    def __init__(self, names: list[str]):
        width = 3.5 * len(names)
        self.figure = Figure(figsize=(width, 3.6))
        FigureCanvasAgg(self.figure)  # keeps its measures of words between redraws
        self.figure.subplots_adjust(left=0.5 / width, right=1 - 0.22 / width, top=0.91, bottom=0.23, wspace=0.2)
        self.axes = dict(zip(names, self.figure.subplots(1, len(names), squeeze=False)[0], strict=True))
        self.lines: list[dict[str, tuple[Line2D, Line2D]]] = []  # a run's, by metric
        for name, ax in self.axes.items():
            ax.set(title=name, xlabel="step")
            ax.locator_params(nbins=6)
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.spines[["top", "right"]].set_visible(False)
        keep_titles(self.axes.values())
        self.shown: list[str] = []

    def show(self, runs: dict[str, pd.DataFrame]) -> Figure:
        """The one figure with these runs: label to its metrics.  A metric that a run lacks is left out."""
        for color, style in RUN_STYLES[len(self.lines) : len(runs)]:
            self.lines.append({name: empty_series(ax, color, style) for name, ax in self.axes.items()})
        empty = pd.DataFrame({"step": []} | {name: [] for name in self.axes})
        for place, lines in enumerate(self.lines):
            metrics = list(runs.values())[place] if place < len(runs) else empty
            for name, (faint, strong) in lines.items():
                known = metrics if name in metrics else empty
                faint.set_data(known["step"], known[name])
                strong.set_data(known["step"], smooth(known[name]))
        for ax in self.axes.values():
            ax.relim()
            ax.autoscale_view()
        if self.shown != list(runs):
            self.shown = list(runs)
            first = next(iter(self.axes))
            handles = [lines[first][1] for lines in self.lines[: len(runs)]]
            below = {"loc": "upper left", "bbox_to_anchor": (0, -0.18), "borderaxespad": 0}  # where no curve runs
            self.axes[first].legend(handles, self.shown, frameon=False, ncols=4, **below)
        return self.figure


def empty_series(ax: Axes, color: str, style: str) -> tuple[Line2D, Line2D]:
    """The two lines of ``draw_series``, with nothing in them yet."""
    (faint,) = ax.plot([], [], color=color, alpha=0.25, linewidth=1)
    (strong,) = ax.plot([], [], color=color, linestyle=style, linewidth=2)
    return faint, strong


def empty(ax: Axes) -> None:
    """Take away what is drawn; the axes, their ticks, titles and legend stay, which take longest to make."""
    for container in list(ax.containers):
        container.remove()
    for artist in [*ax.lines, *ax.patches, *ax.collections, *ax.texts]:
        artist.remove()


def keep_titles(axes: Iterable[Axes]) -> None:
    """Leave the titles where they are; else matplotlib measures every tick for them, a fifth of a redraw."""
    for ax in axes:
        ax.set_title(ax.get_title(), y=1.0)


def draw_reward(ax: Axes, metrics: pd.DataFrame, before: Evaluation | None, after: Evaluation | None) -> None:
    """The sampled reward of each step, and avg@k on the test problems with its interval at both ends."""
    draw_series(ax, metrics, "reward", BLUE, "sampled, training prompts")
    last = metrics["step"].iloc[-1]
    for evaluation, step, label in ((before, 0, "test, avg@{}"), (after, last, None)):
        if evaluation is not None:
            low, high = evaluation.accuracy_interval
            mean = evaluation.accuracy
            ax.errorbar(
                [step],
                [mean],
                yerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]],
                fmt="D",
                color=VERMILION,
                capsize=4,
                zorder=3,
                label=label and label.format(evaluation.samples),
            )
            side = 8 if step == 0 else -8
            ax.annotate(
                f"{mean:.2f}",
                (step, mean),
                (side, 9),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                color=VERMILION,
                path_effects=[withStroke(linewidth=3, foreground="white")],  # where it lies on a curve
            )
    ax.set(title="Reward", xlabel="step", ylabel="share of right responses", ylim=(-0.03, 1.08))
    ax.legend(frameon=False, loc="lower right")


def draw_length(ax: Axes, metrics: pd.DataFrame, limit: int) -> None:
    """Mean response length; the limit is drawn once responses come near it."""
    draw_series(ax, metrics, "completions/mean_length", BLUE)
    top = metrics["completions/mean_length"].max()
    if top > 0.6 * limit:
        ax.axhline(limit, color=GREY, linestyle=":")
        ax.annotate("max_new_tokens", (metrics["step"].iloc[0], limit), (0, 3), textcoords="offset points", color=GREY)
    ax.set(title="Response length", xlabel="step", ylabel="tokens")
    ax.set_ylim(bottom=0)


def draw_calibration(ax: Axes, evaluation: Evaluation | None, when: str) -> None:
    """V(s_p) of each test prompt against the share of its responses that are right."""
    ax.set(title="Critic", xlabel="V(s_p), test prompts", ylabel="pass rate", xlim=(-0.03, 1.03), ylim=(-0.05, 1.05))
    if evaluation is None or evaluation.values is None:
        ax.text(
            0.5, 0.5, "this algorithm has no critic" if evaluation else "not evaluated yet", ha="center", va="center"
        )
        return
    values = np.array(evaluation.values)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    # Pass rates lie on a grid of k + 1 levels: a little vertical noise keeps equal points apart.
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, len(values)) / evaluation.samples
    ax.plot(values, evaluation.pass_rates + noise, "o", color=GREEN, alpha=0.45, markersize=4)
    pearson = critic_quality(values, evaluation.pass_rates)["pearson"]
    found = "a constant" if pearson is None else f"Pearson {pearson:.2f}"
    ax.set_title(f"Critic {when} training: {found}")


def draw_advantage(ax: Axes, metrics: pd.DataFrame) -> None:
    """Variance of the advantage, beside that of the reward: the difference is what the baseline explains."""
    draw_series(ax, metrics, "advantage/variance", BLUE, "advantage")
    noise = metrics["reward_std"] ** 2
    ax.plot(metrics["step"], smooth(noise), color=ORANGE, linestyle="--", label="reward alone")
    ax.set(title="Variance of the advantage", xlabel="step", ylabel="variance")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)


def draw_clipping(ax: Axes, metrics: pd.DataFrame) -> None:
    """Share of tokens whose gradient the clip removes."""
    ax.set(title="Clipped tokens", xlabel="step", ylabel="share of response tokens")
    if is_missing(ax, metrics, "clip_ratio/region_mean"):
        return
    draw_series(ax, metrics, "clip_ratio/high_mean", BLUE, "upper bound, A > 0")
    draw_series(ax, metrics, "clip_ratio/low_mean", VERMILION, "lower bound, A < 0", style="--")
    ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1])  # so that a line at 0 is seen
    ax.legend(frameon=False)


def draw_entropy(ax: Axes, metrics: pd.DataFrame) -> None:
    """Mean entropy of the next token."""
    ax.set(title="Entropy", xlabel="step", ylabel="nats per token")
    if is_missing(ax, metrics, "entropy"):
        return
    draw_series(ax, metrics, "entropy", BLUE)
    ax.set_ylim(bottom=0)


def is_missing(ax: Axes, metrics: pd.DataFrame, name: str) -> bool:
    """Whether the policy has not been updated yet, so that there is nothing to draw; then the panel says so."""
    if name in metrics:
        return False
    ax.text(0.5, 0.5, "the policy has not been updated yet", ha="center", va="center", transform=ax.transAxes)
    return True


def draw_series(
    ax: Axes, metrics: pd.DataFrame, name: str, color: str, label: str | None = None, style: str = "-"
) -> None:
    """One metric over steps: faint as measured, strong as a running mean."""
    ax.plot(metrics["step"], metrics[name], color=color, alpha=0.25, linewidth=1)
    ax.plot(metrics["step"], smooth(metrics[name]), color=color, linestyle=style, linewidth=2, label=label)


def smooth(series: pd.Series) -> pd.Series:
    """Running mean over a fifteenth of the run, centred."""
    return series.rolling(max(1, len(series) // 15), center=True, min_periods=1).mean()
