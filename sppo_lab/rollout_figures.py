"""Figures of a batch of responses: which cells are real, and how probable each token was.

They draw what is handed to them.  Shapes: B responses, P prompt positions, T response positions.
"""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sppo_lab.figures import GREEN, ORANGE, VERMILION
from sppo_lab.rollout import Rollouts

SKY, PALE = "#56B4E9", "#E8E8E8"  # light enough for black letters
KINDS = {"padding": PALE, "prompt": SKY, "response": ORANGE, "end token": GREEN}
PADDING, PROMPT, RESPONSE, END = range(4)  # places in KINDS
FLOOR = -3.0  # log-probabilities below it look the same: 1 in 20 and rarer
CELL = 0.36  # inches


def cell_kinds(rollouts: Rollouts) -> Tensor:
    """(B, P + T) what each cell of the batch is: PADDING, PROMPT, RESPONSE or END, by masks and not by token values.

    The end token is the last one of a response that was not cut.
    """
    response = rollouts.response_mask * RESPONSE
    whole = (~rollouts.truncated).nonzero().squeeze(1)
    response[whole, rollouts.lengths[whole] - 1] = END
    return torch.cat([rollouts.prompt_mask * PROMPT, response], dim=1)


def mask_figure(rollouts: Rollouts, tokenizer: PreTrainedTokenizerBase) -> Figure:
    """The batch as a grid, prompt and response side by side, every cell coloured by what it is."""
    kinds = cell_kinds(rollouts)
    ids = torch.cat([rollouts.prompt_ids, rollouts.response_ids], dim=1)
    count, width = kinds.shape
    figure = Figure(figsize=(CELL * width + 2.2, CELL * count + 1.3), layout="constrained")
    ax = figure.subplots()
    ax.imshow(kinds.numpy(), cmap=ListedColormap(list(KINDS.values())), vmin=0, vmax=len(KINDS) - 1, aspect="auto")
    _write_tokens(ax, ids, kinds != PADDING, kinds == END, tokenizer)
    prompt_width = rollouts.prompt_ids.shape[1]
    ax.axvline(prompt_width - 0.5, color="black", linewidth=1.5, zorder=2.5)
    heads = {"prompt": (prompt_width - 1) / 2, "response": prompt_width + (width - prompt_width - 1) / 2}
    ax.set_xticks(list(heads.values()), list(heads))
    for row in rollouts.truncated.nonzero().flatten().tolist():
        place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
        ax.annotate("cut", (width - 0.5, row), color=VERMILION, **place)
    _finish(ax, count, width)
    patches = [Patch(facecolor=color, label=name) for name, color in KINDS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(KINDS), frameon=False)
    return figure


def logprob_figure(rollouts: Rollouts, logprobs: Tensor, tokenizer: PreTrainedTokenizerBase) -> Figure:
    """Responses as strips, every token coloured by its log-probability; ``logprobs`` is (B, T)."""
    real = rollouts.response_mask.bool()
    count, width = real.shape
    figure = Figure(figsize=(CELL * width + 2.4, CELL * count + 1.0), layout="constrained")
    ax = figure.subplots()
    colors = LinearSegmentedColormap.from_list("surprise", [VERMILION, "#FFFFFF"])
    shown = np.ma.masked_array(logprobs.detach().numpy(), ~real.numpy())
    image = ax.imshow(shown, cmap=colors.with_extremes(bad=PALE), vmin=FLOOR, vmax=0, aspect="auto")
    ends = cell_kinds(rollouts)[:, rollouts.prompt_ids.shape[1] :] == END
    _write_tokens(ax, rollouts.response_ids, real, ends, tokenizer)
    ax.set_xticks([])
    _finish(ax, count, width)
    figure.colorbar(image, ax=ax, label="log-probability", extend="min", ticks=[FLOOR, FLOOR / 2, 0])
    return figure


def _write_tokens(ax: Axes, ids: Tensor, real: Tensor, ends: Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    """The token of each cell that is ``real``; all arguments (B, L)."""
    for row, column in real.nonzero().tolist():
        end = bool(ends[row, column])
        label = "end" if end else tokenizer.decode([int(ids[row, column])])
        ax.text(column, row, label, ha="center", va="center", fontsize=8 if end else 10)


def _finish(ax: Axes, count: int, width: int) -> None:
    """Row numbers, white lines between the cells, no frame."""
    ax.set_yticks(range(count), [f"row {row}" for row in range(count)])
    ax.vlines(np.arange(width + 1) - 0.5, -0.5, count - 0.5, color="white", linewidth=1.5)
    ax.hlines(np.arange(count + 1) - 0.5, -0.5, width - 0.5, color="white", linewidth=1.5)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(count - 0.5, -0.5))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
