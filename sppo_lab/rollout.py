"""Sampling responses and scoring them: prompts in, a ``Rollouts`` out, which every later stage fills in.

Shapes: B responses, P prompt positions (padded on the left), T response positions (padded on the right).
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from sppo_lab.errors import LabError
from sppo_lab.lora import folded_adapter
from sppo_lab.memory import within_memory
from sppo_lab.parallel import gather, share

if TYPE_CHECKING:
    from sppo_lab.models import Policy

LOGITS_AT_ONCE = 2**26  # numbers of the vocabulary's logits that are normalised together: 256 MiB in float32


@dataclass
class Rollouts:
    """Sampled responses and everything that is learnt from them, one row per response.

    The masks come from lengths, never from token values: a response holds its end-of-sequence token, and
    nothing after it.
    """

    prompt_ids: Tensor  # (B, P) token ids, padding on the left
    prompt_mask: Tensor  # (B, P) 1 on prompt tokens
    response_ids: Tensor  # (B, T) token ids, padding on the right
    response_mask: Tensor  # (B, T) 1 on response tokens, the end-of-sequence token included
    old_logprobs: Tensor  # (B, T) log-probability of each token when it was sampled; 0 where masked
    truncated: Tensor  # (B,) True where the response was cut at max_new_tokens, so without an end token
    group: Tensor  # (B,) which prompt of the batch the response answers
    prompts: list[str]  # B prompts, as the task states them
    texts: list[str]  # B decoded responses, special tokens left out
    rewards: Tensor | None = None  # (B,) R, set by the verifier
    scores: Tensor | None = None  # (B,) what the advantage is made of: R, less a penalty for length if one is set
    greedy_rewards: Tensor | None = None  # (B,) R of the greedy response to the same prompt
    values: Tensor | None = None  # (B,) V(s_p), or (B, T) V(s_t) before each token, from before the critic's update
    features: Tensor | None = None  # (B, F) what the policy's hidden states say of the other responses to the prompt
    action_starts: Tensor | None = None  # (B, T) 1 where an action begins: each token, or each reasoning step
    raw_advantages: Tensor | None = None  # (B, T) A before any scaling, 0 where masked
    advantages: Tensor | None = None  # (B, T) A as the loss takes it, 0 where masked
    reference_logprobs: Tensor | None = None  # (B, T) log-probability of each token without the adapter

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def lengths(self) -> Tensor:
        """(B,) response tokens, the end-of-sequence token included."""
        return self.response_mask.sum(1)

    @property
    def prompt_values(self) -> Tensor | None:
        """(B,) V(s_p), whichever critic there is."""
        return self.values if self.values is None or self.values.dim() == 1 else self.values[:, 0]

    @property
    def returns(self) -> Tensor:
        """(B, T) what a critic of tokens is fitted to: ``A + V``."""
        return self.raw_advantages + self.values

    def select(self, rows: Tensor) -> "Rollouts":
        """The given rows, with padding that none of them needs cut off."""
        picked = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                picked[item.name] = value[rows.to(value.device)]
            else:
                picked[item.name] = value and [value[i] for i in rows.tolist()]
        chosen = Rollouts(**picked)
        start = chosen.prompt_ids.shape[1] - int(chosen.prompt_mask.sum(1).max())
        end = int(chosen.lengths.max())
        for name, value in vars(chosen).items():
            if name in PROMPT_SHAPED:
                setattr(chosen, name, value[:, start:])
            elif name in RESPONSE_SHAPED and value is not None and value.dim() == 2:
                setattr(chosen, name, value[:, :end])
        return chosen

    def to(self, device: torch.device) -> "Rollouts":
        """The same on that device."""
        moved = {n: value.to(device) if isinstance(value, Tensor) else value for n, value in vars(self).items()}
        return Rollouts(**moved)

    @classmethod
    def join(cls, parts: list["Rollouts"]) -> "Rollouts":
        """Several batches as one, padded to the widest; the groups are numbered on."""
        if len(parts) == 1:
            return parts[0]
        joined: dict[str, Any] = {}
        for item in fields(cls):
            values = [getattr(part, item.name) for part in parts]
            if isinstance(values[0], list):
                joined[item.name] = [text for texts in values for text in texts]
            elif isinstance(values[0], Tensor):
                width = max(value.shape[-1] for value in values)
                left = item.name in PROMPT_SHAPED
                widened = [
                    pad(value, (width - value.shape[-1], 0) if left else (0, width - value.shape[-1]))
                    if value.dim() == 2
                    else value
                    for value in values
                ]
                joined[item.name] = torch.cat(widened)
        counts = [int(part.group.max()) + 1 for part in parts]
        joined["group"] = torch.cat([part.group + sum(counts[:i]) for i, part in enumerate(parts)])
        return cls(**joined)


PROMPT_SHAPED = ("prompt_ids", "prompt_mask")
RESPONSE_SHAPED = (
    "response_ids",
    "response_mask",
    "old_logprobs",
    "values",
    "action_starts",
    "raw_advantages",
    "advantages",
    "reference_logprobs",
)


def position_ids(mask: Tensor) -> Tensor:
    """(B, L) positions counted over real tokens only, so that left padding shifts nothing."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def encode_prompts(policy: "Policy", prompts: list[str], max_new_tokens: int) -> tuple[Tensor, Tensor]:
    """Prompts as left-padded ids and mask, each (B, P); a model with a chat template gets it applied.

    Raises LabError for an empty prompt, one that leaves no room for ``max_new_tokens`` in the context, and a chat
    template that does not take a user's turn alone.
    """
    for number, prompt in enumerate(prompts):
        if not prompt.strip():
            raise LabError(f"prompt {number} of the batch is empty: every problem needs a text to continue.")
    tokenizer = policy.tokenizer
    if tokenizer.chat_template:
        turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
        try:
            prompts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise LabError(
                f"the chat template of {tokenizer.name_or_path} does not take a single user's turn ({error}). Choose "
                "another model, or delete the template from a local copy of it: prompts then go in as they are."
            ) from error
    rows = tokenizer(prompts, add_special_tokens=not tokenizer.chat_template, verbose=False)["input_ids"]
    width = max(map(len, rows))
    if width + max_new_tokens > policy.context:
        longest = max(range(len(rows)), key=lambda i: len(rows[i]))
        raise LabError(
            f"a prompt of {width} tokens and max_new_tokens = {max_new_tokens} do not fit the model's context of "
            f"{policy.context} tokens{tokenizers_limit(policy)}. Lower max_new_tokens, leave the prompt out, or choose "
            f"a model with a longer context. The prompt begins: {prompts[longest][:60]!r}"
        )
    ids = torch.tensor([[policy.pad_id] * (width - len(row)) + row for row in rows], device=policy.device)
    lengths = torch.tensor([len(row) for row in rows], device=policy.device)
    mask = (torch.arange(width, device=policy.device) >= width - lengths[:, None]).long()
    return ids, mask


