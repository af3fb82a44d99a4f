"""Exercises of notebook 06: what is silent, where a variance comes from, and what a study decides."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from sppo_lab.checks import Exercise, named
from sppo_lab.gradient import inner_products, off_diagonal_mean
from sppo_lab.variance import split_second_moment

# 06.1: groups that say nothing


def some_rates(generator: Generator) -> tuple[Tensor, int]:
    """(5,) solve rates, and a group size."""
    return torch.rand(5, generator=generator), int(torch.randint(3, 7, (), generator=generator))


def silent_share(rates: Tensor, size: int) -> float:
    """The share of groups whose rewards are all equal."""
    return (rates**size + (1 - rates) ** size).mean().item()


SILENT = {
    "groups that are all wrong say nothing either": lambda rates, size: (rates**size).mean(),
    "groups that are all right say nothing either": lambda rates, size: ((1 - rates) ** size).mean(),
    "it is computed at the mean solve rate: very easy and very hard prompts are silent most often": (
        lambda rates, size: silent_share(rates.mean(), size)
    ),
    "this is the share of groups that do say something": lambda rates, size: 1 - silent_share(rates, size),
    "a group cannot be all right and all wrong at once: two events that exclude each other": (
        lambda rates, size: (rates**size * (1 - rates) ** size).mean()
    ),
    "the chance that two responses agree is not that of a whole group": lambda rates, size: silent_share(rates, 2),
}

# 06.2: the second moment of the advantage in two parts


def some_evaluation(generator: Generator) -> tuple[Tensor, int, Tensor]:
    """(6,) right responses of 4 to each prompt, 4, and V (6,)."""
    return torch.randint(0, 5, (6,), generator=generator), 4, torch.rand(6, generator=generator)


def split(solved: Tensor, k: int, values: Tensor) -> tuple[float, float]:
    """``E[p(1 - p)]`` and ``E[(p - V)^2]``, both without bias."""
    found = split_second_moment(solved.numpy(), k, values.numpy())
    return found.noise, found.error


def split_as(parts: Callable) -> Callable[[Tensor, int, Tensor], tuple[float, float]]:
    """Two means, from the plug-in noise and error of each prompt and the number of samples."""

    def answer(solved: Tensor, k: int, values: Tensor) -> tuple[float, float]:
        rates = solved.double() / k
        noise, error = parts(rates * (1 - rates), (rates - values) ** 2, k)
        return noise.mean().item(), error.mean().item()

    return answer


SPLIT = {
    "both parts take the pass rate for the solve rate: the noise comes out too small and the error too large": (
        split_as(lambda noise, error, k: (noise, error))
    ),
    "the noise is right; the error still holds the chance of k samples, which is no fault of the critic": (
        split_as(lambda noise, error, k: (noise * k / (k - 1), error))
    ),
    "the error is right; the noise is too small, as a variance of a sample is that divides by k": (
        split_as(lambda noise, error, k: (noise, error - noise / (k - 1)))
    ),
    "the factor of the noise is upside down: a small sample shows too little of it": (
        split_as(lambda noise, error, k: (noise * (k - 1) / k, error - noise / (k - 1)))
    ),
    "from the error all the noise of a response is taken; a pass rate is a mean over k of them": (
        split_as(lambda noise, error, k: (noise * k / (k - 1), error - noise * k / (k - 1)))
    ),
    "from the error noise / k is taken with the noise that is itself too small": (
        split_as(lambda noise, error, k: (noise * k / (k - 1), error - noise / k))
    ),
}

# 06.3: noise and signal of repeated gradients


def some_gradients(generator: Generator) -> tuple[Tensor]:
    """(5, 7) gradients around a mean."""
    return (torch.randn(7, generator=generator) + torch.randn(5, 7, generator=generator),)


def noise_and_signal(gradients: Tensor) -> tuple[float, float]:
    """Trace of the covariance, and the squared length of the mean without bias."""
    products = inner_products(gradients, gradients)
    signal = off_diagonal_mean(products)
    return float(products.trace() / len(products) - signal), signal


def trace(gradients: Tensor) -> Tensor:
    return gradients.double().var(0).sum()


def signal_less(share: Callable[[Tensor], float]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The trace, and the squared length of the mean of R gradients less a share of the trace."""
    return lambda g: (trace(g), g.double().mean(0).square().sum() - share(g) * trace(g))


GRADIENTS = {
    "the signal is too large: the mean of a few gradients still has noise in it, which makes it longer": (
        signal_less(lambda gradients: 0)
    ),
    "the noise of one gradient is taken from the signal: a mean of R has less of it": (
        signal_less(lambda gradients: 1)
    ),
    "the trace divides by R: a covariance from R gradients needs R - 1": (
        lambda g: (g.var(0, correction=0).sum(), noise_and_signal(g)[1])
    ),
    "the trace is right as a mean of squared lengths, but about 0: the mean is to be subtracted first": (
        lambda g: (g.square().sum(1).mean(), noise_and_signal(g)[1])
    ),
    "all of the covariance is added up: the trace is its diagonal": (
        lambda g: (torch.cov(g.T).sum(), noise_and_signal(g)[1])
    ),
    "the variances are averaged over the parameters: a trace is their sum": (
        lambda g: (g.var(0).mean(), noise_and_signal(g)[1])
    ),
}

