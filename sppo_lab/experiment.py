"""One run from beginning to end: evaluate, train, checkpoint, evaluate again, draw.

    experiment = Experiment(Config(steps=60), "runs/first")
    for record in experiment:
        ...
    experiment.summary()

Stop whenever you like: what has been done is saved, and ``resume=True`` goes on from there.
"""

import contextlib
import errno
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm.auto import tqdm

from sppo_lab.checkpoint import load_weights
from sppo_lab.config import Config
from sppo_lab.errors import LabError, NonFiniteError
from sppo_lab.evaluate import Evaluation, evaluate
from sppo_lab.figures import run_figure
from sppo_lab.recorder import Recorder
from sppo_lab.trainer import StepRecord, Trainer

EVALUATION_SEED = 20_000  # apart from the training seeds, and the same for every run, so that runs compare


class Experiment:
    """A training run with its directory; iterate over it to train.

    With ``resume`` the saved configuration counts; of a ``config`` given as well only a larger number of steps may
    differ.  Raises LabError for a directory that holds another run, or something that is not a run.
    """

    def __init__(
        self,
        config: Config | None,
        out: str | Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        progress: Callable[..., Any] = tqdm,
    ):
        if resume and overwrite:
            raise LabError("--resume continues a run and --overwrite replaces it: give one of them.")
        out = Path(out)
        resume = resume and not Recorder.can_begin(out)
        with writing(out):
            if resume:
                self.recorder = resumed(out, config)
                config = self.recorder.config
            else:
                Recorder.refuse_if_taken(out, overwrite)
                config = config or Config()
        self.config = config
        self.progress = progress
        self.trainer = Trainer(config)  # before anything is written, so that a mistake leaves nothing behind
        with writing(out):
            if resume:
                self.recorder.restore(self.trainer)
            else:
                self.recorder = Recorder.create(out, config, overwrite)

    def __iter__(self) -> Iterator[StepRecord]:
        with writing(self.recorder.folder):
            yield from self._run()

    def _run(self) -> Iterator[StepRecord]:
        trainer, recorder = self.trainer, self.recorder
        if recorder.evaluation("before") is None:
            recorder.save_evaluation("before", self.evaluate("before training"))
        saved_at = trainer.step if recorder.checkpoints() else -1
        whole = True  # False only inside a step, where the weights are those of no step
        bar = self.progress(total=self.config.steps, initial=trainer.step, desc="training", unit="step")
        try:
            while trainer.step < self.config.steps:
                with finishing() as interrupted:
                    if saved_at < 0 or trainer.step - saved_at >= self.config.checkpoint_every:
                        recorder.save_checkpoint(trainer)
                        saved_at = trainer.step
                    whole = False
                    record = trainer.train_step()
                    recorder.write_step(record)
                    whole = True
                bar.update()
                bar.set_postfix(
                    reward=f"{record.metrics['reward']:.2f}",
                    length=f"{record.metrics['completions/mean_length']:.0f}",
                    refresh=False,
                )
                if interrupted:
                    raise KeyboardInterrupt
                yield record
        except NonFiniteError as error:
            folder = recorder.save_evidence(trainer, error)
            raise NonFiniteError(f"{error} The evidence is in {folder}.") from error
        finally:
            bar.close()
            if whole and trainer.step > saved_at >= 0:
                recorder.save_checkpoint(trainer)
        if recorder.evaluation("after") is None:
            recorder.save_evaluation("after", self.evaluate("after training"))
        self.save_figure()

    def evaluate(self, label: str) -> Evaluation:
        """The policy as it stands, on the test problems."""
        return evaluate_trainer(self.trainer, label=label, progress=self.progress)

    def save_figure(self) -> Path:
        """Draw the run as it stands: DIR/figure.png."""
        path = self.recorder.folder / "figure.png"
        run_figure(self.recorder).savefig(path, dpi=120)
        return path

    def summary(self) -> dict[str, Any]:
        """The run in a few numbers; those of the evaluations are None until it has ended."""
        metrics = self.recorder.metrics()
        before, after = self.recorder.evaluation("before"), self.recorder.evaluation("after")
        seconds = float(metrics["step_time"].sum()) if len(metrics) else 0.0
        tokens = int(metrics["num_tokens"].iloc[-1]) if len(metrics) else 0
        return {
            "algorithm": self.config.algorithm,
            "task": self.config.task,
            "model": self.config.model,
            "seed": self.config.seed,
            "steps": len(metrics),
            "rollouts": int(metrics["num_rollouts"].iloc[-1]) if len(metrics) else 0,
            "response_tokens": tokens,
            "frac_prompts_rewarded": float(metrics["frac_prompts_rewarded"].mean()) if len(metrics) else None,
            "accuracy_before": before and before.accuracy,
            "accuracy_before_interval": before and before.accuracy_interval,
            "accuracy_after": after and after.accuracy,
            "accuracy_after_interval": after and after.accuracy_interval,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds if seconds else None,
            "peak_memory_mb": peak_memory_mb(),
            "out": str(self.recorder.folder),
        }


