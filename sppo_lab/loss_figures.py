"""Figures of advantage and loss; they draw what the package's own functions give for plain parameters.

Margins are set by hand, not by a layout engine, so that a slider can redraw them without a wait.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from sppo_lab.advantage import divide_by_group_std, group_mean_advantage, sequence_advantage
from sppo_lab.figures import BLUE, GREEN, GREY, ORANGE, VERMILION, empty, keep_titles
from sppo_lab.loss import TOKEN_WEIGHTS, clipped_high, clipped_low, clipped_surrogate

GROUP_STYLES = ((ORANGE, "o", ":"), (GREEN, "s", "-."), (GREY, "^", ":"), ("black", "D", "-."))
RULES = {  # aggregation to its colour, its hatch and what its legend says
    "token-mean": (BLUE, "", "token-mean"),
    "seq-mean-token-mean": (VERMILION, "///", "seq-mean-token-mean"),
    "seq-mean-token-sum-norm": (ORANGE, "...", "constant length"),
}


def panels(count: int, width: float) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels side by side, a legend's room below them; few ticks, as they take most time."""
    figure = Figure(figsize=(width, 3.8))
    margins = {"left": 0.07, "right": 0.985, "top": 0.9, "bottom": 0.24, "wspace": 0.3}
    axes = list(figure.subplots(1, count, gridspec_kw=margins, squeeze=False)[0])
    for ax in axes:
        ax.locator_params(nbins=5)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def group_advantages(group_size: int) -> tuple[Tensor, Tensor]:
    """GRPO's advantage of a right and of a wrong response, each (G - 1,), for 1 to G - 1 right ones in the group."""
    right = torch.arange(1, group_size)
    rewards = (torch.arange(group_size) < right[:, None]).float().flatten()
    advantages = divide_by_group_std(group_mean_advantage(rewards, group_size), rewards, group_size)
    groups = advantages.view(-1, group_size)
    return groups[:, 0], groups[:, -1]


