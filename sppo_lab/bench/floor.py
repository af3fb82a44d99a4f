"""The least a stage can take: the matrix products of its linear layers, timed bare on this machine.

Attention, normalisation, the adapter, the optimizer and everything around them would come on top, so no loop reaches
the floor; how far it is from it says how much there is to win.
"""

import time
from collections import Counter

import torch
from torch import nn

from sppo_lab.rollout import Rollouts


def layer_shapes(model: nn.Module) -> Counter[tuple[int, int]]:
    """How many linear layers there are of each (in, out), without the adapter's."""
    layers = (part for name, part in model.named_modules() if isinstance(part, nn.Linear) and "lora_" not in name)
    return Counter((layer.in_features, layer.out_features) for layer in layers)


def product_seconds(rows: int, shapes: Counter[tuple[int, int]], like: torch.Tensor) -> float:
    """Seconds for ``rows`` rows through one layer of each shape, times how many there are; the best of three."""
    total = 0.0
    for (size_in, size_out), count in shapes.items():
        x = torch.randn(rows, size_in, device=like.device, dtype=like.dtype)
        weight = torch.randn(size_in, size_out, device=like.device, dtype=like.dtype)
        times, in_a_row = [], 20 if like.is_cuda else 1  # waiting for a GPU takes longer than a small product
        for _ in range(4):
            started = time.perf_counter()
            for _ in range(in_a_row):
                x @ weight
            if like.is_cuda:
                torch.cuda.synchronize()
            times.append((time.perf_counter() - started) / in_a_row)
        total += count * min(times[1:])
    return total


def sample_floor(model: nn.Module, batch: Rollouts) -> float:
    """Each prompt once, all together, then each position for the responses that have not ended; no padding."""
    shapes, like = layer_shapes(model), next(model.parameters())
    firsts = batch.group.diff(prepend=batch.group.new_full((1,), -1)) != 0  # one response to each prompt
    seconds = product_seconds(int(batch.prompt_mask[firsts].sum()), shapes, like)
    going = batch.response_mask.sum(0)[1:].tolist()  # rows that a position still had to be computed for
    by_rows = {rows: product_seconds(rows, shapes, like) for rows in set(going)}
    return seconds + sum(by_rows[rows] for rows in going)


def update_floor(model: nn.Module, batch: Rollouts) -> float:
    """Every token forward once and backward once, no padding: frozen weights need no gradient of their own."""
    tokens = int(batch.prompt_mask.sum() + batch.response_mask.sum())
    return 2 * product_seconds(tokens, layer_shapes(model), next(model.parameters()))
