"""Chains of single-digit sums and differences: the embedded task.

A prompt is the bare chain, ``7+5-3=``.  A response either works it out, one binary step at a time,
``7+5=12;12-3=9#9``, or guesses outright, ``#9``.  Only what follows the last ``#`` is judged.
"""

import re
from itertools import zip_longest
from pathlib import Path

from sppo_lab.assets import data_folder
from sppo_lab.errors import LabError
from sppo_lab.tasks.base import Problem
from sppo_lab.tasks.files import Row, read_rows

ANSWER_MARK = "#"
STEP_MARK = ";"

_TERM = re.compile(r"[+-]?\d")
_CHAIN = re.compile(r"[0-9](?:[+-][0-9])*=")
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")


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
    steps = [f"{before}{term:+d}={after}" for before, term, after in zip(totals, terms[1:], totals[1:], strict=False)]
    return STEP_MARK.join(steps) + f"{ANSWER_MARK}{totals[-1]}"


def count_slips(prompt: str, response: str) -> tuple[int, int]:
    """Wrong steps and all steps of a response; a guess has no steps, so (0, 0).

    A step is right if it takes the chain's next term and counts correctly from the total before it, even if that
    total is wrong.  So one slip is one wrong step, however many totals it spoils.
    """
    work = response.partition(ANSWER_MARK)[0]
    first, *terms = split_terms(prompt)
    total, slips = first, 0
    steps = work.split(STEP_MARK) if work else []
    for step, term in zip_longest(steps, terms[: len(steps)]):
        head, _, result = step.rpartition("=")
        known = _INTEGER.fullmatch(result) is not None
        slips += term is None or head != f"{total}{term:+d}" or not known or int(result) != total + term
        total = int(result) if known else total
    return slips, len(steps)


def after_mark(response: str) -> str:
    """The text after the last ``#``; empty if there is none."""
    _, mark, final = response.rpartition(ANSWER_MARK)
    return final.strip() if mark else ""


def chain_sum_reward(response: str, answer: str) -> float:
    """1.0 if the text after the last ``#`` is the answer as an integer, else 0.0.  Never raises."""
    final = after_mark(response)
    return float(_INTEGER.fullmatch(final) is not None and int(final) == int(answer))


def chain_sum_rewards(responses: list[str], answers: list[str]) -> list[float]:
    """The reward of each response, in order.  Raises LabError for an answer that is no integer."""
    for answer in answers:
        if not _INTEGER.fullmatch(answer.strip()):
            raise LabError(f"the answer {answer!r:.40} is not an integer.")
    return [chain_sum_reward(response, answer) for response, answer in zip(responses, answers, strict=True)]


def read_chain_sum(path: str | Path | None = None, split: str = "train") -> list[Problem]:
    """The embedded problems of a ``split`` ("train" or "test"), or those of a file in the same format.

    A record is ``{"question": "7+5-3=", "answer": "9"}``.  Raises LabError, naming file and line, for anything
    else.
    """
    rows = read_rows(path or data_folder() / "chain_sum" / f"{split}.jsonl", ("question", "answer"))
    return [_problem(row) for row in rows]


def _problem(row: Row) -> Problem:
    question, answer = (row.fields[key].strip() for key in ("question", "answer"))
    if not _CHAIN.fullmatch(question) or not _INTEGER.fullmatch(answer):
        raise LabError(
            f"{row.where}: expected a question such as '7+5-3=' and an answer such as '9', found {question!r:.60} "
            f"and {answer!r:.20}."
        )
    return Problem(question, answer)