def advantage_figure(group_sizes: Sequence[int] = (4, 8)) -> Figure:
    """The advantage against the solve rate p: SPPO with V = p, GRPO in a large group and in groups of those sizes.

    The curve of a large group is ``+sqrt((1 - p) / p)`` and ``-sqrt(p / (1 - p))``; a group of G has the points
    p = k / G alone, ``sqrt((G - 1) / G)`` as high, by Bessel's correction.  At most four group sizes.
    """
    figure, axes = panels(3, 11)
    p = torch.linspace(0.005, 0.995, 199)
    sppo = sequence_advantage(torch.ones_like(p), p), sequence_advantage(torch.zeros_like(p), p)
    grpo = ((1 - p) / p).sqrt(), -(p / (1 - p)).sqrt()
    curves = [("SPPO, V = p", sppo, p, {"color": BLUE, "linestyle": "-", "linewidth": 2})]
    curves.append(("GRPO, large G", grpo, p, {"color": VERMILION, "linestyle": "--", "linewidth": 2}))
    for size, (color, marker, line) in zip(group_sizes, GROUP_STYLES, strict=False):
        style = {"color": color, "linestyle": line, "marker": marker, "linewidth": 1}
        style["markersize"] = 5 if size <= 16 else 2
        curves.append((f"GRPO, G = {size}", group_advantages(size), torch.arange(1, size) / size, style))
    for label, (right, wrong), places, style in curves:
        for ax, heights in zip(axes, (right, wrong, right - wrong), strict=True):
            ax.plot(places, heights, label=label, **style)
    axes[0].set(title="A of a right response", ylim=(0, 4), ylabel="A")
    axes[1].set(title="A of a wrong response", ylim=(-4, 0))
    axes[2].set(title="Right minus wrong", ylim=(0, 6))
    for ax in axes:
        ax.set(xlabel="solve rate p", xlim=(0, 1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=len(curves), frameon=False)
    return figure


def without_gradient(
    ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float | None = None, dual_clip: float | None = None
) -> Tensor:
    """True where a clip holds the loss, in the shape of both; ``epsilon_high`` is ``epsilon`` unless given."""
    upper = epsilon if epsilon_high is None else epsilon_high
    held = clipped_low(ratio, advantages, epsilon) | clipped_high(ratio, advantages, upper)
    if dual_clip is not None:
        held = held | ((ratio > dual_clip) & (advantages < 0))
    return held


def clip_figure(
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    dual_clip: float | None = None,
    ratios: Tensor | None = None,
    advantages: Tensor | None = None,
) -> Figure:
    """Loss and gradient of a token against its ratio for A = 1 and A = -1, and where there is no gradient.

    The gradient is that by the token's log-probability.  ``ratios`` and ``advantages``, both (N,), put the tokens of
    a batch into the third panel; those beyond its right edge are drawn at the edge.
    """
    return ClipPanels(ratios, advantages).show(epsilon, epsilon_high, dual_clip)


class ClipPanels:
    """The three panels of ``clip_figure``, which ``show`` draws into as often as one likes.

    The axes with their ticks and the legend are made once: they take half of a redraw.
    """

    def __init__(self, ratios: Tensor | None = None, advantages: Tensor | None = None):
        self.ratios, self.advantages = ratios, advantages
        self.figure, self.axes = panels(3, 10.6)
        FigureCanvasAgg(self.figure)  # keeps its measures of words between redraws
        left, middle, right = self.axes
        left.set(title="Loss of a token", ylabel="loss", xlabel="ratio r")
        middle.set(title="Gradient by its log-probability", ylabel="gradient", xlabel="ratio r")
        right.set(title="Where a token has no gradient", ylabel="A", xlabel="ratio r")
        keep_titles(self.axes)

    def show(self, epsilon: float, epsilon_high: float | None, dual_clip: float | None) -> Figure:
        """The one figure, at these settings."""
        upper = epsilon if epsilon_high is None else epsilon_high
        edge = max(2.0, 1.0 + 1.5 * upper, 1.25 * (dual_clip or 0))
        left, middle, right = self.axes
        for ax in self.axes:
            empty(ax)
            ax.set_xlim(0, edge)
        draw_loss(left, middle, edge, epsilon, upper, dual_clip)
        given = self.ratios is not None and self.advantages is not None
        top = 1.15 * max(float(self.advantages.abs().max()), 1e-3) if given else 1.1
        draw_plane(right, edge, top, epsilon, upper, dual_clip)
        if given:
            held = without_gradient(self.ratios, self.advantages, epsilon, upper, dual_clip)
            draw_tokens(right, edge, self.ratios, self.advantages, held)
        if not self.figure.legends:
            (lines, names), (marks, meanings) = (ax.get_legend_handles_labels() for ax in (left, right))
            self.figure.legend(lines + marks, names + meanings, loc="lower center", ncols=6, frameon=False)
        return self.figure


def draw_loss(left: Axes, middle: Axes, edge: float, epsilon: float, upper: float, dual_clip: float | None) -> None:
    """Loss and gradient against the ratio up to ``edge``, for A = 1 and A = -1, with the bounds of the clip."""
    ratio = torch.linspace(0.01, edge, 600)
    for advantage, color, style in ((1.0, BLUE, "-"), (-1.0, VERMILION, "--")):
        logprob = ratio.log().requires_grad_()
        losses = clipped_surrogate(logprob.exp(), torch.full_like(ratio, advantage), epsilon, upper, dual_clip)
        (gradient,) = torch.autograd.grad(losses.sum(), logprob)
        left.plot(ratio, losses.detach(), style, color=color, linewidth=2, label=f"A = {advantage:+g}")
        middle.plot(ratio, gradient, style, color=color, linewidth=2)
    for ax in (left, middle):
        ax.axhline(0, color=GREY, linewidth=0.8)
        for bound in (1 - epsilon, 1 + upper):
            ax.axvline(bound, color=GREY, linewidth=0.8, linestyle=":")
        ax.relim()
        ax.autoscale_view(scalex=False)


def draw_plane(ax: Axes, edge: float, top: float, epsilon: float, upper: float, dual_clip: float | None) -> None:
    """The plane of ratio and advantage: the surface of the loss as level lines, shaded where a token has no gradient.

    The lines run level with A there, because the loss no longer depends on the ratio.
    """
    regions = [(1 + upper, 0, edge - 1 - upper, 1e3), (0, -1e3, 1 - epsilon, 1e3)]
    if dual_clip is not None:
        regions.append((dual_clip, -1e3, edge - dual_clip, 1e3))
    for number, (x, y, width, height) in enumerate(regions):
        label = None if number else "no gradient"
        ax.add_patch(Rectangle((x, y), width, height, color=GREY, alpha=0.3, linewidth=0, label=label))
    ratio, advantage = torch.linspace(0.01, edge, 80), torch.linspace(-top, top, 41)
    grid = ratio.expand(len(advantage), -1), advantage[:, None].expand(-1, len(ratio))
    losses = clipped_surrogate(*grid, epsilon, upper, dual_clip)
    ax.contour(ratio, advantage, losses, levels=9, colors=GREEN, linewidths=0.8, linestyles="-")
    ax.plot([], [], color=GREEN, linewidth=0.8, label="equal loss")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.axvline(1, color=GREY, linewidth=0.8)
    ax.set_ylim(-top, top)


def draw_tokens(ax: Axes, edge: float, ratios: Tensor, advantages: Tensor, held: Tensor) -> None:
    """A batch's tokens in that plane, those that a clip holds told apart."""
    at = ratios.clamp(max=0.99 * edge)
    ax.plot(at[~held], advantages[~held], ".", color=BLUE, markersize=4, alpha=0.5, label="token with gradient")
    ax.plot(at[held], advantages[held], "x", color=VERMILION, markersize=5, label="token without")
    ax.title.set_text(f"No gradient: {held.float().mean():.1%} of {len(ratios)} tokens")


def weights_figure(lengths: Sequence[int], limit: int, labels: Sequence[str] | None = None) -> Figure:
    """What a token and what a response weighs in the loss of a batch, by three rules of aggregation, as bars.

    ``lengths`` are those of the batch's responses, ``limit`` the longest possible one.
    """
    figure, (left, right) = panels(2, 10)
    counts = torch.tensor(list(lengths))
    mask = (torch.arange(int(counts.max())) < counts[:, None]).long()
    places = np.arange(len(counts))
    for shift, (rule, (color, hatch, label)) in zip((-0.27, 0.0, 0.27), RULES.items(), strict=True):
        weights = TOKEN_WEIGHTS[rule](mask, limit).numpy()
        style = {"color": color, "hatch": hatch, "edgecolor": "white", "label": label}
        left.bar(places + shift, weights[:, 0], 0.25, **style)
        right.bar(places + shift, weights.sum(1), 0.25, **style)
    left.set(title="Weight of one token", ylabel="weight")
    right.set(title="Weight of the whole response")
    for ax in (left, right):
        ax.set_xticks(places, labels or [f"{length} tokens" for length in counts.tolist()])
    figure.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    return figure


def ratio_figure(ratios: Tensor, whole: Tensor, mask: Tensor, epsilon: float = 0.2) -> Figure:
    """The ratios of a batch's tokens, (B, T), with those of its whole responses, (B,), sorted by the latter.

    Tokens with a ratio above 2 are drawn there.
    """
    figure, (ax,) = panels(1, 10)
    order = whole.argsort()
    places = torch.arange(len(order))[:, None].expand_as(ratios)
    real = mask[order].bool()
    ax.plot(places[real], ratios[order][real].clamp(max=2), ".", color=BLUE, markersize=4, alpha=0.5, label="token")
    ax.plot(whole[order], "-", color=VERMILION, linewidth=2, label="whole response (GSPO)")
    for bound in (1 - epsilon, 1 + epsilon):
        ax.axhline(bound, color=GREY, linestyle=":", label="clip range" if bound < 1 else None)
    ax.set(title="Ratios of a batch", xlabel="response, by its own ratio", ylabel="ratio", ylim=(0, 2.05))
    figure.legend(*ax.get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    return figure
