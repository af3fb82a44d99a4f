"""One run from beginning to end: evaluate, train, checkpoint, evaluate again, draw.

    experiment = Experiment(Config(steps=60), "runs/first")
    for record in experiment:
        ...
    experiment.summary()

Stop whenever you like: what has been done is saved, and ``resume=True`` goes on from there.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from sppo_lab.checkpoint import load_weights
from sppo_lab.config import Config
from sppo_lab.errors import LabError, NonFiniteError
from sppo_lab.evaluate import EVALUATION_SEED, Evaluation, evaluate
from sppo_lab.figures import DRAWING, run_figure
from sppo_lab.gradient import gradient_noise, sample_gradients
from sppo_lab.parallel import anywhere, is_main, main_only, wait
from sppo_lab.processes import finishing, peak_memory_mb
from sppo_lab.recorder import Recorder
from sppo_lab.storage import writing
from sppo_lab.tracking import make_tracker
from sppo_lab.trainer import StepRecord, Trainer


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
        self.progress = progress if is_main() else partial(progress, disable=True)
        self.tracker = make_tracker(config, out) if is_main() else None
        self.trainer = Trainer(config)  # before anything is written, so that a mistake leaves nothing behind
        wait()
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
        if self.tracker is not None:
            self.tracker.start()
            self.tracker.store_init_configuration(self.config.to_dict())
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
                    if self.tracker is not None:
                        self.tracker.log(record.metrics, step=record.step)
                    whole = True
                bar.update()
                bar.set_postfix(
                    reward=f"{record.metrics['reward']:.2f}",
                    length=f"{record.metrics['completions/mean_length']:.0f}",
                    refresh=False,
                )
                if anywhere(bool(interrupted)):
                    raise KeyboardInterrupt
                yield record
        except NonFiniteError as error:
            folder = recorder.save_evidence(trainer, error)
            raise NonFiniteError(f"{error} The evidence is in {folder}.") from error
        finally:
            bar.close()
            if self.tracker is not None:
                self.tracker.finish()
            if whole and trainer.step > saved_at >= 0:
                recorder.save_checkpoint(trainer)
        if recorder.evaluation("after") is None:
            recorder.save_evaluation("after", self.evaluate("after training"))
        if self.config.gradient_repeats and recorder.gradient() is None:
            sampled = sample_gradients(trainer, self.config.gradient_repeats, self.progress)
            recorder.save_gradient(gradient_noise(sampled))
        self.save_figure()
        recorder.save_summary(self.summary())
        wait()

    def evaluate(self, label: str) -> Evaluation:
        """The policy as it stands, on the test problems."""
        return evaluate_trainer(self.trainer, label=label, progress=self.progress)

    @main_only
    def save_figure(self) -> None:
        """Draw the run as it stands: DIR/figure.png."""
        with DRAWING:
            run_figure(self.recorder).savefig(self.recorder.folder / "figure.png", dpi=120)

    def summary(self) -> dict[str, Any]:
        """The run in a few numbers; those of the evaluations are None until it has ended."""
        metrics = self.recorder.metrics()
        before, after = self.recorder.evaluation("before"), self.recorder.evaluation("after")
        gradient = self.recorder.gradient() or {}
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
            "gradient_variance": gradient.get("variance"),
            "gradient_signal_to_noise": gradient.get("signal_to_noise"),
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
        batch_size=trainer.sampled_at_once,
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
