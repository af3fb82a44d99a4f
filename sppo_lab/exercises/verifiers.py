"""Exercises of notebook 02, second part: verifiers and the price of a token.  The first part is in rollouts.py."""

import re

import torch
from torch import Generator, Tensor

from sppo_lab.checks import Exercise, Mistake
from sppo_lab.exercises.rollouts import draw
from sppo_lab.tasks.chain_sum import after_mark, chain_sum_rewards

NUMBER = r"[+-]?[0-9]+"
FULL_WIDTH = {ord("0") + digit: ord("０") + digit for digit in range(10)}  # as Japanese text has them

# 02.5: a verifier


def hostile_batch(generator: Generator) -> tuple[list[str], list[str]]:
    """Honest and hostile responses to one problem, and its answer for each."""
    a, b = draw(generator, 10, 30).item(), draw(generator, 31, 60).item()
    responses = [
        f"#{a}",
        f"3+4=7;7+5={a}#{a}",
        f"# {a} ",
        f"#+{a}",
        f"#{b}#{a}",
        f"#{a}#{b}",
        f"{a}",
        f"#1{a}",
        f"#{a}0",
    ]
    responses += [
        "#",
        "",
        f"#{a} or {b}",
        f"#{b} or {a}",
        "#nine",
        f"{a}#{b}",
        "#²",
        f"#{str(a)[0]}_{str(a)[1]}",
        f"#{str(a).translate(FULL_WIDTH)}",
        f"#-{a}",
        " ".join(map(str, range(61))),
    ]
    return responses, [str(a)] * len(responses)


def judged(rule):
    """A rule for one response and its answer, as a verifier of lists."""
    return lambda responses, answers: [float(rule(*pair)) for pair in zip(responses, answers, strict=True)]


def after_first_mark(response: str, answer: str) -> bool:
    pieces = response.split("#")
    return len(pieces) > 1 and same_integer(pieces[1], answer)


def same_integer(text: str, answer: str) -> bool:
    return re.fullmatch(NUMBER, text.strip()) is not None and int(text) == int(answer)


def by_int(response: str, answer: str) -> bool:
    try:
        return int(after_mark(response)) == int(answer)
    except ValueError:
        return False


def by_any_digits(response: str, answer: str) -> bool:
    text = after_mark(response)
    return re.fullmatch(r"[+-]?\d+", text) is not None and int(text) == int(answer)


def one_of_the_numbers(response: str, answer: str, place: int) -> bool:
    numbers = re.findall(NUMBER, after_mark(response))
    return bool(numbers) and int(numbers[place]) == int(answer)


# 02.6: a price per token


def guesses_and_solutions(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(12,) rewards, lengths, and whether the response works the answer out; both kinds occur."""
    worked_out = torch.rand(12, generator=generator) < 0.5
    worked_out[:2] = torch.tensor([True, False])
    rates = torch.where(worked_out, 0.8, 0.2)
    right = (torch.rand(12, generator=generator) < rates).float()
    right[:2] = torch.tensor([1.0, 0.0])
    lengths = torch.where(worked_out, draw(generator, 20, 40, (12,)), draw(generator, 3, 4, (12,)))
    return right, lengths, worked_out


def mean_difference(x: Tensor, worked_out: Tensor) -> Tensor:
    """Mean of (B,) ``x`` where worked out, less its mean elsewhere."""
    return x[worked_out].float().mean() - x[~worked_out].float().mean()


def break_even(right: Tensor, lengths: Tensor, worked_out: Tensor) -> float:
    """The price per token at which both kinds earn the same on average."""
    return (mean_difference(right, worked_out) / mean_difference(lengths, worked_out)).item()


def sums_for_means(right: Tensor, lengths: Tensor, worked_out: Tensor) -> float:
    gain = right[worked_out].sum() - right[~worked_out].sum()
    return (gain / (lengths[worked_out].sum() - lengths[~worked_out].sum())).item()


EXERCISES = (
    Exercise(
        "02.5",
        chain_sum_rewards,
        (
            Mistake(
                "it pays for the answer anywhere in the text, so a list of all numbers is always right",
                judged(lambda r, a: a in r),
            ),
            Mistake(
                "a number that merely ends in the right digits is paid: 112 is not 12",
                judged(lambda r, a: r.endswith(a)),
            ),
            Mistake("it judges what follows the first #, and a response may correct itself", judged(after_first_mark)),
            Mistake(
                "a text without # is judged: rpartition gives the whole text back then",
                judged(lambda r, a: same_integer(r.rpartition("#")[2], a)),
            ),
            Mistake("it compares letters: +12 and 12 are the same integer", judged(lambda r, a: after_mark(r) == a)),
            Mistake(
                "a number at the front is paid whatever follows it: '12 or 13' is no answer",
                judged(lambda r, a: one_of_the_numbers(r, a, 0)),
            ),
            Mistake(
                "a number at the end is paid whatever precedes it: '13 or 12' is no answer",
                judged(lambda r, a: one_of_the_numbers(r, a, -1)),
            ),
            Mistake(
                "int() takes more than people write: 2_1, and digits of other scripts. Say which letters a number has",
                judged(by_int),
            ),
            Mistake(r"\d matches digits of every script, and int() reads them: [0-9] does not", judged(by_any_digits)),
        ),
        inputs=hostile_batch,
        piece="sppo_lab.tasks.chain_sum.chain_sum_rewards",
    ),
    Exercise(
        "02.6",
        break_even,
        (
            Mistake("this is tokens per reward, the price upside down", lambda r, n, w: 1 / break_even(r, n, w)),
            Mistake(
                "guesses are right now and then too: what counts is how much more working out earns",
                lambda r, n, w: r[w].mean() / n[w].float().mean(),
            ),
            Mistake(
                "guesses cost tokens too: what counts is how many more working out takes",
                lambda r, n, w: mean_difference(r, w) / n[w].float().mean(),
            ),
            Mistake("these are sums, and there are not equally many of each kind: take means", sums_for_means),
        ),
        inputs=guesses_and_solutions,
    ),
)
