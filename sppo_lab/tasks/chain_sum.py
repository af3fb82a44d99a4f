"""Chains of single-digit sums and differences: the embedded task.

A prompt is the bare chain, ``7+5-3=``.  A response either works it out, one binary step at a time,
``7+5=12;12-3=9#9``, or guesses outright, ``#9``.  Only what follows the last ``#`` is judged.
"""

import re

ANSWER_MARK = "#"
STEP_MARK = ";"

_TERM = re.compile(r"[+-]?\d")


def split_terms(prompt: str) -> list[int]:
    """Signed terms of a chain: ``"7+5-3="`` gives ``[7, 5, -3]``."""
    return [int(term) for term in _TERM.findall(prompt)]


def running_totals(prompt: str) -> list[int]:
    """Partial sums from left to right: ``"7+5-3="`` gives ``[7, 12, 9]``; the last one is the answer."""
    totals, total = [], 0
    for term in split_terms(prompt):
        total += term
        totals.append(total)
    return totals


def worked_solution(prompt: str, totals: list[int] | None = None) -> str:
    """The response that works the chain out step by step.

    ``totals`` replaces the true running totals, so that a slip in one step is carried through the rest
    exactly as a person's slip would be.
    """
    terms = split_terms(prompt)
    totals = running_totals(prompt) if totals is None else totals
    steps = [
        f"{before}{term:+d}={after}"
        for before, term, after in zip(totals, terms[1:], totals[1:], strict=False)
    ]
    return STEP_MARK.join(steps) + f"{ANSWER_MARK}{totals[-1]}"


def chain_sum_reward(response: str, answer: str) -> float:
    """1.0 if the text after the last ``#`` is the answer as an integer, else 0.0.  Never raises."""
    _, mark, final = response.rpartition(ANSWER_MARK)
    if not mark or not re.fullmatch(r"\s*[+-]?\d{1,9}\s*", final, flags=re.ASCII):
        return 0.0
    return float(int(final) == int(answer))
