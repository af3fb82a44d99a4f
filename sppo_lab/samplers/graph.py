"""The lab's sampler for a GPU: what happens at one position is recorded as a CUDA graph, and replayed for the others.

Token by token, a GPU waits for Python to launch thousands of small kernels one after the other; a replay launches all
of them at once.  A graph works on fixed places in memory, so responses are written in segments: the cache gets room
for the next ``SEGMENT`` positions, and a response that has ended leaves the batch when they are full.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from sppo_lab.samplers.lab import choose, log_probabilities, next_scores, refuse_nan

if TYPE_CHECKING:
    from sppo_lab.models import Policy

SEGMENT = 64  # recording takes about as long as two positions without a graph


class FixedLayer(DynamicLayer):
    """Keys and values (B, heads, L, D) at a fixed place in memory, with room for positions that are not written yet.

    They are rows of another layer's; ``place`` (1,) is where the next position goes.
    """

    def __init__(self, filled: DynamicLayer, rows: Tensor, room: int, place: Tensor):
        super().__init__()
        self.lazy_initialization(filled.keys, filled.values)
        self.keys, self.values = (pad(states[rows], (0, 0, 0, room)) for states in (filled.keys, filled.values))
        self.place = place

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values


class Segment:
    """Writing the next ``room`` tokens of each response of a batch, B of them.

    ``tokens`` (B, 1) are the last ones chosen, ``mask`` (B, P) that of all tokens up to them, ``cache`` holds all but
    them, in its ``rows`` (B,).
    """

    def __init__(self, policy: "Policy", tokens: Tensor, mask: Tensor, cache: Cache, rows: Tensor, room: int):
        self.policy, self.cache, self.tokens, self.room = policy, cache, tokens, room
        self.place = torch.tensor([mask.shape[1] - 1], device=mask.device)
        for number, layer in enumerate(cache.layers):  # one by one, so that little is in the memory twice
            cache.layers[number] = FixedLayer(layer, rows, room, self.place)
        self.positions = mask.sum(1, keepdim=True) - 1
        unseen = pad(mask[:, :-1] == 0, (0, room), value=True)[:, None, None]
        dtype = policy.model.dtype
        self.added = torch.zeros(unseen.shape, dtype=dtype, device=mask.device)  # to the attention's scores
        self.added.masked_fill_(unseen, torch.finfo(dtype).min)

    def logits(self) -> Tensor:
        """(B, V) of the token after ``tokens``, which join the cache."""
        self.added.index_fill_(3, self.place, 0.0)
        return self.policy.model(
            input_ids=self.tokens,
            attention_mask=self.added,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def write(self, temperature: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next tokens and their log-probabilities, each (B, room); ``noise`` (B, room) decides, or None."""
        found = torch.zeros(len(self.tokens), self.room, device=self.tokens.device)
        ids, number = found.long(), torch.zeros_like(self.place)
        has_nan = number.bool()

        def write_position() -> None:
            scores = log_probabilities(self.logits(), temperature)
            has_nan.logical_or_(scores.isnan().any())
            tokens, chosen = choose(scores, None if noise is None else noise.index_select(1, number).squeeze(1))
            ids.index_copy_(1, number, tokens[:, None])
            found.index_copy_(1, number, chosen[:, None])
            self.tokens.copy_(tokens[:, None])
            for counter in (self.place, self.positions, number):
                counter.add_(1)

        write_position()  # before it is recorded: the first time much is set up
        again = recorded(write_position) if self.room > 1 and ids.is_cuda else write_position
        for _ in range(self.room - 1):
            again()
        refuse_nan(has_nan)
        return ids, found


def recorded(work: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of the work; it is not done until the graph is called."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on using the GPU
            work()
    except RuntimeError as error:
        if isinstance(error.__context__, torch.OutOfMemoryError):  # which the end of the recording can hide
            raise error.__context__ from error
        raise
    return graph.replay


def write_by_graph(
    policy: "Policy",
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The responses of ``lab``, for a cache of attention over all positions.  See ``sppo_lab.samplers``."""
    count, device = len(prompt_ids) * group_size, policy.device
    response_ids = torch.full((count, max_new_tokens), policy.pad_id, device=device)
    logprobs = torch.zeros(count, max_new_tokens, device=device)
    stop_ids = torch.tensor(policy.stop_ids, device=device)

    active = torch.arange(count, device=device)  # responses that are still being written
    rows = active // group_size  # where the cache has them
    scores, cache = next_scores(policy, prompt_ids, prompt_mask, None, temperature)
    response_ids[:, 0], logprobs[:, 0] = choose(scores[rows], None if noise is None else noise[:, 0])
    mask, written = pad(prompt_mask[rows], (0, 1), value=1), 1
    while written < max_new_tokens:
        going = (~torch.isin(response_ids[active, :written], stop_ids).any(1)).nonzero().squeeze(1)
        if not len(going):
            break
        active, rows, mask = active[going], rows[going], mask[going]
        room = min(SEGMENT, max_new_tokens - written)
        last, coming = slice(written - 1, written), slice(written, written + room)
        segment = Segment(policy, response_ids[active, last], mask, cache, rows, room)
        response_ids[active, coming], logprobs[active, coming] = segment.write(
            temperature, None if noise is None else noise[active, coming]
        )
        rows, mask, written = torch.arange(len(active), device=device), pad(mask, (0, room), value=1), written + room
    before_end = torch.isin(response_ids, stop_ids).cumsum(1) == 0
    return response_ids, logprobs, (before_end.sum(1) + 1).clamp(max=max_new_tokens)
