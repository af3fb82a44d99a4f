r"""The process that decides whether two mathematical texts mean the same.

``sppo_lab.reward`` starts it as ``python -m sppo_lab.reward_worker`` and asks ``[answer, gold, seconds]``; the
protocol is in ``judge_process.py``.  It runs apart from the training process because a short text can ask for
endless work (``9**9**9**9``), some of it in C code that no Python exception interrupts: here it costs one process
and one reward, and nothing else.

Mathematics is read and compared by ``math-verify``.  Everything else in this file removes what surrounds
the mathematics (``$``, ``\text{cm}``, "The answer is …") and refuses what only looks like an answer ("5 or
6" where 5 was asked for).
"""

import re
from functools import lru_cache
from typing import Any

from sppo_lab.judge_process import serve

# Notation that differs on the page and not in meaning.  Applied in this order.
_SAME_NOTATION = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)", r"\1"),  # **bold**, but not x**2
        (r"\*\*", "^"),
        (r"`", ""),
        (r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"√", r"\\sqrt"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|\\!", ""),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\(?:boxed|fbox)\s*(?=\{)", ""),
        (r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox)\s*\{([^{}]*)\}", r" \1 "),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})", ""),
        (r"\\?[$€£]|\\(?:pounds|euro)(?![A-Za-z])", ""),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"\\%", "%"),
        (r"\s+", " "),
    ]
]
_SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∈": r"\in ", "°": "", "²": "^2", "³": "^3"}
)

_COMMAS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACES = re.compile(r"(?<![\d,.])\d{1,3}(?: \d{3})+(?! ?\d)")
_MIXED = re.compile(r"(?<![\d.])(\d+) (?:(\d+)/(\d+)|(?=\\frac))")

# Words that belong to a formula rather than to a sentence.
_FORMULA_WORD = re.compile(
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|exp|sqrt|max|min|gcd|lcm|mod|det|and|inf(?:inity)?|[pbv]?matrix|cases"
    r"|array|percent",
    re.IGNORECASE,
)
# In a sentence, each of these makes "the number in it" another value, or no single value.
_DOUBTFUL = re.compile(
    r"\b(?:or|nor|either|neither|not|cannot|no|half|halves|thirds?|quarters?|dozens?|hundred|squared|cubed|root"
    r"|plus|times|divided|factorial|maybe|perhaps|possibly)\b|n't\b|n’t\b|\?",
    re.IGNORECASE,
)
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_NEGATIVE = re.compile(r"\b(?:minus|negative)\s+(?=\d)", re.IGNORECASE)
_WORD = re.compile(r"(?<![\\A-Za-z\d])(?:[A-Za-z]{3,}|is(?![A-Za-z]))")
_LEAD = re.compile(r"\b(?:is|are|was|were|be|equals|answer)\b:?|:(?!\d)", re.IGNORECASE)
_UNIT = re.compile(
    r"(?<=[\d})\s])\s*(?:[cmk]m|[mk]g|m[Ll]|ft|in|mi|lbs?|oz|hrs?|mph|(?<=\s)[mgshL])(?:\s*\^\s*\{?[23]\}?)?"
    r"(?:\s*/\s*(?:s|h|hr|min|sec)(?:\s*\^\s*\{?2\}?)?)?$"
)
_UNIT_PHRASE = re.compile(r"(?<=[\d})%])\s+[A-Za-z](?:[A-Za-z\s./-]|\^\s*\{?[23]\}?)*$")
_NUMBER = re.compile(r"-?(?:\\frac\{-?\d+\}\{\d+\}|(?:\d+|(?=\.\d))(?:\.\d+)?(?:/\d+)?)%?")
_PERCENT = re.compile(r"\s*(?:%|\bpercent\b|\bpct\b)\s*$", re.IGNORECASE)

_TEXT_ANSWER = re.compile(r"\s*\\(?:text|textbf|textit|mathrm|mbox)\s*\{[^{}\d]*[A-Za-z][^{}\d]*\}\s*\.?\s*")
_PLAIN_WORDS = re.compile(r"(?=.*[A-Za-z]{4})[A-Za-z ,'-]+")  # "none of these", but not the product "ab"
_BASE = re.compile(r"(-?\w+)_\{?(\d+)\}?")


@lru_cache(maxsize=4096)  # responses to one prompt often agree
def judge(answer: str, gold: str) -> bool:
    """Whether ``answer`` (already cut out of its response) means what ``gold`` means."""
    ours, theirs = tidy(gold), tidy(answer)
    if not ours or not theirs:
        return False
    if _compact(ours) == _compact(theirs):
        return True
    if _TEXT_ANSWER.fullmatch(gold) or _PLAIN_WORDS.fullmatch(ours):
        # Letter by letter: as a product of symbols, "seat" would equal "east".
        return _bare_words(ours) in (_bare_words(theirs), _bare_words(_after_lead(theirs)))
    gold_value, value = value_part(ours), value_part(theirs)
    if value is None:
        return False
    return _same_value(value, gold_value if gold_value is not None else ours)