# 06.4: intervals of paired differences


def some_seeds(generator: Generator) -> tuple[Tensor, Tensor, float]:
    """Two algorithms in 3 studies of 5 seeds each that share much of their luck, (3, 5); and Student's quantile."""
    luck, first, second = torch.randn(3, 3, 5, generator=generator).double()
    return 0.6 + luck / 10 + first / 50, 0.6 + luck / 10 + second / 50, 2.7764


def student_interval(first: Tensor, second: Tensor, quantile: float) -> Tensor:
    """(N, S) twice to (N, 2) the interval of the mean of ``first - second``."""
    return around(first - second, lambda d: d.std(-1) / d.shape[-1] ** 0.5, quantile)


def around(differences: Tensor, error: Callable[[Tensor], Tensor], quantile: float) -> Tensor:
    mean, half = differences.mean(-1), quantile * error(differences)
    return torch.stack([mean - half, mean + half], -1)


def unpaired(first: Tensor, second: Tensor, quantile: float) -> Tensor:
    error = ((first.var(-1) + second.var(-1)) / first.shape[-1]) ** 0.5
    return around(first - second, lambda d: error, quantile)


PAIRED = {
    "the two are treated as if their seeds had nothing in common: the luck that they share should cancel": unpaired,
    "this is where one more seed may fall: the interval is that of the mean": (
        lambda a, b, t: around(a - b, lambda d: d.std(-1), t)
    ),
    "the deviation is divided by S, not by its root": (
        lambda a, b, t: around(a - b, lambda d: d.std(-1) / d.shape[-1], t)
    ),
    "the deviation divides by S: a sample of S needs the correction": (
        lambda a, b, t: around(a - b, lambda d: d.std(-1, correction=0) / d.shape[-1] ** 0.5, t)
    ),
    "1.96 is for many seeds: for a few the quantile that is given is wider": (
        lambda a, b, t: student_interval(a, b, 1.96)
    ),
    "the difference is turned round": lambda a, b, t: student_interval(b, a, t),
}

# 06.5: what the intervals decide


def some_studies(generator: Generator) -> tuple[Tensor, Tensor]:
    """Intervals from 60 studies: of the variance's difference (60, 2), of the accuracy's to 3 methods (60, 3, 2)."""
    middle = 2 * torch.randn(60, 4, generator=generator)
    middle[:30, 1:] = -middle[:30, 1:].abs()  # half of them below every group method, or not certainly so
    half = torch.rand(60, 4, generator=generator)
    intervals = torch.stack([middle - half, middle + half], -1)
    return intervals[:, 0], intervals[:, 1:]


def sides(intervals: Tensor) -> Tensor:
    """1 above 0, -1 below, 0 where the interval holds 0."""
    return (intervals[..., 0] > 0).long() - (intervals[..., 1] < 0).long()


def means(intervals: Tensor) -> Tensor:
    """The sides of the midpoints: a verdict that looks at no interval."""
    return intervals.mean(-1).sign().long()


def settled(side=sides, lower=lambda s: (s == -1).all(1), higher=lambda s: (s == 1).any(1), both=torch.logical_and):
    """-1 refuted, 1 survives, 0 undecided: ``statistics.settle`` for many studies, or that with one piece wrong."""

    def answer(variance: Tensor, accuracies: Tensor) -> Tensor:
        noise, gaps = side(variance), side(accuracies)
        refuted = both(noise == 1, lower(gaps))
        survives = (noise == -1) | higher(gaps)
        return survives.long().where(~refuted, -1)

    return answer


SETTLED = {
    "it goes by the middle of each interval: one that holds 0 decides nothing": settled(side=means),
    "one group method ahead is not enough: to refute, SPPO must be below every one of them": (
        settled(lower=lambda s: (s == -1).any(1))
    ),
    "one condition alone refutes here: it takes the variance and the accuracies": settled(both=torch.logical_or),
    "to survive it is enough to be above one group method: then it is not below all": (
        settled(higher=lambda s: (s == 1).all(1))
    ),
    "everything that is not refuted survives here: where the intervals do not say, it is undecided": (
        lambda variance, accuracies: 2 * (settled()(variance, accuracies) >= 0).long() - 1
    ),
    "the claim is turned round: a lower variance or a higher accuracy speaks for it": (
        lambda variance, accuracies: settled()(-variance.flip(-1), -accuracies.flip(-1))
    ),
    "a variance that is certainly lower settles it too": (lambda v, a: settled()(v.clamp(min=0), a)),
}

EXERCISES: tuple[Exercise, ...] = (
    Exercise("06.1", silent_share, named(SILENT), some_rates, "the sum that Bandit.moments takes"),
    Exercise("06.2", split, named(SPLIT), some_evaluation, "split_second_moment"),
    Exercise("06.3", noise_and_signal, named(GRADIENTS), some_gradients, "the products of gradient_noise"),
    Exercise("06.4", student_interval, named(PAIRED), some_seeds, "the formula of paired_difference"),
    Exercise("06.5", settled(), named(SETTLED), some_studies, "the rule of settle"),
)
