"""The lab's own sampler: a prompt is read once for all its responses, and one that has ended costs nothing further."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sppo_lab.errors import NonFiniteError
from sppo_lab.rollout import position_ids

if TYPE_CHECKING:
    from transformers import Cache

    from sppo_lab.models import Policy


def write(
    policy: "Policy",
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample responses token by token, for a model whose cache lets rows go.  See ``sppo_lab.samplers``."""
    count = len(prompt_ids) * group_size
    response_ids = torch.full((count, max_new_tokens), policy.pad_id, device=policy.device)
    logprobs = torch.zeros(count, max_new_tokens, device=policy.device)
    lengths = torch.full((count,), max_new_tokens, device=policy.device)
    stop_ids = torch.tensor(policy.stop_ids, device=policy.device)

    active = torch.arange(count, device=policy.device)  # responses that are still being written
    prompt_of = active // group_size
    scores, cache = next_scores(policy, prompt_ids, prompt_mask, None, temperature)
    scores, mask = scores[prompt_of], prompt_mask[prompt_of]
    if group_size > 1:
        cache.batch_select_indices(prompt_of)
    for position in range(max_new_tokens):
        tokens, chosen = choose(scores, None if noise is None else noise[active, position])
        response_ids[active, position] = tokens
        logprobs[active, position] = chosen

        ended = torch.isin(tokens, stop_ids)
        lengths[active[ended]] = position + 1
        if ended.any():
            going = (~ended).nonzero().squeeze(1)
            active, tokens, mask = active[going], tokens[going], mask[going]
            cache.batch_select_indices(going)
        if not len(active) or position + 1 == max_new_tokens:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        scores, cache = next_scores(policy, tokens[:, None], mask, cache, temperature)
    return response_ids, logprobs, lengths


def next_scores(
    policy: "Policy", ids: Tensor, mask: Tensor, cache: "Cache | None", temperature: float
) -> tuple[Tensor, "Cache"]:
    """Log-probabilities (B, V) of the token after ``ids`` (B, L), and the cache with those ids in it.

    ``mask`` (B, P) is that of all tokens up to there.  Raises NonFiniteError if the model's output is not a number.
    """
    output = policy.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position_ids(mask)[:, -ids.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    scores = log_probabilities(output.logits[:, -1], temperature)
    refuse_nan(scores.isnan())
    return scores, output.past_key_values


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """(B, V) in float32."""
    return torch.log_softmax(logits.float() / temperature, dim=-1)


def refuse_nan(found: Tensor) -> None:
    """Raises NonFiniteError if a NaN was found anywhere."""
    if found.any():
        raise NonFiniteError("the model's output is NaN, so there is nothing to sample from.")


def choose(scores: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """The next tokens (B,), as the noise (B,) decides or the most probable ones, and their log-probabilities (B,)."""
    tokens = scores.argmax(-1) if noise is None else draw(scores, noise)
    return tokens, scores.gather(1, tokens[:, None]).squeeze(1)


def draw(scores: Tensor, noise: Tensor) -> Tensor:
    """(B,) the token at which the cumulative probability passes the noise (B,), from log-probabilities (B, V)."""
    cumulative = scores.exp().cumsum(-1)
    level = noise * cumulative[:, -1]
    return torch.searchsorted(cumulative, level[:, None], right=True)[:, 0].clamp(max=scores.shape[1] - 1)
