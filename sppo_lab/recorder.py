"""A run on disk: what it was asked, what it measured, what it wrote, and where to go on from.

    DIR/config.json             the settings, and the mark that this is a run
    DIR/versions.json           versions of Python and the libraries
    DIR/metrics.jsonl           one row of numbers per step (metrics.METRICS says what each means)
    DIR/responses.jsonl         sampled responses with reward, value, advantage and token log-probabilities
    DIR/evaluation-before.json  and -after.json: right responses per test prompt
    DIR/benchmarks.json         and .csv: the same for benchmarks, where evaluate --benchmarks was called
    DIR/gradient.json           noise of the policy gradient after training, where gradient_repeats asks for it
    DIR/summary.json            the run in a few numbers, once it is complete
    DIR/tensorboard/            the metrics for TensorBoard, where the setting tracker asks for it
    DIR/checkpoints/step-N/     adapter (peft's format), critic, optimizers and random states

Files appear complete or not at all.  A run killed between two checkpoints drops the rows after the last one
when it is resumed, and computes them again, the same.
"""

import importlib.metadata
import platform
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from sppo_lab import checkpoint
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.evaluate import Evaluation
from sppo_lab.gradient import GradientNoise
from sppo_lab.parallel import is_main, main_only
from sppo_lab.storage import PARTIAL, append_rows, read_json, read_rows, sync, write_json, write_rows
from sppo_lab.trainer import StepRecord, Trainer

FORMAT = 1
ROWS = ("metrics.jsonl", "responses.jsonl")
AFTERWARDS = ("evaluation-after.json", "gradient.json", "summary.json")  # written once training has ended
LIBRARIES = ("sppo-lab", "torch", "transformers", "peft", "datasets", "numpy", "math-verify")


