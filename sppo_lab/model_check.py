"""Trying a model once when it is loaded: whether padding leaves its output alone, and who can sample from it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sppo_lab.errors import LabError, first_line
from sppo_lab.rollout import position_ids

if TYPE_CHECKING:
    from sppo_lab.models import Policy

PADDING = 3  # tokens on the left


def check_model(policy: "Policy", name: str, sampler: str) -> str:
    """Reads a few tokens with and without padding; returns the sampler to use, ``lab`` or ``generate`` for ``auto``.

    Raises LabError for a model that cannot be run with an adapter, for one whose output depends on padding, as batches
    of prompts of different lengths would be wrong without a sign of it, and for a sampler that the model does not
    allow.
    """
    ids = torch.tensor([policy.tokenizer("What is 12 + 30?")["input_ids"][:8]], device=policy.device)
    mask = torch.ones_like(ids)
    try:
        alone, cache = run(policy, ids, mask)
        padded, _ = run(policy, pad(ids, (PADDING, 0), value=policy.pad_id), pad(mask, (PADDING, 0)))
    except torch.OutOfMemoryError as error:
        raise LabError(f"model {name!r} does not fit the memory: choose a smaller one, or a larger device.") from error
    except Exception as error:  # whatever a model of the hub raises when it is run
        raise LabError(
            f"model {name!r} cannot be run with a LoRA adapter on its linear layers ({type(error).__name__}: "
            f"{first_line(error)}). Choose another model."
        ) from error
    # In half precision the two round differently; a wrong position or mask changes the output by its own size.
    allowed = 1e-2 if alone.dtype == torch.float32 else 0.1
    difference = (padded - alone).float().square().mean().sqrt() / alone.float().std()
    if not difference <= allowed:
        raise LabError(
            f"model {name!r} gives another output when its input is padded on the left (by {difference:.0%} of the "
            "output's deviation), so it cannot be trained in batches. Choose another model."
        )
    attention_cache = lets_rows_go(cache)
    if sampler == "auto":
        return "lab" if attention_cache else "generate"
    pages = getattr(policy.model.get_base_model(), "_supports_attention_backend", False)
    if (sampler == "lab" and not attention_cache) or (sampler == "continuous" and not (attention_cache and pages)):
        raise LabError(f"sampler = {sampler!r} does not work with the cache of model {name!r}: leave it at auto.")
    return sampler


@torch.no_grad()
def run(policy: "Policy", ids: Tensor, mask: Tensor) -> tuple[Tensor, Cache | None]:
    """Logits of the last token (1, V), and the cache if the model returns one."""
    output = policy.model(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=True)
    return output.logits[:, -1], getattr(output, "past_key_values", None)


def lets_rows_go(cache: Cache | None) -> bool:
    """Whether all of the cache can be cut to some rows.  States of recurrent layers cannot."""
    return isinstance(cache, Cache) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )
