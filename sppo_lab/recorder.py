"""A run on disk: what it was asked, what it measured, what it wrote, and where to go on from.

    DIR/config.json             the settings, and the mark that this is a run
    DIR/versions.json           versions of Python and the libraries
    DIR/metrics.jsonl           one row of numbers per step (metrics.METRICS says what each means)
    DIR/responses.jsonl         sampled responses with reward, value, advantage and token log-probabilities
    DIR/evaluation-before.json  and -after.json: right responses per test prompt
    DIR/checkpoints/step-N/     adapter (peft's format), critic, optimizers and random states

Files appear complete or not at all.  A run killed between two checkpoints drops the rows after the last one
when it is resumed, and computes them again, the same.
"""

import importlib.metadata
import io
import json
import os
import platform
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from peft import load_peft_weights, set_peft_model_state_dict

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.evaluate import Evaluation
from sppo_lab.models import Policy, trainable_parameters
from sppo_lab.trainer import StepRecord, Trainer
from sppo_lab.value import PromptCritic

FORMAT = 1
LIBRARIES = ("sppo-lab", "torch", "transformers", "peft", "datasets", "numpy", "math-verify")


class Recorder:
    """Writes and reads one run directory.  ``create`` starts one, ``open`` takes up an existing one."""

    def __init__(self, folder: Path, config: Config):
        self.folder, self.config = folder, config

    @classmethod
    def create(cls, folder: str | Path, config: Config, overwrite: bool = False) -> "Recorder":
        """A new run in an absent or empty directory; ``overwrite`` replaces an existing run, never other files."""
        folder = Path(folder)
        cls.refuse_if_taken(folder, overwrite)
        if is_run(folder):
            remove_run(folder)
        folder.mkdir(parents=True, exist_ok=True)
        recorder = cls(folder, config)
        recorder.save_config()
        _write_json(folder / "versions.json", versions())
        return recorder

    @classmethod
    def open(cls, folder: str | Path) -> "Recorder":
        """The run in that directory; LabError if there is none, or its configuration cannot be read."""
        folder = Path(folder)
        if not is_run(folder):
            raise LabError(f"{folder} is not a run directory: it holds no config.json written by sppo_lab train.")
        saved = _read_json(folder / "config.json")
        if saved.get("sppo_lab_run") != FORMAT:
            raise LabError(f"{folder} was written in run format {saved.get('sppo_lab_run')}, not {FORMAT}.")
        return cls(folder, Config.from_dict(saved["config"]))

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
        return folder.is_dir() and all(path.suffix == ".partial" for path in folder.iterdir())

    def extend(self, config: Config) -> None:
        """Go on for more steps than first asked; the evaluation after training is then no longer the last word."""
        self.config = config
        self.save_config()
        (self.folder / "evaluation-after.json").unlink(missing_ok=True)

    def save_config(self) -> None:
        _write_json(self.folder / "config.json", {"sppo_lab_run": FORMAT, "config": self.config.to_dict()})

    def write_step(self, record: StepRecord) -> None:
        """Append the step's metrics and some of its responses."""
        _append(self.folder / "responses.jsonl", response_rows(record, self.config.save_responses))
        _append(self.folder / "metrics.jsonl", [record.metrics])

    def metrics(self) -> pd.DataFrame:
        """One row per step; an incomplete last line, left by a kill, is not read."""
        return pd.DataFrame(_read_rows(self.folder / "metrics.jsonl"))

    def responses(self) -> list[dict[str, Any]]:
        """The saved responses of all steps."""
        return _read_rows(self.folder / "responses.jsonl")

    def save_evaluation(self, when: str, evaluation: Evaluation) -> None:
        """``when`` is ``before`` or ``after``."""
        _write_json(self.folder / f"evaluation-{when}.json", evaluation.to_dict() | {"report": evaluation.report()})

    def evaluation(self, when: str) -> Evaluation | None:
        """What ``save_evaluation`` saved, or None where the run has not got there."""
        path = self.folder / f"evaluation-{when}.json"
        if not path.exists():
            return None
        saved = _read_json(path)
        saved.pop("report")
        return Evaluation(**saved)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted((self.folder / "checkpoints").glob("step-*"))

    def save_checkpoint(self, trainer: Trainer) -> None:
        """Write a checkpoint under another name, rename it when it is complete, and drop the oldest."""
        _sync(self.folder / "metrics.jsonl")
        _sync(self.folder / "responses.jsonl")
        target = self.folder / "checkpoints" / f"step-{trainer.step:06d}"
        partial = target.with_name(f"partial-{trainer.step:06d}")
        for stale in (partial, target):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir(parents=True)
        trainer.policy.model.save_pretrained(partial / "adapter")
        if trainer.critic is not None:
            weights = {
                name: weight.detach().contiguous() for name, weight in trainable_parameters(trainer.critic).items()
            }
            (partial / "critic.safetensors").write_bytes(safetensors.torch.save(weights))
        (partial / "trainer.pt").write_bytes(_torch_bytes(trainer.state_dict()))
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        os.replace(partial, target)
        for old in self.checkpoints()[: -self.config.keep_checkpoints]:
            shutil.rmtree(old, ignore_errors=True)

    def restore(self, trainer: Trainer) -> None:
        """Put the trainer where the newest checkpoint left it, and drop the rows of later steps."""
        saved = self.checkpoints()
        if saved:
            load_weights(saved[-1], trainer.policy, trainer.critic)
            trainer.load_state_dict(_load(saved[-1] / "trainer.pt", torch.load, weights_only=True))
        for name in ("metrics.jsonl", "responses.jsonl"):
            kept = [row for row in _read_rows(self.folder / name) if row["step"] <= trainer.step]
            if name == "metrics.jsonl" and [row["step"] for row in kept] != list(range(1, trainer.step + 1)):
                raise LabError(
                    f"{self.folder / name} does not hold steps 1 to {trainer.step}, though the checkpoint was taken "
                    "after them: the run is damaged. Start again with --overwrite."
                )
            if kept or (self.folder / name).exists():
                _write_atomically(self.folder / name, "".join(json.dumps(row) + "\n" for row in kept))

    def save_evidence(self, trainer: Trainer, error: Exception) -> Path:
        """Keep the state in which training broke down: DIR/failure, beside the untouched last checkpoint."""
        folder = self.folder / "failure"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        trainer.policy.model.save_pretrained(folder / "adapter")
        evidence = {"error": str(error), "trainer": trainer.state_dict(), "rollouts": vars(trainer.rollouts)}
        (folder / "state.pt").write_bytes(_torch_bytes(evidence))
        _write_atomically(folder / "message.txt", f"{error}\n")
        return folder


def is_run(folder: Path) -> bool:
    """Whether the directory holds a run: its config.json carries the lab's mark."""
    try:
        return "sppo_lab_run" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def remove_run(folder: Path) -> None:
    """Delete what a run wrote, the mark last, and nothing else that lies there."""
    for name in ("checkpoints", "failure"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for pattern in (
        "*.partial",
        "evaluation-*.json",
        "responses.jsonl",
        "metrics.jsonl",
        "figure.png",
        "versions.json",
    ):
        for path in folder.glob(pattern):
            path.unlink()
    (folder / "config.json").unlink()


def load_weights(checkpoint: Path, policy: Policy, critic: PromptCritic | None) -> None:
    """Load a checkpoint's adapter and critic into models of the same configuration."""
    adapter = _load(checkpoint / "adapter", load_peft_weights, device=str(policy.device))
    set_peft_model_state_dict(policy.model, adapter)
    if critic is not None:
        weights = _load(checkpoint / "critic.safetensors", safetensors.torch.load_file, device=str(policy.device))
        with torch.no_grad():
            for name, weight in trainable_parameters(critic).items():
                weight.copy_(weights[name])


def response_rows(record: StepRecord, count: int) -> list[dict[str, Any]]:
    """The first ``count`` responses of a step as rows; log-probabilities in nats, rounded to 5 digits."""
    rollouts = record.rollouts
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
                "value": None if rollouts.values is None else round(rollouts.values[i].item(), 6),
                "advantage": round(rollouts.advantages[i, 0].item(), 6),
                "truncated": bool(rollouts.truncated[i]),
                "token_ids": rollouts.response_ids[i, :length].tolist(),
                "logprobs": [round(number, 5) for number in logprobs],
            }
        )
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


def _torch_bytes(content: Any) -> bytes:
    """What torch.save would write; written by us, a full disk is an OSError like any other."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _load(path: Path, read: Any, **options: Any) -> Any:
    try:
        return read(str(path), **options)
    except Exception as error:  # whatever the library raises, the remedy is the same
        raise LabError(
            f"{path} is missing or damaged ({type(error).__name__}). Delete the directory {path.parent} to go on from "
            "the checkpoint before it, or start again with --overwrite."
        ) from error


def _append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last line break is incomplete
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise LabError(
                f"{path}, line {number} is damaged: the run cannot be read. Start again with --overwrite."
            ) from None
    return rows


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LabError(f"{path} is damaged: {error}. Start again with --overwrite.") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_atomically(path, json.dumps(content, indent=2) + "\n")


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    _sync(partial)
    os.replace(partial, path)


def _sync(path: Path) -> None:
    """Ask the system to put a file on the disk; an absent one is passed over."""
    if path.exists():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
