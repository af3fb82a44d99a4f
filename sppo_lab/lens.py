"""The lens on variance as a record: measured once along a run, read again in a moment.

DIR/lens.json         what was measured, versions, date; noise and direction of every estimator's gradient
DIR/prompts.parquet   a row per checkpoint and test prompt: V(s_p), responses sampled, responses right
DIR/tokens.parquet    a row per response of a run with a critic of tokens: reward, and V(s_t) before every token
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence

from sppo_lab.errors import LabError
from sppo_lab.evaluate import Interval
from sppo_lab.experiment import evaluate_run
from sppo_lab.gradient import GradientNoise, cosine, gradient_noise, sample_gradients
from sppo_lab.recorder import Recorder, step_of, versions
from sppo_lab.storage import read_json, write_json
from sppo_lab.variance import (
    Separation,
    Split,
    sample_token_values,
    separation_by_position,
    split_second_moment,
    trainer_at,
)

ESTIMATORS = ("sppo", "reinforce", "remax", "rloo", "dr-grpo", "grpo", "ppo", "ppo-bce")
UNBIASED = {"aggregation": "seq-mean-token-sum-norm"}  # with V(s_p) as baseline: the gradient of the expected reward


@dataclass(frozen=True)
class Lens:
    """What a record says."""

    note: dict[str, Any]  # what was measured and when
    prompts: pd.DataFrame  # a row per checkpoint and test prompt: step, value, solved, samples
    splits: dict[int, Split]  # step to the split of the advantage's second moment
    noise: list[GradientNoise]
    cosines: dict[str, tuple[float, Interval]]  # algorithm to the direction of its mean gradient, 1 is unbiased
    separation: dict[str, Separation]  # algorithm to what its critic says along the response


def record_lens(
    run: str | Path,
    out: str | Path,
    *,
    token_runs: list[str | Path] | None = None,
    step: int | None = None,
    estimators: tuple[str, ...] = ESTIMATORS,
    repeats: int = 40,
    warmup: int = 100,
    samples: int = 16,
    prompts: int | None = None,
    responses: int = 1000,
) -> None:
    """Measure along a run of sppo and write the record.

    The gradients are compared at one policy, that of checkpoint ``step``; every critic first learns from ``warmup``
    batches there.  ``token_runs`` are runs of ppo or ppo-bce, for V(s_t) along the response.
    """
    run, out = Path(run), Path(out)
    recorder = Recorder.open(run)
    if recorder.config.algorithm not in ("sppo", "sppo-small-critic"):
        raise LabError(f"{run} is a run of {recorder.config.algorithm}: the lens looks along a run of sppo.")
    step = step_of(recorder.checkpoint_of(step))
    tokens = pd.concat([token_rows(folder, responses) for folder in token_runs or []] or [pd.DataFrame()])
    along = pd.concat([prompt_rows(run, at, samples, prompts) for at in recorder.checkpoint_steps()])

    batch = recorder.config.prompts_per_step
    other = recorder.config.seed + 1  # other batches than those of the estimators
    unbiased = trainer_at(run, recorder.config.algorithm, step, warmup=warmup, seed=other, **UNBIASED)
    reference = sample_gradients(unbiased, 2 * repeats)
    found = []
    for name in estimators:
        sampled = sample_gradients(trainer_at(run, name, step, warmup=warmup), repeats)
        direction, interval = cosine(sampled, reference)
        noise = asdict(gradient_noise(sampled, batch))
        found.append(noise | {"cosine": direction, "cosine_interval": interval})

    out.mkdir(parents=True, exist_ok=True)
    along.to_parquet(out / "prompts.parquet", index=False)
    tokens.to_parquet(out / "tokens.parquet", index=False)
    config = recorder.config
    note = {
        "run": {name: getattr(config, name) for name in ("algorithm", "task", "model", "seed", "steps", "lr")},
        "gradients_at_step": step,
        "repeats": repeats,
        "warmup": warmup,
        "versions": versions(),
    }
    write_json(out / "lens.json", {"sppo_lab_lens": 1, "note": note, "gradients": found})


def prompt_rows(run: Path, step: int, samples: int, prompts: int | None) -> pd.DataFrame:
    """V(s_p) and right responses per test prompt, at a checkpoint."""
    found = evaluate_run(run, samples, prompts, step)
    return pd.DataFrame({"value": found.values, "solved": found.solved}).assign(step=step, samples=samples)


def token_rows(run: str | Path, responses: int) -> pd.DataFrame:
    """Reward and V(s_t) of sampled responses, at the newest checkpoint of a run with a critic of tokens."""
    algorithm = Recorder.open(run).config.algorithm
    rollouts = sample_token_values(trainer_at(run, algorithm), responses)
    values = [row[:length].tolist() for row, length in zip(rollouts.values, rollouts.lengths.tolist(), strict=True)]
    rows = pd.DataFrame({"reward": rollouts.rewards.tolist()}).assign(algorithm=algorithm)
    return rows.assign(values=[np.array(row, dtype="float32") for row in values])


def read_lens(folder: str | Path) -> Lens:
    """A record that ``record_lens`` wrote; LabError if there is none."""
    folder = Path(folder)
    if not (folder / "lens.json").exists():
        raise LabError(f"{folder} holds no record of the lens: python -m sppo_lab lens writes one.")
    saved = read_json(folder / "lens.json")
    noise, cosines = [], {}
    for row in saved["gradients"]:
        cosines[row["algorithm"]] = (row.pop("cosine"), tuple(row.pop("cosine_interval")))
        pairs = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
        noise.append(GradientNoise(**row | pairs))
    prompts = pd.read_parquet(folder / "prompts.parquet")
    splits = {
        int(step): split_second_moment(
            rows["solved"].to_numpy(), int(rows["samples"].iloc[0]), rows["value"].to_numpy()
        )
        for step, rows in prompts.groupby("step")
    }
    tokens = pd.read_parquet(folder / "tokens.parquet")
    separation = {
        name: separation_by_position(
            pad_sequence([torch.tensor(values) for values in rows["values"]], batch_first=True),
            torch.tensor(rows["reward"].to_numpy()),
            torch.tensor([len(values) for values in rows["values"]]),
        )
        for name, rows in (tokens.groupby("algorithm") if len(tokens) else ())
    }
    return Lens(saved["note"], prompts, splits, noise, cosines, separation)
