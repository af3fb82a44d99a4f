"""Algorithms times seeds, each a run in a process of its own, paired by seed: the same prompts in the same order.

    DIR/study.json       what was asked, versions, date, and the seconds spent on it
    DIR/runs/NAME/       one run directory per cell, as ``train`` writes it
    DIR/metrics.parquet  the metrics of all complete runs, a row a step
    DIR/summary.parquet  a row per complete run

A study that was killed goes on where its runs stopped when the same command is given again; further algorithms and
seeds may be added to it.
"""

import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from sppo_lab.algorithms import at_equal_rollouts, get_algorithm
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.processes import child_environment
from sppo_lab.recorder import Recorder, versions
from sppo_lab.storage import read_json, write_json
from sppo_lab.study_tables import StudyTables

Budget = Literal["rollouts", "prompts"]
GRADIENT_REPEATS = 16  # batches by which a run's gradient noise is measured, unless the settings say otherwise


@dataclass(frozen=True)
class StudyPlan:
    """What a study compares.  Raises LabError for an unknown algorithm or an empty list."""

    algorithms: list[str]
    seeds: list[int]
    settings: dict[str, Any]  # fields of Config, the same for every run
    rates: list[float] | None = None  # learning rates to search; None: one rate each
    rate_of: dict[str, float] | None = None  # the one rate of each algorithm; None: that of the settings
    budget: Budget = "rollouts"  # what is equal per step: responses, or prompts as in the paper

    def __post_init__(self) -> None:
        if not self.algorithms or not self.seeds:
            raise LabError("a study needs at least one algorithm and one seed.")
        for name in self.algorithms:
            get_algorithm(name)
        if len(set(self.algorithms)) < len(self.algorithms):
            raise LabError("an algorithm is named twice: name each once.")
        if self.rates and self.rate_of:
            raise LabError(
                "--rates searches learning rates and --rates-from takes those of a search: give one of them."
            )
        missing = [name for name in self.algorithms if self.rate_of and name not in self.rate_of]
        if missing:
            raise LabError(f"the search holds no learning rate for {', '.join(missing)}.")
        self.cells()

    def cells(self) -> list["Cell"]:
        """One per algorithm, learning rate and seed; the seeds in the outer loop, so that an early stop is balanced."""
        found = []
        for seed in self.seeds:
            for algorithm in self.algorithms:
                for rate in self.rates or [(self.rate_of or {}).get(algorithm)]:
                    own = {"algorithm": algorithm, "seed": seed} | ({} if rate is None else {"lr": rate})
                    config = Config(**{"gradient_repeats": GRADIENT_REPEATS} | self.settings | own)
                    name = f"{algorithm}-seed-{seed}" + (f"-lr-{rate:g}" if self.rates else "")
                    found.append(Cell(name, at_equal_rollouts(config) if self.budget == "rollouts" else config))
        return found


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    name: str
    config: Config


def run_study(plan: StudyPlan, out: str | Path, jobs: int | None = None) -> None:
    """Run every cell that the tables do not hold, ``jobs`` at a time (one per core), each with its share of the cores.

    Raises LabError if the directory holds another study, or a run fails.
    """
    out = Path(out)
    start_study(out, plan)
    started = time.monotonic()
    cells = plan.cells()
    jobs = min(jobs or os.cpu_count() or 1, len(cells))
    tables = StudyTables(out)
    recorded = [cell for cell in cells if tables.holds(cell.config)]
    waiting = [cell for cell in cells if cell not in recorded]
    running: dict[Cell, subprocess.Popen] = {}
    total = sum(cell.config.steps for cell in cells)
    with tqdm(total=total, desc="study", unit="step") as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    running[cell] = start_cell(cell, out, max(1, (os.cpu_count() or 1) // jobs))
                time.sleep(1.0)
                for cell, process in list(running.items()):
                    if process.poll() is not None:
                        del running[cell]
                        if process.returncode:
                            raise LabError(f"{cell.name} failed: see {out / 'runs' / (cell.name + '.log')}.")
                        tables.add(Recorder.open(out / "runs" / cell.name))
                        recorded.append(cell)
                done = [cell.config.steps for cell in recorded]
                bar.n = sum(done) + sum(steps_done(out / "runs" / cell.name) for cell in running)
                bar.set_postfix_str(", ".join(cell.name for cell in running), refresh=True)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
            note = read_json(out / "study.json")
            write_json(out / "study.json", note | {"seconds": note["seconds"] + time.monotonic() - started})


def start_study(out: Path, plan: StudyPlan) -> None:
    """Note what is asked, or check that it differs from what was asked before in algorithms and seeds at most."""
    path = out / "study.json"
    if path.exists():
        note = read_json(path)
        different = [
            name
            for name, value in asdict(plan).items()
            if name not in ("algorithms", "seeds", "rate_of") and note["plan"][name] != value
        ]
        rates = note["plan"]["rate_of"] or {}
        if any(rates.get(name, rate) != rate for name, rate in (plan.rate_of or {}).items()):
            different.append("rate_of")
        if different:
            raise LabError(
                f"{out} holds another study, with other {' and '.join(different)}: choose another directory with --out."
            )
        write_json(path, note | {"plan": asdict(plan)})
        return
    if out.exists() and any(out.iterdir()):
        raise LabError(f"{out} holds something other than a study: choose another directory with --out.")
    (out / "runs").mkdir(parents=True, exist_ok=True)
    write_json(path, {"sppo_lab_study": 1, "plan": asdict(plan), "versions": versions(), "seconds": 0.0})


def start_cell(cell: Cell, out: Path, threads: int) -> subprocess.Popen:
    """``python -m sppo_lab train`` for the cell, its output in a log beside the run."""
    folder = out / "runs" / cell.name
    command = [
        sys.executable,
        "-m",
        "sppo_lab",
        "train",
        f"--out={folder}",
        "--resume",
        "--json",
        *cell.config.options(),
    ]
    with open(f"{folder}.log", "wb") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment() | {"OMP_NUM_THREADS": str(threads)},
        )


def steps_done(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
