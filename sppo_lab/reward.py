r"""Rewards for mathematical answers: 1.0 if the final answer of a response is right, else 0.0.

The text that counts is cut out here; whether it means the same as the gold answer is decided by
``math-verify`` in a process of its own (``reward_worker.py``, ``judge_process.py``).
"""

import re
from decimal import Decimal

from sppo_lab.errors import LabError
from sppo_lab.judge_process import JudgeProcess

TIMEOUT = 5.0  # seconds for one response; when they are over, it scores 0
RESPONSE_LIMIT = 20_000  # characters read, from the end of a response
ANSWER_LIMIT = 1_000  # characters; a longer final answer scores 0
GOLD_MARK = "####"  # precedes the final answer in GSM8K

_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d{1,30}|\d{1,3}(?:,\d{3}){1,9})(?:\.\d{1,30})?", re.ASCII)


def final_answer(response: str) -> str:
    r"""The part of ``response`` that is judged; empty if there is none.

    It is the content of the last complete ``\boxed{…}`` or ``\fbox{…}``; without one, the line after the last
    ``####``; without that, the last line that is not blank.  An unclosed box does not count.
    """
    response = response[-RESPONSE_LIMIT:]
    boxed = last_boxed(response)
    if boxed is not None:
        return boxed.strip()
    _, mark, marked = response.rpartition(GOLD_MARK)
    lines = [line.strip() for line in marked.splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[0] if mark else lines[-1]


def last_boxed(text: str) -> str | None:
    r"""Content of the ``\boxed{…}`` that closes last; None if none does.  One pass, for any nesting."""
    found, opened = None, []
    for token in _TOKEN.finditer(text):
        if token[0].endswith("{") and token[0] != r"\{":
            opened.append(token.end() if token[0] != "{" else None)
        elif token[0] == "}" and opened:
            start = opened.pop()
            if start is not None:
                found = text[start : token.start()]
    return found


def math_rewards(responses: list[str], answers: list[str], timeout: float = TIMEOUT) -> list[float]:
    r"""1.0 or 0.0 for each response, in order; ``answers[i]`` is the gold answer to ``responses[i]``.

    ``timeout`` is in seconds per response.  No response raises: one that cannot be judged in time, or at all,
    scores 0.  A gold answer that is no formula (``\text{Evelyn}``) is compared letter by letter.

    Raises LabError if the two lists differ in length, if a gold answer is blank, if ``timeout`` is not
    positive, or if the judging process does not start.
    """
    if len(responses) != len(answers):
        raise LabError(
            f"math_rewards got {len(responses)} responses and {len(answers)} answers; it needs one for each: "
            "repeat a problem's answer for every response sampled from it."
        )
    if not timeout > 0:
        raise LabError(f"timeout is {timeout}; it should be a positive number of seconds.")
    for index, answer in enumerate(answers):
        if not answer.strip():
            raise LabError(f"answers[{index}] is blank; every problem needs a gold answer such as '72' or '\\pi'.")
    return [_reward(response, gold, timeout) for response, gold in zip(responses, answers, strict=True)]


def _reward(response: str, gold: str, timeout: float) -> float:
    answer = final_answer(response)
    if not answer or len(answer) > max(ANSWER_LIMIT, len(gold)):
        return 0.0
    number, gold_number = _plain_number(answer), _plain_number(gold)
    if number is not None and gold_number is not None:
        return float(number == gold_number)  # nearly all of GSM8K: exact, and needs no judge
    return float(_judge.ask(answer, gold, timeout=timeout))


def _plain_number(text: str) -> Decimal | None:
    r"""``72``, ``$1,234.50`` or ``\$18.`` as an exact number; None for anything else."""
    text = text.strip().removeprefix("\\").strip("$ ").removesuffix(".")
    return Decimal(text.replace(",", "")) if _PLAIN_NUMBER.fullmatch(text) else None


_judge = JudgeProcess(
    "sppo_lab.reward_worker",
    "mathematical answers",
    "It needs the math-verify library: pip install 'math-verify[antlr4_13_2]'",
)
