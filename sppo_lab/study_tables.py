"""The tables of a study: a row per run, and a row per step of every run.

They grow by one run at a time, so a study that is killed leaves what it has, and a study whose run directories are gone
can still be added to.
"""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from sppo_lab.algorithms import ALGORITHMS
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.recorder import Recorder
from sppo_lab.storage import PARTIAL

NAMES = ("summary.parquet", "metrics.parquet")
KEYS = ["algorithm", "seed", "lr"]  # what tells the runs of a study apart


class StudyTables:
    """``summary.parquet`` and ``metrics.parquet`` of a directory; empty where there are none yet."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.summary, self.metrics = (
            pd.read_parquet(self.folder / name) if (self.folder / name).exists() else pd.DataFrame(columns=KEYS)
            for name in NAMES
        )

    def holds(self, config: Config) -> bool:
        """Whether the run of that configuration is there."""
        return tuple(run_keys(config).values()) in set(self.summary[KEYS].itertuples(index=False, name=None))

    def add(self, run: Recorder) -> None:
        """Add a complete run and write both tables."""
        keys, steps = run_keys(run.config), run.metrics()
        # In single precision, to save space.
        steps = steps.astype(dict.fromkeys(steps.select_dtypes("float64"), "float32")).assign(**keys)
        self.summary = joined(self.summary, pd.DataFrame([keys | run_row(run)]))
        self.metrics = joined(self.metrics, steps)
        for name, table in zip(NAMES, (self.summary, self.metrics), strict=True):
            partial = self.folder / (name + PARTIAL)
            table.to_parquet(partial, index=False)
            os.replace(partial, self.folder / name)


def run_keys(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in KEYS}


def run_row(run: Recorder) -> dict[str, Any]:
    """A complete run in a row; what the gradient says is None where it was not measured."""
    steps, summary, gradient, after = run.metrics(), run.summary(), run.gradient() or {}, run.evaluation("after")
    return {
        "prompts_per_step": run.config.prompts_per_step,
        "steps": summary["steps"],
        "rollouts": summary["rollouts"],
        "seconds": summary["seconds"],
        "peak_memory_mb": summary["peak_memory_mb"],
        "accuracy_before": summary["accuracy_before"],
        "accuracy": summary["accuracy_after"],
        "greedy": after.report()["greedy"],
        "mean_length": after.mean_length,
        "advantage_variance": float(steps["advantage/variance"].mean()),
        "advantage_second_moment": float(steps["advantage/second_moment"].mean()),
        "gradient_variance": gradient.get("variance"),
        "gradient_signal_to_noise": gradient.get("signal_to_noise"),
        "rollouts_without_signal": gradient.get("silent"),
    }


def joined(table: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    """Both, in the order of the algorithm table, then by learning rate and seed; steps keep their order."""
    both = more if table.empty else pd.concat([table, more], ignore_index=True)
    places = both["algorithm"].map({name: place for place, name in enumerate(ALGORITHMS)})
    return both.assign(place=places).sort_values(["place", "lr", "seed"], kind="stable").drop(columns="place")


def read_study(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The summary and the metrics of a study, of as many runs as are complete; LabError if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise LabError(f"there is no directory {folder}.")
    tables = StudyTables(folder)
    if tables.summary.empty:
        raise LabError(f"{folder} holds no study with a complete run. Give the study command first, or again.")
    return tables.summary.reset_index(drop=True), tables.metrics.reset_index(drop=True)
