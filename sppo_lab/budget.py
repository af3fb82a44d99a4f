"""What a run will need, before it: memory and seconds per step, from a rehearsal of the real loop with few layers.

A step costs the same for every layer of a transformer, and something for what is outside of its layers.  So a few
steps are run with random weights and 1 layer, and again with half of the layers, or 5 of a large model, and the cost of
all of them lies on the line through both (``shallow`` chooses and builds those models).  Only the model's configuration
and tokenizer are read, not its weights.  Every response runs to ``max_new_tokens``: no run costs more.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm.auto import tqdm

from sppo_lab.algorithms import get_algorithm
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.models import critic_model_name, load_model_config
from sppo_lab.processes import in_own_process, peak_memory_mb
from sppo_lab.samplers import SAMPLERS
from sppo_lab.shallow import rehearsed_depths, shallow_model
from sppo_lab.trainer import Trainer


@dataclass(frozen=True)
class Cost:
    """What a step costs."""

    loading_mb: float  # memory at the peak of loading, in MiB: of the GPU where there is one, else of the process
    memory_mb: float  # at the peak of all
    sample_seconds: float  # sampling and judging
    update_seconds: float  # the updates of critic and policy
    sampler: str = "lab"  # who wrote the responses: see samplers

    @property
    def seconds(self) -> float:
        return self.sample_seconds + self.update_seconds

    def plus(self, other: "Cost", times: float) -> "Cost":
        """This cost and ``times`` the other."""
        numbers = ("loading_mb", "memory_mb", "sample_seconds", "update_seconds")
        return dataclasses.replace(
            self, **{name: getattr(self, name) + times * getattr(other, name) for name in numbers}
        )


def predict(config: Config, progress: Callable[..., Any] = tqdm) -> Cost:
    """The cost of a step of this configuration on this machine, every response at its longest."""
    models = models_of(config)
    depths = {field: load_model_config(name).num_hidden_layers for field, name in models.items()}
    few, more = {}, {}  # layers, by setting
    for field, name in models.items():
        is_critic = field == "critic_model"  # small, as a rule: whole, as a third rehearsal would add its noise
        few[field], more[field] = rehearsed_depths(load_model_config(name), whole=is_critic)
    growing = [field for field in models if more[field] > few[field]]
    plans = progress([few, *(few | {field: more[field]} for field in growing)], desc="rehearsing", unit="rehearsal")
    with tempfile.TemporaryDirectory(prefix="sppo-lab-") as folder:
        base, *deeper = [rehearsal(config, models, layers, Path(folder)) for layers in plans]
    total = base
    for field, cost in zip(growing, deeper, strict=True):
        total = total.plus(cost.plus(base, -1), (depths[field] - few[field]) / (more[field] - few[field]))
    # Loading a model takes more per layer than a step with it, so the peak of a deep one may be there alone.
    return dataclasses.replace(total, memory_mb=max(total.loading_mb, total.memory_mb))


def models_of(config: Config) -> dict[str, str]:
    """The models a run loads, by setting; a critic that starts as a copy of the policy is not one more."""
    models = {"model": config.model}
    has_critic = get_algorithm(config.algorithm).has_critic
    if has_critic and config.critic == "model" and critic_model_name(config) != config.model:
        models["critic_model"] = critic_model_name(config)
    return models


def rehearsal(config: Config, models: dict[str, str], layers: dict[str, int], folder: Path) -> Cost:
    """The cost of a step when the models have so many layers.  A LabError speaks of the models themselves."""
    paths = {field: shallow_model(name, layers[field], folder) for field, name in models.items()}
    try:
        return measure(config.replace(**paths))
    except LabError as error:
        message = str(error)
        for field, path in paths.items():
            message = message.replace(path, models[field])
        raise LabError(message) from error


def measure(config: Config) -> Cost:
    """What a step really costs, in a process of its own."""
    return in_own_process(rehearse, config, preload=[__name__])


def rehearse(config: Config) -> Cost:
    """Run four steps; the fastest of the last three, when all is warm.  No response ends before its limit."""
    trainer = Trainer(config.replace(filter_groups=False))  # random models get no reward, and all would be replaced
    trainer.policy = trainer.policy.endless()
    loading = peak_memory_mb()
    trainer.train_step()
    steps = [trainer.train_step().metrics for _ in range(3)]  # other work on the machine may slow some down
    times = min(steps, key=lambda metrics: metrics["step_time"])
    return Cost(
        loading_mb=loading,
        memory_mb=peak_memory_mb(),
        sample_seconds=times["step_time"] - times["time/update"],
        update_seconds=times["time/update"],
        sampler=next(name for name, write in SAMPLERS.items() if write is trainer.policy.sampler),
    )


def available_memory_mb(device: torch.device) -> float:
    """Memory that can be had now, in MiB: of the GPU where it is one, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    return psutil.virtual_memory().available / 2**20


def budget_report(config: Config, predicted: Cost, measured: Cost | None, free: float) -> str:
    """Predicted and, where there is one, measured cost of a step in sentences."""
    filled = get_algorithm(config.algorithm).fill(config)
    responses = filled.prompts_per_step * filled.group_size
    minutes = predicted.seconds * config.steps / 60
    duration = f"{minutes:.0f} minutes" if minutes < 100 else f"{minutes / 60:.1f} hours"
    duration = "a minute" if minutes < 1.5 else duration
    lines = [
        f"{config.algorithm} on {config.model}, {responses} responses of {config.max_new_tokens} tokens per step, "
        f"written by the sampler {predicted.sampler}:",
        f"{'':>22}{'predicted':>12}" + (f"{'measured':>12}{'ratio':>8}" if measured else ""),
    ]
    for label, name, form in (
        ("peak memory, MiB", "memory_mb", ".0f"),
        ("sampling, seconds", "sample_seconds", ".2f"),
        ("updates, seconds", "update_seconds", ".2f"),
        ("a step, seconds", "seconds", ".2f"),
    ):
        guess = getattr(predicted, name)
        line = f"{label:>22}{guess:>12{form}}"
        if measured:
            real = getattr(measured, name)
            line += f"{real:>12{form}}{guess / real:>8.2f}"
        lines.append(line)
    lines.append(
        f"{config.steps} steps take at most {duration}, without the evaluations. Responses that end sooner cost less."
    )
    if predicted.memory_mb > free:
        lines.append(
            f"That is more than the {free:.0f} MiB that are free: lower micro_batch_size or sample_batch_size, or "
            "let the critic share the policy's base (--critic adapter)."
        )
    return "\n".join(lines)
