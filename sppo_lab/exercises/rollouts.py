"""Exercises of notebook 02, first part: masks and log-probabilities.  The second part is in verifiers.py."""

import torch
from torch import Generator, Tensor

from sppo_lab.checks import Exercise, Mistake
from sppo_lab.rollout import position_ids

STOP_IDS = (1, 7)


def draw(generator: Generator, low: int, high: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Whole numbers from ``low`` to ``high``, both included."""
    return torch.randint(low, high + 1, shape, generator=generator)


# 02.1: mask and positions of prompts padded on the left


def prompt_lengths(generator: Generator) -> tuple[Tensor, int]:
    """(4,) lengths below the width, and the width."""
    return draw(generator, 1, 5, (4,)), 6


def left_mask(lengths: Tensor, width: int) -> Tensor:
    """(B, P) 1 on the last ``lengths`` places of each row."""
    return (torch.arange(width) >= width - lengths[:, None]).long()


def right_mask(lengths: Tensor, width: int) -> Tensor:
    """(B, P) 1 on the first ``lengths`` places of each row."""
    return (torch.arange(width) < lengths[:, None]).long()


def left_padding(lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(B,) lengths to (B, P) mask and positions."""
    mask = left_mask(lengths, width)
    return mask, position_ids(mask)


def padded_on_the_right(lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    mask = right_mask(lengths, width)
    return mask, position_ids(mask)


def one_too_few(lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    mask = (torch.arange(width) > width - lengths[:, None]).long()
    return mask, position_ids(mask)


def counting_columns(lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    return left_mask(lengths, width), torch.arange(width).expand(len(lengths), -1)


def counting_from_one(lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    mask = left_mask(lengths, width)
    return mask, mask.cumsum(1)


def below_zero(lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    mask = left_mask(lengths, width)
    return mask, mask.cumsum(1) - 1


# 02.2: mask of responses


def written_ids(generator: Generator) -> tuple[Tensor, tuple[int, ...]]:
    """(5, 8) ids and the two stop ids, shuffled: cut, ended early, at the limit and twice, with a 0 inside."""
    ids = draw(generator, 8, 30, (5, 8))
    ids[:, 1] = 0  # an id that also serves as padding
    early, later = draw(generator, 2, 4).item(), draw(generator, 5, 6).item()
    ids[1, early], ids[2, later], ids[3, 7] = *STOP_IDS, STOP_IDS[0]
    ids[4, early], ids[4, later] = STOP_IDS[1], STOP_IDS[0]
    return ids[torch.randperm(5, generator=generator)], STOP_IDS


def found_ends(ids: Tensor, stop_ids: tuple[int, ...]) -> Tensor:
    return torch.isin(ids, torch.tensor(stop_ids))


def response_mask(ids: Tensor, stop_ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(B, T) ids to (B, T) mask and (B,) whether the response was cut."""
    ends = found_ends(ids, stop_ids)
    before = ends.cumsum(1) - ends.long()  # end tokens to the left of each place
    return (before == 0).long(), ~ends.any(1)


def without_the_end(ids: Tensor, stop_ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    ends = found_ends(ids, stop_ids)
    return (ends.cumsum(1) == 0).long(), ~ends.any(1)


def up_to_the_last_end(ids: Tensor, stop_ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    ends = found_ends(ids, stop_ids)
    coming = ends.flip(1).cumsum(1).flip(1)  # end tokens from each place on
    return ((coming > 0) | ~ends.any(1, keepdim=True)).long(), ~ends.any(1)


def from_token_values(ids: Tensor, stop_ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mask, cut = response_mask(ids, stop_ids)
    return mask * (ids != 0), cut


def cut_by_length(ids: Tensor, stop_ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mask, _ = response_mask(ids, stop_ids)
    return mask, mask.sum(1) == ids.shape[1]


def ended_for_cut(ids: Tensor, stop_ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mask, cut = response_mask(ids, stop_ids)
    return mask, ~cut


# 02.3: log-probabilities of tokens


def model_output(generator: Generator) -> tuple[Tensor, Tensor, float]:
    """(2, 5, 6) logits, (2, 5) ids, a temperature."""
    temperature = 0.5 + torch.rand((), generator=generator).item() / 4
    return 3 * torch.randn(2, 5, 6, generator=generator), draw(generator, 0, 5, (2, 5)), temperature


def picked(scores: Tensor, ids: Tensor) -> Tensor:
    """(B, L, V) scores and (B, L) ids to (B, L) the score of each id."""
    return scores.gather(2, ids[..., None]).squeeze(2)


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """(B, L, V) logits and (B, L) ids to (B, L - 1)."""
    return picked((logits[:, :-1] / temperature).log_softmax(-1), ids[:, 1:])


# 02.4: the ratio after top-k


def next_token_distribution(generator: Generator) -> tuple[Tensor, int]:
    """(6,) probabilities, and how many of them are kept."""
    return torch.randn(6, generator=generator).softmax(0), draw(generator, 2, 4).item()


def kept_mass(probabilities: Tensor, k: int) -> Tensor:
    return probabilities.topk(k).values.sum()


EXERCISES = (
    Exercise(
        "02.1",
        left_padding,
        (
            Mistake(
                "the padding is on the right: the last column should hold a token in every row", padded_on_the_right
            ),
            Mistake("each row has one token too few: is the comparison strict?", one_too_few),
            Mistake(
                "the positions count columns, so padding shifts them: a prompt should begin at 0 in every row",
                counting_columns,
            ),
            Mistake("the positions start at 1: a model counts from 0", counting_from_one),
            Mistake("the padding has position -1, and a table of positions has no such row", below_zero),
        ),
        inputs=prompt_lengths,
        piece="encode_prompts and position_ids of sppo_lab.rollout",
    ),
    Exercise(
        "02.2",
        response_mask,
        (
            Mistake("the end token is left out, so the policy would never be taught when to stop", without_the_end),
            Mistake("it runs on to the last end token: a response is over at its first", up_to_the_last_end),
            Mistake(
                "only the first of the stop ids ends a response: a model can have several",
                lambda ids, stop_ids: response_mask(ids, stop_ids[:1]),
            ),
            Mistake(
                "it looks for the id 0: that id can be sampled, and then it is a token like any other",
                from_token_values,
            ),
            Mistake("a response that ends in the very last place has the full length and is not cut", cut_by_length),
            Mistake("the second thing is True for the responses that did end", ended_for_cut),
        ),
        inputs=written_ids,
        piece="a mask like that of sppo_lab.rollout.sample",
    ),
    Exercise(
        "02.3",
        token_logprobs,
        (
            Mistake(
                "each token is scored by the logits of its own place, which were computed after reading it",
                lambda logits, ids, t: picked((logits[:, 1:] / t).log_softmax(-1), ids[:, 1:]),
            ),
            Mistake(
                "the shift goes the wrong way: a row of logits scores a later token, not an earlier one",
                lambda logits, ids, t: picked((logits[:, 1:] / t).log_softmax(-1), ids[:, :-1]),
            ),
            Mistake("the temperature is missing", lambda logits, ids, t: token_logprobs(logits, ids, 1.0)),
            Mistake(
                "the temperature multiplies: a low one should make the distribution sharper",
                lambda logits, ids, t: token_logprobs(logits, ids, 1 / t),
            ),
            Mistake(
                "the log-probabilities are divided after the softmax, so the probabilities no longer add up to 1",
                lambda logits, ids, t: token_logprobs(logits, ids, 1.0) / t,
            ),
            Mistake(
                "these are probabilities: the logarithm is missing",
                lambda logits, ids, t: token_logprobs(logits, ids, t).exp(),
            ),
        ),
        inputs=model_output,
        piece="the same arithmetic as sppo_lab.rollout.response_logprobs",
    ),
    Exercise(
        "02.4",
        lambda probabilities, k: kept_mass(probabilities, k).item(),
        (
            Mistake(
                "this is the ratio upside down: the policy's probability belongs on top",
                lambda p, k: 1 / kept_mass(p, k),
            ),
            Mistake("1 would be right if the kept probabilities were not divided by their sum", lambda p, k: 1.0),
            Mistake("this is the probability of what was dropped", lambda p, k: 1 - kept_mass(p, k)),
            Mistake(
                "this is the probability that the best token is drawn with, not a ratio",
                lambda p, k: p.max() / kept_mass(p, k),
            ),
            Mistake("this is the logarithm of the ratio", lambda p, k: kept_mass(p, k).log()),
        ),
        inputs=next_token_distribution,
    ),
)
