r"""Word problems from GSM8K and the MATH family, from a local file or from the Hugging Face hub.

A prompt is the problem followed by one line that says where the final answer is expected.  The answers kept
are final answers only; ``sppo_lab.reward.math_rewards`` judges responses against them.
"""

from pathlib import Path

from sppo_lab.errors import LabError
from sppo_lab.hub import hub_access
from sppo_lab.reward import GOLD_MARK, last_boxed
from sppo_lab.tasks.base import Problem
from sppo_lab.tasks.files import Row, read_rows, require_filled, require_text

# Plain text, for base models; a chat template, if the model has one, is put around the whole prompt.
GSM8K_PROMPT = '{question}\n\nLet\'s think step by step and output the final answer after "####".\n'
MATH_PROMPT = "{question}\n\nLet's think step by step and output the final answer within \\boxed{{}}.\n"

GSM8K_HUB = "openai/gsm8k"
MATH_TEST_HUB = "HuggingFaceH4/MATH-500"
MATH_TRAIN_HUB = "EleutherAI/hendrycks_math"  # its train split has no problem of MATH-500, its test split has
MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def read_gsm8k(path: str | Path | None = None, split: str = "train") -> list[Problem]:
    """Problems in GSM8K's format: ``question``, and an ``answer`` that ends in ``#### 72``.

    Without a ``path``, the ``split`` ("train" or "test") comes from the hub; with one, ``split`` is ignored.
    Raises LabError, naming file and line, for anything that is not such a problem.
    """
    keys = ("question", "answer")
    rows = read_rows(path, keys) if path else hub_rows(GSM8K_HUB, "main", _known(split), keys)
    return [_gsm8k_problem(row) for row in rows]


def read_math(path: str | Path | None = None, split: str = "train") -> list[Problem]:
    r"""Problems in MATH's formats: ``problem``, and an ``answer`` or a ``solution`` that holds ``\boxed{…}``.

    Without a ``path``, "train" is MATH's train split and "test" is MATH-500, both from the hub; with one,
    ``split`` is ignored.  Raises LabError, naming file and line, for anything that is not such a problem.
    """
    keys = ("problem",)
    if path:
        rows = read_rows(path, keys)
    elif _known(split) == "test":
        rows = hub_rows(MATH_TEST_HUB, None, "test", keys)
    else:
        rows = [row for subject in MATH_SUBJECTS for row in hub_rows(MATH_TRAIN_HUB, subject, "train", keys)]
    return [math_problem(row) for row in rows]


def _gsm8k_problem(row: Row) -> Problem:
    require_filled(row, "question")
    _, mark, answer = row.fields["answer"].rpartition(GOLD_MARK)
    if not mark or not answer.strip():
        raise LabError(
            f"{row.where}: the answer has no '{GOLD_MARK}' followed by the final result. Expected it to end "
            f"like '... {GOLD_MARK} 72'; found the end {row.fields['answer'][-40:]!r}."
        )
    return Problem(GSM8K_PROMPT.format(question=row.fields["question"].strip()), answer.strip())


def math_problem(row: Row) -> Problem:
    """A row in one of MATH's formats as a problem; LabError if it is in neither."""
    require_text(row, ("problem",))
    require_filled(row, "problem")
    return Problem(MATH_PROMPT.format(question=row.fields["problem"].strip()), _math_answer(row))


def _math_answer(row: Row) -> str:
    if "answer" in row.fields or "solution" not in row.fields:
        require_text(row, ("problem", "answer"))
        require_filled(row, "answer")
        return row.fields["answer"].strip()
    require_text(row, ("problem", "solution"))
    answer = last_boxed(row.fields["solution"])
    if answer is None or not answer.strip():
        raise LabError(
            f"{row.where}: the solution has no complete \\boxed{{...}} to take the answer from. Add the "
            "box, or give the answer under a key 'answer'."
        )
    return answer.strip()


def _known(split: str) -> str:
    if split not in ("train", "test"):
        raise LabError(f"unknown split {split!r}; choose 'train' or 'test'.")
    return split


def hub_rows(name: str, subset: str | None, split: str, required: tuple[str, ...]) -> list[Row]:
    """Rows of a data set on the hub, each with text under the ``required`` keys; LabError with the remedy if not."""
    try:
        from datasets import load_dataset

        with hub_access(name, "dataset"):
            records = load_dataset(name, subset, split=split)
    except LabError:  # the hub's own story is told already
        raise
    except Exception as error:  # no network, no such name, no room, no library: one remedy for all
        reason = (str(error).splitlines() or [""])[0]
        raise LabError(
            f"{name} could not be loaded from the Hugging Face hub ({type(error).__name__}: {reason}). "
            "Check the connection, or give the problems as a local file: --data FILE (.jsonl, .json, .csv or "
            ".parquet)."
        ) from None
    rows = [Row(f"{name}, {split} row {number}", dict(record)) for number, record in enumerate(records)]
    for row in rows:
        require_text(row, required)
    return rows
