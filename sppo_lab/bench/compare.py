"""The comparison: every cell with every contestant, several times in turn; ratios with their spread; one picture."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from sppo_lab.bench.setup import Setup, Timing
from sppo_lab.errors import LabError
from sppo_lab.figures import BLUE, GREEN, GREY, ORANGE
from sppo_lab.processes import in_own_process
from sppo_lab.recorder import versions
from sppo_lab.storage import write_json, write_text

CONTESTANTS = {  # name to module and function; imported in a process of its own
    "lab, training": ("sppo_lab.bench.lab", "train_with_lab"),
    "TRL, training": ("sppo_lab.bench.grpo_trainer", "train_with_trl"),
    "lab, sampling": ("sppo_lab.bench.lab", "sample_with_lab"),
    "generate": ("sppo_lab.bench.lab", "sample_with_generate"),
    "continuous batching": ("sppo_lab.bench.lab", "sample_with_continuous_batching"),  # only where asked for
}
RATIOS = {  # what is compared: two contestants, and the number of both
    "samples trained per second, lab / TRL": ("lab, training", "TRL, training", "responses_per_second"),
    "rollout tokens per second while training, lab / TRL": ("lab, training", "TRL, training", "tokens_per_second"),
    "rollout tokens per second, lab / transformers.generate": ("lab, sampling", "generate", "tokens_per_second"),
    "rollout tokens per second, lab / continuous batching": (
        "lab, sampling",
        "continuous batching",
        "tokens_per_second",
    ),
    "peak memory, lab / TRL": ("lab, training", "TRL, training", "memory_mb"),
}


def cells(model: str, responses: Iterable[int], lengths: Iterable[str], batches: int) -> list[Setup]:
    """One per number of responses and length; ``ragged`` ends responses where the model does, 88 tokens at most.

    Raises LabError for sizes that are not allowed.
    """
    found = []
    for count in responses:
        if count < 16 or count % 16:
            raise LabError(f"--responses {count}: give multiples of 16, two updates of groups of 8.")
        for length in lengths:
            if length != "ragged" and not (length.isdigit() and int(length)):
                raise LabError(f"--lengths {length}: give numbers of tokens, or ragged.")
            full = length != "ragged"
            found.append(Setup(model, count, int(length) if full else 88, full, batches))
    return found


def run_bench(
    setups: list[Setup], repeats: int, continuous: bool = False, progress: Callable[..., Any] = tqdm
) -> Iterator[pd.DataFrame]:
    """All that was measured, after each measurement: a row per cell, repeat and contestant, with the fields of Timing.

    Contestants take turns in each repeat.  ``continuous`` lets transformers' continuous batching sample too.
    LabError where TRL is missing.
    """
    if importlib.util.find_spec("trl") is None:
        raise LabError("bench compares with TRL, which is not installed: pip install 'sppo-lab[bench]'.")
    names = [name for name in CONTESTANTS if continuous or name != "continuous batching"]
    turns = [(setup, turn, name) for turn in range(repeats) for setup in setups for name in names]
    rows = []
    for setup, turn, name in progress(turns, desc="bench", unit="contestant"):
        timing = in_own_process(take_turn, (name, setup))
        shown = {key: getattr(timing, key) for key in ("tokens_per_second", "responses_per_second")}
        rows.append({"cell": setup.label, "repeat": turn, "contestant": name} | asdict(setup) | asdict(timing) | shown)
        yield pd.DataFrame(rows)


def take_turn(turn: tuple[str, Setup]) -> Timing:
    """In a process of its own: one contestant on one cell, whatever it prints left out."""
    name, setup = turn
    module, function = CONTESTANTS[name]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return getattr(importlib.import_module(module), function)(setup)


def ratio_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Per cell and comparison the ratio: median over the repeats, smallest and largest."""
    found = []
    for cell, part in rows.groupby("cell", sort=False):
        for label, (first, second, number) in RATIOS.items():
            wide = part.pivot(index="repeat", columns="contestant", values=number)
            if second not in wide:
                continue
            ratios = wide[first] / wide[second]
            found.append((cell, label, ratios.median(), ratios.min(), ratios.max()))
        own = part[part["contestant"] == "lab, training"]
        for label, seconds, floor in (
            ("sampling, seconds / bare matrix products", own["sample_seconds"], own["sample_floor"]),
            ("the rest, seconds / bare matrix products", own["seconds"] - own["sample_seconds"], own["update_floor"]),
        ):
            ratios = seconds / floor
            found.append((cell, label, ratios.median(), ratios.min(), ratios.max()))
    return pd.DataFrame(found, columns=["cell", "ratio", "median", "smallest", "largest"])


def bench_figure(rows: pd.DataFrame) -> Figure:
    """Seconds per batch against response tokens in it, sampling and the rest, for cells of full length."""
    full = rows[rows["full_length"]]
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, title in zip(axes, ("sampling", "judging and updates"), strict=True):
        draw_growth(ax, full, title)
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, title="responses per batch", loc="outside right center", frameon=False)
    return figure


def draw_growth(ax: Axes, rows: pd.DataFrame, title: str) -> None:
    """One stage: lab, TRL and the lab's floor; a marker per number of responses, a line through its lengths."""
    sampling = title == "sampling"
    for contestant, color in (("lab, training", BLUE), ("TRL, training", ORANGE)):
        own = rows[rows["contestant"] == contestant]
        for number, (count, part) in enumerate(own.groupby("responses_per_batch")):
            spent = part["sample_seconds"] if sampling else part["seconds"] - part["sample_seconds"]
            mean = (spent / part["batches"]).groupby(part["max_new_tokens"]).median()
            marker = "osD^v"[number % 5]
            ax.plot(count * mean.index, mean, color=color, marker=marker, label=f"{contestant[:3].strip(',')}, {count}")
    own = rows[rows["contestant"] == "lab, training"]
    floor = own["sample_floor" if sampling else "update_floor"] / own["batches"]
    tokens = own["responses_per_batch"] * own["max_new_tokens"]
    ax.plot(tokens, floor, ".", color=GREY, label="bare matrix products")
    ends = np.array([tokens.min(), tokens.max()])
    ax.plot(ends, floor.max() * ends / ends[1], ":", color=GREEN, label="linear growth")
    ax.set(xscale="log", yscale="log", xlabel="response tokens per batch", ylabel="seconds per batch", title=title)
    sizes = sorted(set(tokens))
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)


def refuse_if_taken(folder: str | Path) -> None:
    """LabError where the directory holds another comparison."""
    if (Path(folder) / "bench.csv").exists():
        raise LabError(f"{folder} holds a comparison already: choose another directory, or remove bench.csv.")


def save_rows(folder: str | Path, rows: pd.DataFrame) -> None:
    """``bench.csv``, every measurement so far."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_text(Path(folder) / "bench.csv", rows.to_csv(index=False))


def save_bench(folder: str | Path, rows: pd.DataFrame, ratios: pd.DataFrame) -> None:
    """``ratios.csv``, ``versions.json``, and ``bench.png`` where lengths differ, beside ``bench.csv``."""
    folder = Path(folder)
    write_text(folder / "ratios.csv", ratios.to_csv(index=False))
    trl = importlib.metadata.version("trl")
    write_json(folder / "versions.json", versions() | {"trl": trl, "threads": str(torch.get_num_threads())})
    if rows["full_length"].any():
        bench_figure(rows).savefig(folder / "bench.png", dpi=120)