class Recorder:
    """Writes and reads one run directory.  ``create`` starts one, ``open`` takes up an existing one."""

    def __init__(self, folder: Path, config: Config):
        self.folder, self.config = folder, config

    @classmethod
    def create(cls, folder: str | Path, config: Config, overwrite: bool = False) -> "Recorder":
        """A new run in an absent or empty directory; ``overwrite`` replaces an existing run, never other files."""
        recorder = cls(Path(folder), config)
        recorder.begin(overwrite)
        return recorder

    @main_only
    def begin(self, overwrite: bool) -> None:
        """Take the directory, in place of the run that may be there."""
        self.refuse_if_taken(self.folder, overwrite)
        if is_run(self.folder):
            remove_run(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.save_config()
        write_json(self.folder / "versions.json", versions())

    @classmethod
    def open(cls, folder: str | Path) -> "Recorder":
        """The run in that directory; LabError if there is none, or its configuration cannot be read."""
        folder = Path(folder)
        if not is_run(folder):
            raise LabError(f"{folder} is not a run directory: it holds no config.json written by sppo_lab train.")
        saved = read_json(folder / "config.json")
        if saved["sppo_lab_run"] != FORMAT:
            raise LabError(f"{folder} was written in run format {saved['sppo_lab_run']}, not {FORMAT}.")
        return cls(folder, Config.from_dict(saved.get("config", {})))

    @classmethod
    def refuse_if_taken(cls, folder: Path, overwrite: bool = False) -> None:
        """Raise LabError unless ``create`` may begin a run there."""
        if is_run(folder):
            if not overwrite:
                raise LabError(
                    f"{folder} already holds a run. Continue it with --resume, replace it with --overwrite, or choose "
                    "another directory with --out."
                )
        elif not cls.can_begin(folder):
            raise LabError(f"{folder} holds something other than a run: choose another directory with --out.")

    @staticmethod
    def can_begin(folder: Path) -> bool:
        """Whether a new run may begin there: nothing exists yet, or only what a kill at the very start left."""
        if not folder.exists():
            return True
        return folder.is_dir() and all(path.suffix == PARTIAL for path in folder.iterdir())

    def extend(self, config: Config) -> None:
        """Go on for more steps than first asked; the evaluation after training is then no longer the last word."""
        self.config = config
        self.save_config()
        for name in AFTERWARDS:
            (self.folder / name).unlink(missing_ok=True)

    @main_only
    def save_config(self) -> None:
        write_json(self.folder / "config.json", {"sppo_lab_run": FORMAT, "config": self.config.to_dict()})

    @main_only
    def write_step(self, record: StepRecord) -> None:
        """Append the step's metrics and some of its responses."""
        append_rows(self.folder / "responses.jsonl", response_rows(record, self.config.save_responses))
        append_rows(self.folder / "metrics.jsonl", [record.metrics])

    def metrics(self) -> pd.DataFrame:
        """One row per step; an incomplete last line, left by a kill, is not read."""
        return pd.DataFrame(read_rows(self.folder / "metrics.jsonl"))

    def responses(self) -> list[dict[str, Any]]:
        """The saved responses of all steps."""
        return read_rows(self.folder / "responses.jsonl")

    @main_only
    def save_evaluation(self, when: str, evaluation: Evaluation) -> None:
        """``when`` is ``before`` or ``after``."""
        write_json(self.folder / f"evaluation-{when}.json", evaluation.to_dict() | {"report": evaluation.report()})

    def evaluation(self, when: str) -> Evaluation | None:
        """What ``save_evaluation`` saved, or None where the run has not got there."""
        path = self.folder / f"evaluation-{when}.json"
        if not path.exists():
            return None
        saved = read_json(path)
        try:
            return Evaluation(**{name: saved[name] for name in Evaluation.__dataclass_fields__})
        except KeyError as error:
            raise LabError(f"{path} is damaged: {error} is missing. Delete it and go on with --resume.") from None

    @main_only
    def save_gradient(self, noise: GradientNoise) -> None:
        write_json(self.folder / "gradient.json", asdict(noise))

    def gradient(self) -> dict[str, Any] | None:
        """The fields of GradientNoise that ``save_gradient`` saved, or None."""
        return self._saved("gradient.json")

    @main_only
    def save_summary(self, summary: dict[str, Any]) -> None:
        """``summary`` is what ``Experiment.summary`` returns; with it the run is complete."""
        write_json(self.folder / "summary.json", summary)

    def summary(self) -> dict[str, Any] | None:
        """What ``save_summary`` saved, or None while the run is not complete."""
        return self._saved("summary.json")

    def _saved(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        return read_json(path) if path.exists() else None

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = (self.folder / "checkpoints").glob("step-*")
        return sorted(path for path in found if path.suffix != PARTIAL)

    def checkpoint_steps(self) -> dict[int, Path]:
        """Step to checkpoint, oldest first."""
        return {step_of(path): path for path in self.checkpoints()}

    def checkpoint_of(self, step: int | None = None) -> Path:
        """The newest checkpoint, or that of ``step``; LabError if there is none."""
        saved = self.checkpoint_steps()
        if not saved or (step is not None and step not in saved):
            there = ", ".join(map(str, saved)) or "none yet"
            raise LabError(f"{self.folder} holds no checkpoint of step {step or 0}; those there are: {there}.")
        return saved[max(saved) if step is None else step]

    @main_only
    def save_checkpoint(self, trainer: Trainer) -> None:
        """Write a checkpoint, once the rows it stands on are on the disk, and drop the oldest."""
        for name in ROWS:
            sync(self.folder / name)
        checkpoint.save_checkpoint(self.folder / "checkpoints" / f"step-{trainer.step:06d}", trainer)
        for old in self.checkpoints()[: -self.config.keep_checkpoints]:
            shutil.rmtree(old, ignore_errors=True)

    def restore(self, trainer: Trainer) -> None:
        """Put the trainer where the newest checkpoint left it, and drop the rows of later steps."""
        saved = self.checkpoints()
        if saved:
            checkpoint.load_checkpoint(saved[-1], trainer)
        kept = {
            name: [row for row in read_rows(self.folder / name) if row.get("step", 0) <= trainer.step] for name in ROWS
        }
        if [row.get("step") for row in kept["metrics.jsonl"]] != list(range(1, trainer.step + 1)):
            raise LabError(
                f"{self.folder / 'metrics.jsonl'} does not hold steps 1 to {trainer.step}, though the checkpoint was "
                "taken after them: the run is damaged. Start again with --overwrite."
            )
        if is_main():
            for name, rows in kept.items():
                write_rows(self.folder / name, rows)

    def save_evidence(self, trainer: Trainer, error: Exception) -> Path:
        """Keep the state in which training broke down: DIR/failure, beside the untouched last checkpoint."""
        folder = self.folder / "failure"
        checkpoint.save_evidence(folder, trainer, error)
        return folder


def is_run(folder: Path) -> bool:
    """Whether the directory holds a run: its config.json carries the lab's mark."""
    try:
        return "sppo_lab_run" in read_json(folder / "config.json")
    except (OSError, LabError, UnicodeDecodeError):
        return False


def remove_run(folder: Path) -> None:
    """Delete what a run wrote, the mark last, and nothing else that lies there."""
    for name in ("checkpoints", "failure", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for pattern in (
        f"*{PARTIAL}",
        "evaluation-before.json",
        "benchmarks.*",
        *AFTERWARDS,
        *ROWS,
        "figure.png",
        "versions.json",
    ):
        for path in folder.glob(pattern):
            path.unlink()
    (folder / "config.json").unlink()


def response_rows(record: StepRecord, count: int) -> list[dict[str, Any]]:
    """The first ``count`` responses of a step as rows; log-probabilities in nats, rounded to 5 digits.

    ``advantage`` is as the loss takes it, the mean over the response's tokens where they differ; ``token_values`` is
    there where a critic says V before every token; ``ratios`` and ``entropies`` are those after the step.
    """
    rollouts, prompt_values = record.rollouts, record.rollouts.prompt_values
    rows = []
    for i, problem in enumerate(record.problems[:count]):
        length = int(rollouts.lengths[i])
        logprobs = rollouts.old_logprobs[i, :length].tolist()
        rows.append(
            {
                "step": record.step,
                "prompt": problem.prompt,
                "answer": problem.answer,
                "response": rollouts.texts[i],
                "reward": rollouts.rewards[i].item(),
                "value": None if prompt_values is None else round(prompt_values[i].item(), 6),
                "advantage": round(rollouts.advantages[i, :length].mean().item(), 6),
                "truncated": bool(rollouts.truncated[i]),
                "token_ids": rollouts.response_ids[i, :length].tolist(),
                "logprobs": [round(number, 5) for number in logprobs],
            }
        )
        per_token = {"ratios": record.ratios, "entropies": record.entropies, "token_advantages": rollouts.advantages}
        if rollouts.values is not None and rollouts.values.dim() == 2:
            per_token["token_values"] = rollouts.values
        for name, numbers in per_token.items():
            rows[-1][name] = [round(number, 5) for number in numbers[i, :length].tolist()]
    return rows


def versions() -> dict[str, str]:
    """What the run was made with, and when."""
    found = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version()}
    found["platform"] = platform.platform()
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found


def step_of(checkpoint: Path) -> int:
    """The step whose checkpoint the directory is, by its name."""
    return int(checkpoint.name.removeprefix("step-"))