def tokenizers_limit(policy: "Policy") -> str:
    """Words for a message where the tokenizer, not the model, bounds the context."""
    if policy.context >= getattr(policy.model.config, "max_position_embeddings", policy.context):
        return ""
    return " (model_max_length in its tokenizer_config.json, which can be raised: the model itself reads more)"


def sample(
    policy: "Policy",
    prompts: list[str],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    group_size: int = 1,
    greedy: bool = False,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Rollouts:
    """Sample ``group_size`` responses to each prompt from the policy at ``temperature``.

    Neither top-p nor top-k: they would renormalise, and the log-probabilities would no longer be the
    policy's.  ``greedy`` takes the most probable token instead.  ``batch_size`` bounds how many responses are written
    at once, None: all.  Rows come in the order of the prompts, the responses to one prompt together.

    Every response has its own random numbers, so it is the same whichever responses are written beside it and
    whichever process writes it, but for rounding.
    """
    noise = None
    if not greedy:
        noise = torch.rand(len(prompts), group_size, max_new_tokens, generator=generator, device=policy.device)
    at_once = batch_size or len(prompts) * group_size
    size, step = min(at_once, group_size), max(1, at_once // group_size)  # of a group, and how many prompts
    mine, parts = share(len(prompts)), []
    for first in mine[::step]:
        last = min(first + step, mine.stop)
        for begin in range(0, group_size, size):
            count = min(size, group_size - begin)
            rows = None if noise is None else noise[first:last, begin : begin + count].flatten(0, 1)
            parts.append(sample_together(policy, prompts[first:last], max_new_tokens, temperature, count, rows))
    rollouts = Rollouts.join(gather(parts)).to(policy.device)
    rollouts.group = torch.arange(len(prompts), device=policy.device).repeat_interleave(group_size)
    return rollouts


def sample_within_memory(
    policy: "Policy", prompts: list[str], *, batch_size: int, generator: torch.Generator, **options: Any
) -> tuple[Rollouts, int]:
    """What ``sample`` gives, and the batch size to go on with: less where the memory does not suffice for it."""
    state = generator.get_state()

    def attempt(size: int) -> Rollouts:
        generator.set_state(state)
        return sample(policy, prompts, batch_size=size, generator=generator, **options)

    size = min(batch_size, len(prompts) * options.get("group_size", 1))
    rollouts, fitted = within_memory(size, attempt, "sample_batch_size")
    return rollouts, batch_size if fitted == size else fitted


@torch.no_grad()
def sample_together(
    policy: "Policy", prompts: list[str], max_new_tokens: int, temperature: float, group_size: int, noise: Tensor | None
) -> Rollouts:
    """What ``sample`` gives, for prompts that go through the model at once: a row per response, B in all.

    ``noise`` (B, max_new_tokens) is uniform on [0, 1) and decides each token; None for the most probable one.
    """
    prompt_ids, prompt_mask = encode_prompts(policy, prompts, max_new_tokens)
    group = torch.arange(len(prompts), device=policy.device).repeat_interleave(group_size)
    with folded_adapter(policy.model):
        response_ids, logprobs, lengths = policy.sampler(
            policy, prompt_ids, prompt_mask, group_size, max_new_tokens, temperature, noise
        )
    width = int(lengths.max())
    response_ids = response_ids[:, :width]
    response_mask = (torch.arange(width, device=policy.device) < lengths[:, None]).long()
    last = response_ids.gather(1, lengths[:, None] - 1).squeeze(1)
    return Rollouts(
        prompt_ids=prompt_ids[group],
        prompt_mask=prompt_mask[group],
        response_ids=response_ids,
        response_mask=response_mask,
        old_logprobs=logprobs[:, :width].masked_fill(response_mask == 0, 0.0),
        truncated=~torch.isin(last, torch.tensor(policy.stop_ids, device=policy.device)),
        group=group,
        prompts=[prompt for prompt in prompts for _ in range(group_size)],
        texts=decode(policy, response_ids, lengths),
    )


def decode(policy: "Policy", response_ids: Tensor, lengths: Tensor) -> list[str]:
    """The text of each response, cut at its length, special tokens left out."""
    rows = [row[:length] for row, length in zip(response_ids.tolist(), lengths.tolist(), strict=True)]
    return policy.tokenizer.batch_decode(rows, skip_special_tokens=True)


def step_starts(rollouts: Rollouts, tokenizer: Any, mark: str) -> Tensor:
    """(B, T) 1 on the first token of each reasoning step: the first of all, and those that follow a ``mark``."""
    used = rollouts.response_ids.unique().tolist()
    ends = torch.tensor([i for i in used if mark in tokenizer.decode([i])], device=rollouts.response_ids.device)
    after_mark = torch.isin(rollouts.response_ids, ends).long().roll(1, dims=1)
    after_mark[:, 0] = 1
    return after_mark * rollouts.response_mask


def response_logprobs(
    model: torch.nn.Module, rollouts: Rollouts, temperature: float, *, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of each response token, and entropy of the distribution it came from, each (B, T).

    One forward pass over prompt and response; the logits are divided by the sampling temperature as they were when the
    token was sampled.  Both are 0 where masked; the entropy carries a gradient only if asked to.
    """
    ids = torch.cat([rollouts.prompt_ids, rollouts.response_ids], dim=1)
    mask = torch.cat([rollouts.prompt_mask, rollouts.response_mask], dim=1)
    width = rollouts.response_ids.shape[1]
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position_ids(mask),
        logits_to_keep=width + 1,
        use_cache=False,
    ).logits
    logprobs, entropy = scores_in_parts(logits, rollouts.response_ids, temperature, entropy_gradient)
    return logprobs * rollouts.response_mask, entropy * rollouts.response_mask


def scores_in_parts(
    logits: Tensor, ids: Tensor, temperature: float, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """What ``token_scores`` gives, for as many rows at a time as ``LOGITS_AT_ONCE`` allows.

    The backward pass computes a part once more: in float32 all of them would fill most of the memory until then.
    """
    size = max(1, LOGITS_AT_ONCE // logits[0].numel())
    settings = (temperature, entropy_gradient)
    if size >= len(logits):
        return token_scores(logits, ids, *settings)
    parts = [
        checkpoint(token_scores, *part, *settings, use_reentrant=False, preserve_rng_state=False)
        for part in zip(logits.split(size), ids.split(size), strict=True)
    ]
    logprobs, entropy = (torch.cat(numbers) for numbers in zip(*parts, strict=True))
    return logprobs, entropy


def token_scores(logits: Tensor, ids: Tensor, temperature: float, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
    """Log-probability of the ids (B, T), and entropy where each was chosen, both (B, T).

    The logits (B, T + 1, V) begin at the prompt's last place.
    """
    logits = logits[:, :-1]  # those at t - 1 score the token at t
    scores = torch.log_softmax(logits.float() / temperature, dim=-1)
    logprobs = scores.gather(2, ids[..., None]).squeeze(2)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(scores.exp() * scores).sum(-1)
    return logprobs, entropy
