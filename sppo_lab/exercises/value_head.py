"""Exercises of notebook 03: reading V at the right place, its loss, and how far it can be believed."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

from sppo_lab.checks import Exercise, Mistake
from sppo_lab.critic_figures import reliability
from sppo_lab.loss import bce_value_loss


def padded_masks(generator: Generator) -> tuple[Tensor]:
    """A mask (6, 7) of prompts with 2 to 5 tokens, padded on the left in the upper rows and on the right below."""
    lengths = torch.randint(2, 6, (6, 1), generator=generator)
    columns = torch.arange(7)
    left = columns >= 7 - lengths[:3]
    return (torch.cat([left, columns < lengths[3:]]).long(),)


def last_position(mask: Tensor) -> Tensor:
    """(B, P) mask to (B,) columns, as ``Critic.prompt_output`` finds them."""
    return (torch.arange(mask.shape[1]) * mask).argmax(1)


LAST_POSITION = Exercise(
    "03.1",
    last_position,
    (
        Mistake(
            "that is right where the padding is on the right; on the left the pads come before the tokens you counted",
            lambda mask: mask.sum(1) - 1,
        ),
        Mistake(
            "that is always the last column, which holds a pad where the padding is on the right",
            lambda mask: torch.full((len(mask),), mask.shape[1] - 1),
        ),
        Mistake(
            "that is the first real token: argmax returns the first of several equal maxima",
            lambda mask: mask.argmax(1),
        ),
        Mistake("that is the number of real tokens, a length and not a column", lambda mask: mask.sum(1)),
    ),
    inputs=padded_masks,
    piece="the rule in Critic.prompt_output",
)


def logits_and_rewards(generator: Generator) -> tuple[Tensor, Tensor]:
    """Eight logits and rewards, (8,) each: six ordinary ones, and two so far out that V rounds to 0 or 1."""
    logits = torch.cat([3 * torch.randn(6, generator=generator), torch.tensor([200.0, -150.0])])
    rewards = torch.cat([torch.tensor([0.0, 1.0, 0.0, 1.0]), 0.2 + 0.6 * torch.rand(4, generator=generator)])
    return logits, rewards


def naive_bce(logits: Tensor, rewards: Tensor) -> Tensor:
    value = torch.sigmoid(logits)
    return -(rewards * torch.log(value) + (1 - rewards) * torch.log(1 - value))


BCE = Exercise(
    "03.2",
    bce_value_loss,
    (
        Mistake(
            "it is infinite where V rounds to 0 or 1: take the logarithm of the sigmoid without forming the sigmoid",
            naive_bce,
        ),
        Mistake(
            "it stops growing where V rounds to 0 or 1, because binary_cross_entropy cuts the logarithm off at -100: "
            "start from the logits",
            lambda logits, rewards: functional.binary_cross_entropy(torch.sigmoid(logits), rewards, reduction="none"),
        ),
        Mistake(
            "a wrong response costs nothing yet: one of the two terms is missing",
            lambda logits, rewards: -rewards * functional.logsigmoid(logits),
        ),
        Mistake(
            "a right response is punished for a high V: which term belongs to R, and which to 1 - R?",
            lambda logits, rewards: bce_value_loss(logits, 1 - rewards),
        ),
        Mistake(
            "that takes the sigmoid twice: what comes in are logits, and the loss wants logits",
            lambda logits, rewards: bce_value_loss(torch.sigmoid(logits), rewards),
        ),
    ),
    inputs=logits_and_rewards,
    piece="bce_value_loss",
)


def solve_rates(generator: Generator) -> tuple[Tensor]:
    """Ten solve rates (10,), a hopeless and a certain prompt among them."""
    return (torch.cat([torch.rand(8, generator=generator), torch.tensor([0.0, 1.0])]),)


def entropies(rates: Tensor) -> Tensor:
    """Entropy of each coin in nats, (N,)."""
    return torch.special.entr(rates) + torch.special.entr(1 - rates)


def bce_floor(rates: Tensor) -> float:
    """The lowest mean BCE that any critic of prompts can reach: the mean entropy of the solve rates (N,)."""
    return entropies(rates).mean().item()


FLOOR = Exercise(
    "03.3",
    bce_floor,
    (
        Mistake(
            "that is the entropy of the mean rate, which a critic reaches that says the same to every prompt",
            lambda rates: entropies(rates.mean()).item(),
        ),
        Mistake(
            "that is in bits; the loss takes natural logarithms",
            lambda rates: bce_floor(rates) / torch.log(torch.tensor(2.0)).item(),
        ),
        Mistake(
            "that counts the right responses only: the wrong ones have a surprise of their own",
            lambda rates: torch.special.entr(rates).mean().item(),
        ),
        Mistake(
            "that is the floor of the squared error (V - R)^2; here the loss is BCE",
            lambda rates: (rates * (1 - rates)).mean().item(),
        ),
        Mistake("that is one number per prompt; the loss is their mean", entropies),
    ),
    inputs=solve_rates,
    piece="the mean of scipy.special.entr(p) + scipy.special.entr(1 - p)",
    tolerance=1e-4,
)

Bins = tuple[Tensor, Tensor, Tensor]


def values_and_rates(generator: Generator) -> tuple[Tensor, Tensor, int]:
    """Values (30,), two of them exactly 1 and none in one of the bins, pass rates (30,), and how many bins."""
    values = 0.38 * torch.rand(30, generator=generator)
    values[10:] += 0.54
    values[:2] = 1.0
    return values, torch.randint(0, 9, (30,), generator=generator) / 8, 10


def reliability_bins(values: Tensor, rates: Tensor, bins: int) -> Bins:
    """Mean V, mean pass rate and number of prompts per bin of V, (bins,) each."""
    found = reliability(values.numpy(), rates.numpy(), bins)
    return tuple(torch.tensor(column).float() for column in (found.values, found.outcomes, found.counts))


def binned(place: Tensor, values: Tensor, rates: Tensor, bins: int) -> Bins:
    """As ``reliability_bins``, with the bin of each prompt given; a bin beyond the last is left out."""
    inside = functional.one_hot(place, bins + 1)[:, :bins].float()  # (N, bins)
    counts = inside.sum(0)
    share = counts.clamp(min=1)
    return values @ inside / share, rates @ inside / share, counts


def floor_place(values: Tensor, bins: int) -> Tensor:
    return (values * bins).long().clamp(max=bins - 1)


def over_all(values: Tensor, rates: Tensor, bins: int) -> Bins:
    mean_value, mean_rate, counts = reliability_bins(values, rates, bins)
    return mean_value * counts / len(values), mean_rate * counts / len(values), counts


def at_middle(values: Tensor, rates: Tensor, bins: int) -> Bins:
    _, mean_rate, counts = reliability_bins(values, rates, bins)
    return (torch.arange(bins) + 0.5) / bins, mean_rate, counts


RELIABILITY = Exercise(
    "03.4",
    reliability_bins,
    (
        Mistake(
            "prompts with V = 1 are lost: they lie on the upper end of the last bin",
            lambda values, rates, bins: binned((values * bins).long(), values, rates, bins),
        ),
        Mistake(
            "that sorts the prompts by what happened; calibration asks what happened where the critic said V",
            lambda values, rates, bins: binned(floor_place(rates, bins), values, rates, bins),
        ),
        Mistake(
            "that rounds to the nearest border, so each bin is shifted by half its width",
            lambda values, rates, bins: binned((values * bins).round().long().clamp(max=bins - 1), values, rates, bins),
        ),
        Mistake(
            "the middle of a bin stands for what the critic said in it; take the mean of what it did say", at_middle
        ),
        Mistake("that divides by all prompts; a bin's mean is over the prompts of that bin", over_all),
    ),
    inputs=values_and_rates,
    piece="sppo_lab.critic_figures.reliability",
)


def counted(generator: Generator) -> tuple[Tensor, int, Tensor]:
    """Right responses (12,) of k to each prompt, k, and V (12,)."""
    samples = int(torch.randint(3, 9, (), generator=generator))
    solved = torch.randint(0, samples + 1, (12,), generator=generator)
    return solved, samples, torch.rand(12, generator=generator)


def squared_error(solved: Tensor, samples: int, values: Tensor) -> Tensor:
    """(N,) estimates of ``(p - V)^2`` without bias; see ``variance.split_second_moment``."""
    rates = solved / samples
    return (rates - values) ** 2 - rates * (1 - rates) / (samples - 1)


def off_by(factor: Callable[[int], float]) -> Callable[[Tensor, int, Tensor], Tensor]:
    """The estimate with another share of ``p(1 - p)`` taken off: ``factor(samples)`` in place of 1 / (k - 1)."""

    def wrong(solved: Tensor, samples: int, values: Tensor) -> Tensor:
        rates = solved / samples
        return (rates - values) ** 2 - factor(samples) * rates * (1 - rates)

    return wrong


SQUARED_ERROR = Exercise(
    "03.5",
    squared_error,
    (
        Mistake(
            "the pass rate still has its noise in it, so even V = p would get an error above zero", off_by(lambda k: 0)
        ),
        Mistake(
            "nearly: the rate's own p(1 - p) is too small on average, by the factor that Bessel corrects",
            off_by(lambda k: 1 / k),
        ),
        Mistake("the noise makes the error look larger; yours makes it larger still", off_by(lambda k: -1 / (k - 1))),
        Mistake("that takes off the noise of one response; the rate is a mean of k", off_by(lambda k: 1)),
        Mistake(
            "that cuts off at zero: a single estimate may be negative, and without those the mean is too high",
            lambda solved, samples, values: squared_error(solved, samples, values).clamp(min=0),
        ),
    ),
    inputs=counted,
    piece="the error part of sppo_lab.variance.split_second_moment",
)

EXERCISES: tuple[Exercise, ...] = (LAST_POSITION, BCE, FLOOR, RELIABILITY, SQUARED_ERROR)
