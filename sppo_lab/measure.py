"""A policy on several benchmarks: their names to problems, the evaluations, and one table of them all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sppo_lab.checkpoint import load_weights
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.evaluate import EVALUATION_SEED, Evaluation, Interval, evaluate
from sppo_lab.models import Policy, load_policy
from sppo_lab.recorder import Recorder
from sppo_lab.rollout import encode_prompts
from sppo_lab.storage import write_json, write_text, writing
from sppo_lab.tasks import TASKS, Problem, RewardFunction, get_task_kind
from sppo_lab.tasks.benchmarks import PAPER


@dataclass(frozen=True)
class Exam:
    """The problems of one benchmark and how responses to them are judged."""

    name: str
    problems: list[Problem]
    rewards: RewardFunction


def asked_for(words: Sequence[str]) -> dict[str, str | None]:
    """Benchmark to file, or None for its own problems: ``["paper", "math500=slice.jsonl"]``.

    ``paper`` is the paper's five; any task can be named, and its test split counts.  A file holds however often the
    benchmark is named without one.
    """
    asked: dict[str, str | None] = {}
    for word in words:
        name, mark, file = word.partition("=")
        if not mark or name not in TASKS:
            for each in PAPER if word == "paper" else [word]:
                asked.setdefault(each, None)
        elif not file:
            raise LabError(f"{word!r} names no file: write {name}=FILE, or {name} alone for its own problems.")
        else:
            asked[name] = file
    return asked


def read_exams(words: Sequence[str], prompts: int | None = None) -> list[Exam]:
    """The benchmarks asked for, at most ``prompts`` problems of each.  LabError for one that cannot be read."""
    exams = []
    for name, file in asked_for(words).items():
        kind = get_task_kind(name)
        exams.append(Exam(name, kind.read(file, "test")[:prompts], kind.rewards))
    return exams


def policy_of_run(folder: str | Path, step: int | None = None) -> tuple[Policy, Config]:
    """The policy of a run's newest checkpoint, or of that of ``step``, and the run's settings."""
    recorder = Recorder.open(folder)
    checkpoint = recorder.checkpoint_of(step)
    policy = load_policy(recorder.config)
    load_weights(checkpoint, policy, None)
    return policy, recorder.config


def sit(
    policy: Policy,
    exams: list[Exam],
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    batch_size: int = 256,
    progress: Callable[..., Any] = tqdm,
) -> dict[str, Evaluation]:
    """The policy's evaluation on each benchmark.  A prompt too long for its context is refused at once."""
    for exam in exams:
        encode_prompts(policy, [problem.prompt for problem in exam.problems], max_new_tokens)
    return {
        exam.name: evaluate(
            policy,
            exam.problems,
            exam.rewards,
            samples=samples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=EVALUATION_SEED,
            batch_size=batch_size,
            progress=progress,
            label=exam.name,
        )
        for exam in exams
    }


def mean_over_benchmarks(evaluations: Sequence[Evaluation]) -> tuple[float, Interval]:
    """Mean of avg@k over benchmarks, each counting the same as in the paper's Table 1, with its 95 % interval.

    The benchmarks are independent, so the distances from their means to the ends of their own intervals add up like
    deviations do (Zou and Donner 2008).  Where all is 0 the interval so keeps a width.
    """
    means = np.array([found.accuracy for found in evaluations])
    ends = np.array([found.accuracy_interval for found in evaluations])
    mean = float(means.mean())
    below, above = np.sqrt(((ends - means[:, None]) ** 2).sum(0)) / len(means)
    return mean, (mean - float(below), mean + float(above))


def results_table(evaluations: dict[str, Evaluation]) -> pd.DataFrame:
    """A row per benchmark, and one of their mean where there are several.  Intervals are 95 %, over prompts."""
    rows = []
    for name, found in evaluations.items():
        report, k = found.report(), found.samples
        many = max(int(key.removeprefix("pass@")) for key in report if key.startswith("pass@") and key[5:].isdigit())
        rows.append({"benchmark": name, "prompts": len(found.solved)})
        for key in (f"avg@{k}", f"pass@{many}", "greedy"):
            low, high = report[f"{key}_interval"]
            rows[-1] |= {key: report[key], f"{key} low": low, f"{key} high": high}
        rows[-1] |= {"mean length": found.mean_length, "truncated": found.truncated}
    if len(rows) > 1:
        mean, (low, high) = mean_over_benchmarks(list(evaluations.values()))
        k = next(iter(evaluations.values())).samples
        prompts = sum(row["prompts"] for row in rows)
        rows.append({"benchmark": "mean", "prompts": prompts, f"avg@{k}": mean})
        rows[-1] |= {f"avg@{k} low": low, f"avg@{k} high": high}
    return pd.DataFrame(rows)


def printed_table(table: pd.DataFrame) -> str:
    """The table for a terminal, each number with its interval in brackets."""
    shown = table[["benchmark", "prompts"]].copy()
    for column in table.columns.drop(["benchmark", "prompts"]):
        if f"{column} low" in table:
            cells = table[[column, f"{column} low", f"{column} high"]].itertuples(index=False)
            shown[column] = [
                "" if pd.isna(mean) else f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in cells
            ]
        elif not column.endswith((" low", " high")):
            shown[column] = ["" if pd.isna(value) else f"{value:.3g}" for value in table[column]]
    return shown.to_string(index=False)


def save_results(folder: str | Path, evaluations: dict[str, Evaluation], settings: dict[str, Any]) -> None:
    """DIR/benchmarks.json with every count, and DIR/benchmarks.csv with the table."""
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        found = {name: one.to_dict() | {"report": one.report()} for name, one in evaluations.items()}
        write_json(folder / "benchmarks.json", {"settings": settings, "benchmarks": found})
        write_text(folder / "benchmarks.csv", results_table(evaluations).to_csv(index=False))
