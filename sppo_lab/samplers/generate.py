"""Sampling through ``transformers.generate``: slower, and for every causal LM.  The same responses as the lab's own."""

from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sppo_lab.samplers.lab import choose, log_probabilities, refuse_nan

if TYPE_CHECKING:
    from sppo_lab.models import Policy


class OneToken(LogitsProcessor):
    """Leaves ``generate`` one token per row, the one that the row's noise decides, and notes its log-probability."""

    def __init__(self, prompt_length: int, temperature: float, noise: Tensor | None):
        self.prompt_length, self.temperature, self.noise = prompt_length, temperature, noise
        self.logprobs: list[Tensor] = []  # (B,) per position

    def __call__(self, input_ids: Tensor, logits: Tensor) -> Tensor:
        scores = log_probabilities(logits, self.temperature)
        refuse_nan(scores.isnan())
        position = input_ids.shape[1] - self.prompt_length
        tokens, chosen = choose(scores, None if self.noise is None else self.noise[:, position])
        self.logprobs.append(chosen)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


def write_by_generate(
    policy: "Policy",
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Every row goes on to the end of the longest.  See ``sppo_lab.samplers``."""
    ids, mask = (given.repeat_interleave(group_size, 0) for given in (prompt_ids, prompt_mask))
    one_token = OneToken(ids.shape[1], temperature, noise)
    ends = [token for token in policy.stop_ids if token >= 0] or None  # none in an endless policy
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=policy.pad_id
    )
    model = policy.model.get_base_model()
    # A model's own settings, such as a penalty on repetition, would be filled in where ours say nothing.
    with patch.object(model, "generation_config", GenerationConfig()):
        written = model.generate(
            ids, attention_mask=mask, generation_config=settings, logits_processor=LogitsProcessorList([one_token])
        )[:, ids.shape[1] :]
    before_end = torch.isin(written, torch.tensor(policy.stop_ids, device=written.device)).cumsum(1) == 0
    lengths = (before_end.sum(1) + 1).clamp(max=written.shape[1])
    return written, torch.stack(one_token.logprobs, dim=1), lengths
