"""Trying a model once when it is loaded: whether padding and later tokens leave its output alone, who can sample."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sppo_lab.errors import LabError, first_line
from sppo_lab.rollout import position_ids
from sppo_lab.samplers.graph import Segment

if TYPE_CHECKING:
    from sppo_lab.models import Policy

TOKENS, PADDING = 8, 3  # tokens read, and those put on the left
AUTO = ("graph", "lab", "generate")  # the fastest first; a graph is tried on a GPU only


def check_model(policy: "Policy", name: str, sampler: str) -> str:
    """Reads a few tokens as they are, padded, and with another end; returns the sampler to use for ``sampler``.

    Raises LabError for a model that cannot be run with an adapter, for one that is not causal or whose output depends
    on padding, as its probabilities would be wrong without a sign of it, and for a sampler that it does not allow.
    """
    first = policy.tokenizer("What is 12 + 30?")["input_ids"]
    ids = torch.tensor([(first * TOKENS)[:TOKENS]], device=policy.device)
    mask = torch.ones_like(ids)
    other = torch.cat([ids[:, :-1], ids[:, -1:] ^ 1], dim=1)
    try:
        alone, cache = run(policy, ids, mask)
        padded, _ = run(policy, pad(ids, (PADDING, 0), value=policy.pad_id), pad(mask, (PADDING, 0)))
        changed, _ = run(policy, other, mask)
    except torch.OutOfMemoryError as error:
        raise LabError(f"model {name!r} does not fit the memory: choose a smaller one, or a larger device.") from error
    except Exception as error:  # whatever a model of the hub raises when it is run
        raise LabError(
            f"model {name!r} cannot be run with a LoRA adapter on its linear layers ({type(error).__name__}: "
            f"{first_line(error)}). Choose another model."
        ) from error
    exact = alone.dtype == torch.float32
    # Padding alters how numbers are rounded; a wrong position or mask changes the output by its own size.
    shift = difference(padded[:, -1], alone[:, -1])
    if not shift <= (1e-2 if exact else 0.1):
        raise LabError(
            f"model {name!r} gives another output when its input is padded on the left (by {shift:.0%} of the "
            "output's deviation), so it cannot be trained in batches. Choose another model."
        )
    # Another last token hardly does, and in a new model its effect is small.
    if not difference(changed[:, :-1], alone[:, :-1]) <= (1e-4 if exact else 1e-2):
        raise LabError(
            f"model {name!r} is not causal: what it says after a token depends on tokens that follow. Choose a model "
            "that writes from left to right."
        )
    able = {"generate"}
    if lets_rows_go(cache):
        able.add("lab")
        if getattr(policy.model.get_base_model(), "_supports_attention_backend", False):
            able.add("continuous")
        if (sampler == "graph" or policy.device.type == "cuda") and can_be_recorded(policy, ids, alone[:, -1], exact):
            able.add("graph")
    if sampler == "auto":
        return next(name for name in AUTO if name in able)
    if sampler not in able:
        raise LabError(f"sampler = {sampler!r} does not work with the cache of model {name!r}: leave it at auto.")
    return sampler


@torch.no_grad()
def run(policy: "Policy", ids: Tensor, mask: Tensor) -> tuple[Tensor, Cache | None]:
    """Logits (1, L, V), and the cache if the model returns one."""
    output = policy.model(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=True)
    return output.logits, getattr(output, "past_key_values", None)


def difference(logits: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, as a part of the deviation of what was expected; NaN if one is."""
    return float((logits - expected).float().square().mean().sqrt() / expected.float().std())


def lets_rows_go(cache: Cache | None) -> bool:
    """Whether all of the cache can be cut to some rows.  States of recurrent layers cannot."""
    return isinstance(cache, Cache) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


@torch.no_grad()
def can_be_recorded(policy: "Policy", ids: Tensor, expected: Tensor, exact: bool) -> bool:
    """Whether the model, with a cache at a fixed place, gives the expected logits (1, V), and a GPU can record it."""
    ids, mask = pad(ids, (PADDING, 0), value=policy.pad_id), pad(torch.ones_like(ids), (PADDING, 0))
    _, cache = run(policy, ids[:, :-1], mask[:, :-1])
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        return False
    try:
        segment = Segment(policy, ids[:, -1:], mask, cache, torch.zeros_like(ids[0, :1]), room=2)
        if not difference(segment.logits(), expected) <= (1e-2 if exact else 0.1):
            return False
        segment.write(1.0, None)
    except Exception:  # whatever a model of the hub raises when it meets a mask or a cache of this form
        return False
    return True