def tidy(text: str) -> str:
    """``text`` in one notation: no dollar signs, no ``\\text``, no degree sign, ``\\dfrac`` as ``\\frac``."""
    text = text.translate(_SYMBOLS)
    for pattern, replacement in _SAME_NOTATION:
        text = pattern.sub(replacement, text)
    text = text.strip().rstrip(" .,;:")
    if not text.startswith(("(", "[", "{", "\\{")):  # (1,234) is a pair, 1,234 is a number
        text = _COMMAS.sub(lambda match: match[0].replace(",", ""), text)
    text = _SPACES.sub(lambda match: match[0].replace(" ", ""), text)
    return _MIXED.sub(_mixed_number, text)


def _mixed_number(match: re.Match[str]) -> str:
    whole, above, below = match.groups()
    return whole + (rf"\frac{{{above}}}{{{below}}}" if above else "")


def value_part(text: str) -> str | None:
    """The formula in a tidied ``text`` without its sentence and unit; None if it commits to no single one."""
    text = _NEGATIVE.sub("-", text)
    for word, power in _SCALES.items():
        text = re.sub(rf"(?<=\d)\s+{word}\b", rf" \\times 10^{{{power}}}", text, flags=re.IGNORECASE)
    if _has_prose(text):
        if _DOUBTFUL.search(text):
            return None
        text = _after_lead(text)
    if _has_prose(text):
        text = text.rsplit("=", 1)[-1].strip()
    text = _UNIT_PHRASE.sub("", text) if _has_prose(text) else text
    text = _UNIT.sub("", text).strip()
    if _has_prose(text):
        numbers = {match.rstrip(".") for match in _NUMBER.findall(text)}
        return numbers.pop() if len(numbers) == 1 else None
    return None if re.search(r"\d \d", text) else text


def _has_prose(text: str) -> bool:
    return not all(_FORMULA_WORD.fullmatch(word) for word in _WORD.findall(text))


def _after_lead(text: str) -> str:
    """What follows the last "is", "answer:" and the like; all of ``text`` if nothing does."""
    return _LEAD.split(text)[-1].strip() or text


def _compact(text: str) -> str:
    """``text`` without spaces, save those between digits: ``1 1/2`` is not ``11/2``."""
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    return text.casefold() if _WORD.search(text) and not re.search(r"[\\\d]", text) else text


def _bare_words(text: str) -> str:
    return re.sub(r"[\s().\"'`]", "", text).casefold()


def _same_value(answer: str, gold: str) -> bool:
    """Compare two formulas, after the differences that math-verify overlooks."""
    if _brackets(answer) and _brackets(gold) and _brackets(answer) != _brackets(gold):
        return False  # {1,2} is not (1,2), and (1,2) is not [1,2]
    if _brackets(answer) not in ("", r"\{\}") and "," in gold and not re.search(r"[(\[]", gold):
        return False  # a list of solutions has no order, a pair has
    bases = [match for match in (_BASE.fullmatch(answer), _BASE.fullmatch(gold)) if match]
    if bases and all(match[1].isdigit() for match in bases):
        if len(bases) == 2:
            return bases[0].groups() == bases[1].groups()
        answer, gold = _BASE.sub(r"\1", answer), _BASE.sub(r"\1", gold)  # "52" to "write it in base 8"
    answer_value, gold_value = _PERCENT.sub("", answer), _PERCENT.sub("", gold)
    if _equal(answer_value, gold_value):
        return True
    if (answer_value == answer) == (gold_value == gold):
        return False
    if answer_value != answer:
        answer_value = rf"\frac{{{answer_value}}}{{100}}"
    else:
        gold_value = rf"\frac{{{gold_value}}}{{100}}"
    return _equal(answer_value, gold_value)


def _brackets(text: str) -> str:
    """The outer brackets of a list, ``"(]"`` for ``(3, 4]``; empty for anything else."""
    match = re.fullmatch(r"(\(|\[|\\\{).*,.*(\)|\]|\\\})", text)
    return match[1] + match[2] if match and not re.search(r"\\cup|\\cap", text) else ""


def _equal(answer: str, gold: str) -> bool:
    from math_verify import verify

    expected, found = _parse(gold), _parse(answer)
    if not expected or not found or _is_false_sum(found[0]):
        return False
    # Gold comes first: verify reads the answer in gold's terms ("x = 5" for gold 5), not the other way round.
    # No time-outs of its own: on Windows they start a process per call, and none stops C code.
    return verify(expected, found, allow_set_relation_comp=True, timeout_seconds=None)


@lru_cache(maxsize=2048)  # responses to one prompt share their gold answer
def _parse(text: str) -> list[Any]:
    """``text`` as a one-element list holding a sympy object; empty if it is no formula.

    The whole text is handed over as one LaTeX formula.  Given a sentence, math-verify would search it and
    take the last number, which rewards "5 or 6" as 6.  Its list of units is off too: it reads ``5t`` as 5.
    """
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    rules = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")
    config = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=rules)
    return parse(f"${text}$", [config], fallback_mode="no_fallback", parsing_timeout=None)


def _is_false_sum(parsed: Any) -> bool:
    """True for ``2 + 2 = 5``, which math-verify would read as its right-hand side."""
    from sympy import Eq

    if not isinstance(parsed, Eq) or parsed.free_symbols:
        return False
    from math_verify import verify

    return not verify(parsed.lhs, parsed.rhs, timeout_seconds=None)


if __name__ == "__main__":
    serve(judge, "math_verify")
