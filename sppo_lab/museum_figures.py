"""Figures and cards of the museum of mistakes, right beside wrong; they draw what they are given."""

import inspect
from html import escape

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sppo_lab.figures import BLUE, GREEN, GREY, ORANGE, VERMILION
from sppo_lab.museum import Bug
from sppo_lab.rollout import Rollouts


def curves_figure(panels: dict[str, tuple[str, pd.DataFrame, pd.DataFrame]]) -> Figure:
    """Reward above, the number that tells below; title to (metric, right run, wrong run), a column each."""
    figure = Figure(figsize=(max(6.0, 3.9 * len(panels)), 5.2), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False)
    for column, (title, (metric, right, wrong)) in zip(axes.T, panels.items(), strict=True):
        for ax, name in zip(column, ("reward", metric), strict=True):
            ax.plot(right["step"], right[name], "-o", color=BLUE, markersize=3, label="right")
            ax.plot(wrong["step"], wrong[name], "--x", color=VERMILION, markersize=5, label="with the mistake")
            ax.set(title=f"{title}: {name}" if name == "reward" else name, xlabel="step")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            plain(ax)
        column[0].set_ylim(-0.03, 1.03)
    axes[0, 0].legend(frameon=False, loc="upper left")
    return figure


def portraits_figure(panels: dict[str, list[tuple[Tensor, Tensor]]], epsilon: float = 0.2) -> Figure:
    """The logarithm of each token's ratio before any update, against its log-probability when sampled.

    Title to the pairs (sampled, scored), each (N,): one pair, or the right version and the wrong one.  Between the
    dotted lines the ratio is within the clip range.
    """
    figure = Figure(figsize=(3.1 * len(panels), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    styles = ((BLUE, "o", "right"), (VERMILION, "x", "with the mistake"))
    for ax, (title, pairs) in zip(axes, panels.items(), strict=True):
        for bound in (1 - epsilon, 1 + epsilon):
            ax.axhline(np.log(bound), color=GREY, linestyle=":", linewidth=1)
        for (sampled, scored), (color, mark, label) in zip(pairs, styles, strict=False):
            ax.plot(sampled, scored - sampled, mark, color=color, markersize=4, alpha=0.6, label=label)
        ax.set(title=title, xlabel="log-probability, sampled")
        plain(ax)
    axes[0].set_ylabel("log ratio, before any update")
    if max(map(len, panels.values())) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, ncols=2, loc="outside lower center")
    return figure


def groups_figure(panels: dict[str, Rollouts], group_size: int, groups: int = 8) -> Figure:
    """The advantage of each response in the first groups of a batch, right ones and wrong ones; a panel per batch."""
    figure = Figure(figsize=(11, 2.1 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    groups = min(groups, *(len(rollouts) // group_size for rollouts in panels.values()))
    places = np.arange(group_size * groups)
    for ax, (title, rollouts) in zip(axes, panels.items(), strict=True):
        advantages = rollouts.advantages[: len(places), 0].numpy()
        rewards = rollouts.rewards[: len(places)].numpy()
        ax.axhline(0, color=GREY, linewidth=1)
        for edge in range(1, groups):
            ax.axvline(edge * group_size - 0.5, color=GREY, linestyle=":", linewidth=1)
        for reward, color, mark, label in ((1, GREEN, "^", "R = 1"), (0, ORANGE, "v", "R = 0")):
            chosen = rewards == reward
            ax.plot(places[chosen], advantages[chosen], mark, color=color, markersize=7, label=label)
        missing = np.isnan(advantages)
        ax.plot(places[missing], 0 * places[missing], "x", color="black", markersize=6, label="not a number")
        ax.set(title=title, ylabel="A", xlim=(-0.7, len(places) - 0.3))
        ax.set_xticks([])
        plain(ax)
    axes[0].legend(frameon=False, ncols=3, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1))
    axes[-1].set_xlabel(f"responses; dotted lines separate prompts, {group_size} responses each")
    return figure


def cases_figure(runs: dict[str, pd.DataFrame], names: list[str]) -> Figure:
    """Logged numbers of runs that nobody has explained: a row per run, a column per number."""
    figure = Figure(figsize=(2.9 * len(names), 2.2 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), len(names), squeeze=False, sharex=True, sharey="col")
    for row, (label, run) in zip(axes, runs.items(), strict=True):
        for ax, name in zip(row, names, strict=True):
            if name in run:
                ax.plot(run["step"], run[name], "-o", color=BLUE, markersize=3)
            else:
                ax.text(0.5, 0.5, "not logged", ha="center", va="center", color=GREY, transform=ax.transAxes)
            plain(ax)
        row[0].set_ylabel(f"case {label}", fontsize=12)
    for name, above, below in zip(names, axes[0], axes[-1], strict=True):
        above.set_title(name, fontsize=10)
        below.set_xlabel("step")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def plain(ax: Axes) -> None:
    """A panel without its upper and right frame."""
    ax.spines[["top", "right"]].set_visible(False)


def card(title: str, bug: Bug) -> HTML:
    """What stands beside an exhibit, folded: its name, the lines, how it comes about, what tells, the test."""
    where = f"{bug.right.__module__.replace('.', '/')}.py, {bug.right.__qualname__}"
    parts = [
        f"<p><b>{escape(bug.name[0].upper() + bug.name[1:])}.</b> {escape(bug.slip)}</p>",
        f"<p>As people write it:</p>{code(bug.wrong_code)}",
        f"<p>In the package ({escape(where)}):</p>{code(bug.right_code)}",
        f"<p><b>It tells itself by</b> <code>{escape(bug.metric)}</code>. {escape(bug.symptom)}</p>",
        f"<p><b>Caught by</b> <code>tests/{escape(bug.test)}</code></p>",
        f"<details><summary>The whole wrong function</summary>{code(inspect.getsource(bug.wrong))}</details>",
    ]
    return HTML(f"<details><summary><b>{escape(title)}</b> (open)</summary>{''.join(parts)}</details>")


def code(text: str) -> str:
    """Lines of code as HTML."""
    return f"<pre style='margin:0.3em 2em; font-family:monospace'>{escape(text)}</pre>"
