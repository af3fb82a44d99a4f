"""Competition problems to measure on: where each benchmark lies on the hub, and how its rows are read.

They have no training split.  docs/problems.md lists them with their licences.
"""

from dataclasses import dataclass
from pathlib import Path

from sppo_lab.errors import LabError
from sppo_lab.tasks.base import Problem
from sppo_lab.tasks.files import Row, read_rows
from sppo_lab.tasks.maths import hub_rows, math_problem


@dataclass(frozen=True)
class Benchmark:
    """A test set on the hub, in its default configuration."""

    repository: str
    problems: int
    split: str = "test"


BENCHMARKS = {
    "aime24": Benchmark("math-ai/aime24", 30),
    "aime25": Benchmark("math-ai/aime25", 30),
    "amc23": Benchmark("math-ai/amc23", 40),
    "math500": Benchmark("HuggingFaceH4/MATH-500", 500),
    "minerva": Benchmark("math-ai/minervamath", 272),
}
PAPER = tuple(BENCHMARKS)  # Table 1 of arXiv 2604.08865 averages over these five


def read_benchmark(name: str, path: str | Path | None = None, split: str = "test") -> list[Problem]:
    r"""The problems of a benchmark, from the hub or from a file in the format of any of them.

    A row has the question under ``problem`` or ``question``, and the answer, text or a number, under ``answer``, or in
    the last ``\boxed{…}`` of its ``solution``.  Raises LabError, naming file and line, for anything else, and where
    the benchmark's own problems are asked for to train on.
    """
    if path:
        return [math_problem(_as_math(row)) for row in read_rows(path, ())]
    if split != "test":
        raise LabError(
            f"{name} is there to measure on and has no training problems. Train on math or gsm8k and measure with: "
            f"evaluate --benchmarks {name}. To train on such problems all the same, give a file with --data."
        )
    benchmark = BENCHMARKS[name]
    return [math_problem(_as_math(row)) for row in hub_rows(benchmark.repository, None, benchmark.split, ())]


def _as_math(row: Row) -> Row:
    """The row with the key and the type that MATH has."""
    fields = dict(row.fields)
    if "problem" not in fields and "question" in fields:
        fields["problem"] = fields["question"]
    answer = fields.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        fields["answer"] = f"{answer:.15g}"
    return Row(row.where, fields)
