"""Sampling through transformers' continuous batching: a paged cache, and a new response starts where one has ended.

Made for long responses on a GPU.  It draws its own random numbers, from a seed that the noise gives, so its responses
are others than those of the lab's sampler with the same seed, and depend on which are written together.
"""

import logging
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from sppo_lab.errors import LabError

if TYPE_CHECKING:
    from sppo_lab.models import Policy

logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # what goes wrong is said below
PAGE = 256  # tokens of the cache that are given out together
AT_ONCE = 256  # responses that the cache holds when all are long; the others wait for a place


def write_by_continuous_batching(
    policy: "Policy",
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``sppo_lab.samplers``; the log-probabilities of the most probable tokens are those at temperature 1.

    Raises LabError where transformers is too old or cannot do it with this model, RuntimeError where the memory does
    not suffice.
    """
    try:
        from transformers.generation import ContinuousBatchingConfig
    except ImportError as error:
        raise LabError("sampler = 'continuous' needs a newer transformers: pip install -U transformers") from error
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(prompt_ids, prompt_mask, strict=True)]
    pages = math.ceil((prompt_ids.shape[1] + max_new_tokens) / PAGE) + 1
    how = {} if noise is None else {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    found = policy.model.get_base_model().generate_batch(
        [row for row in rows for _ in range(group_size)],
        generation_config=GenerationConfig(
            **how,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(policy.stop_ids),
            pad_token_id=policy.pad_id,
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            return_logprobs=True,
            seed=0 if noise is None else int(noise[0, 0] * 2**31),
            page_size=PAGE,
            num_blocks=pages * min(len(rows) * group_size, AT_ONCE),
            use_cuda_graph=policy.device.type == "cuda",
        ),
        warmup=policy.device.type == "cuda",
    )
    responses = list(found.values())
    errors = [response.error for response in responses if response.error]
    if errors and "memory" in errors[0].lower():
        raise RuntimeError(f"continuous batching ran out of memory. {errors[0]}")  # tried again with fewer responses
    if errors or len(responses) < len(rows) * group_size:
        reason = errors[0].splitlines()[0] if errors else "it stopped before all responses were written."
        raise LabError(f"continuous batching failed with this model: {reason} Leave sampler at auto.")
    lengths = [len(response.generated_tokens) for response in responses]
    ids = [torch.tensor(response.generated_tokens) for response in responses]
    logprobs = [torch.tensor(response.logprobs) for response in responses]
    return (
        pad_sequence(ids, batch_first=True, padding_value=policy.pad_id).to(policy.device),
        pad_sequence(logprobs, batch_first=True).to(policy.device),
        torch.tensor(lengths, device=policy.device),
    )