def evaluate_run(folder: str | Path, samples: int, prompts: int | None = None, step: int | None = None) -> Evaluation:
    """Evaluate a checkpoint of a run (the newest, or that of ``step``) on its test problems."""
    recorder = Recorder.open(folder)
    checkpoint = recorder.checkpoint_of(step)
    config = recorder.config if prompts is None else recorder.config.replace(eval_prompts=prompts)
    trainer = Trainer(config)
    load_weights(checkpoint, trainer.policy, trainer.critic)
    return evaluate_trainer(trainer, samples=samples)


def evaluate_trainer(
    trainer: Trainer,
    *,
    samples: int | None = None,
    label: str = "evaluating",
    progress: Callable[..., Any] = tqdm,
) -> Evaluation:
    """A trainer's policy and critic as they stand, on the test problems of its configuration."""
    config = trainer.config
    return evaluate(
        trainer.policy,
        trainer.task.test[: config.eval_prompts],
        trainer.task.rewards,
        samples=samples or config.eval_samples,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=EVALUATION_SEED,
        critic=trainer.critic,
        progress=progress,
        label=label,
    )


def resumed(out: Path, config: Config | None) -> Recorder:
    """The run in the directory.  Of a configuration given as well only a larger number of steps may differ."""
    recorder = Recorder.open(out)
    saved = recorder.config.to_dict()
    asked = saved if config is None else config.to_dict()
    different = {
        name: f"{name} = {asked[name]!r} (the run has {saved[name]!r})" for name in saved if saved[name] != asked[name]
    }
    if set(different) - {"steps"} or asked["steps"] < saved["steps"]:
        raise LabError(
            f"{out} was started with other settings: {'; '.join(different.values())}. Resume without them (only a "
            "larger number of steps is allowed), or start another run with --out."
        )
    if different:
        recorder.extend(config)
    return recorder


@contextlib.contextmanager
def finishing() -> Iterator[list[int]]:
    """Hold Ctrl-C back until the block has ended; the list yielded is then not empty.  A second one goes through.

    Only the main thread receives signals; elsewhere this does nothing.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, before)
        print("\nStopping after this step; press Ctrl-C again to stop at once.", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Turn what a full disk or a read-only directory raises into a LabError with the remedy."""
    remedies = {
        errno.ENOSPC: "the disk is full: free some space, then go on with --resume",
        errno.EDQUOT: "your disk quota is used up: free some space, then go on with --resume",
        errno.EROFS: "the disk is read-only: choose another directory with --out",
        errno.EACCES: "you may not write there: choose another directory with --out",
        errno.EPERM: "you may not write there: choose another directory with --out",
        errno.ENOENT: "the directory cannot be made: choose another one with --out",
        errno.ENOTDIR: "a part of the path is a file: choose another directory with --out",
        errno.EEXIST: "there is a file of that name: choose another directory with --out",
    }
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if "No space left" in str(error):
            number = errno.ENOSPC
        if number not in remedies:
            raise
        raise LabError(f"cannot write to {folder}: {remedies[number]}.") from error


def peak_memory_mb() -> float:
    """Largest memory in use so far, in MiB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
