"""What a run will need, before it: memory and seconds per step, from a rehearsal of the real loop with few layers.

A step costs the same for every layer of a transformer, and something for what is outside of its layers.  So a few
steps are run with random weights and 1 layer, and again with half of the layers, or 5 of a large model, and the cost of
all of them lies on the line through both.  Where layers differ, such as attention after every three recurrent ones,
whole repeats of their pattern are rehearsed.
Only the model's configuration and tokenizer are read, not its weights.  Every response runs to ``max_new_tokens``: no
run costs more.
"""

import dataclasses
import math
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PreTrainedConfig

from sppo_lab.algorithms import get_algorithm
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.models import critic_model_name, load_model_config, load_tokenizer
from sppo_lab.processes import in_own_process, peak_memory_mb
from sppo_lab.samplers import SAMPLERS
from sppo_lab.trainer import Trainer

MORE = 4  # layers, at least, by which the larger rehearsal exceeds the smaller: what is left out multiplies the noise
ROOM = 2**31  # bytes of float32 weights in those layers, at most, if they are more


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
    fewest, larger = {}, {}  # layers, by setting
    for field, name in models.items():
        fewest[field], larger[field] = rehearsed_depths(load_model_config(name))
    rehearsals = [fewest] + [fewest | {field: larger[field]} for field in models if larger[field] > fewest[field]]
    with tempfile.TemporaryDirectory(prefix="sppo-lab-") as folder:
        costs = []
        for layers in progress(rehearsals, desc="rehearsing", unit="rehearsal"):
            paths = {field: shrunken(models[field], count, Path(folder)) for field, count in layers.items()}
            try:
                costs.append(measure(config.replace(**paths)))
            except LabError as error:
                message = str(error)
                for field, path in paths.items():
                    message = message.replace(path, models[field])
                raise LabError(message) from error
    total = costs[0]
    for cost, layers in zip(costs[1:], rehearsals[1:], strict=True):
        field = next(field for field in models if layers[field] > fewest[field])
        left_out = depths[field] - fewest[field]
        total = total.plus(cost.plus(costs[0], -1), left_out / (layers[field] - fewest[field]))
    # Loading a model takes more per layer than a step with it, so the peak of a deep one may be there alone.
    return dataclasses.replace(total, memory_mb=max(total.loading_mb, total.memory_mb))


def models_of(config: Config) -> dict[str, str]:
    """The models a run loads, by setting; a critic that starts as a copy of the policy is not one more."""
    models = {"model": config.model}
    has_critic = get_algorithm(config.algorithm).has_critic
    if has_critic and config.critic == "model" and critic_model_name(config) != config.model:
        models["critic_model"] = critic_model_name(config)
    return models


def rehearsed_depths(config: PreTrainedConfig) -> tuple[int, int]:
    """How many layers the smaller and the larger rehearsal have; both all of them, where fewer cannot be had."""
    depth = config.num_hidden_layers
    try:
        kinds = layer_kinds(config)
        fewest, period = pattern(kinds)
        layer_kinds(with_layers(config, fewest))
    except Exception:  # whatever an architecture raises that does not know what to do with fewer layers
        return depth, depth
    bytes_per_layer = sum(4 * math.prod(shape) for _, shapes in kinds for shape in shapes) / depth
    more = max(MORE, min(depth // 2 - fewest, ROOM // bytes_per_layer))
    return fewest, min(depth, fewest + period * math.ceil(more / period))


def layer_kinds(config: PreTrainedConfig) -> list[tuple[Any, ...]]:
    """What tells the layers apart, one entry each: what the configuration calls it, and the shapes of its weights."""
    depth = config.num_hidden_layers
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    lists = (part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == depth)
    shapes = [tuple(weight.shape for weight in layer.parameters()) for layer in next(lists)]
    return list(zip(getattr(config, "layer_types", None) or [None] * depth, shapes, strict=True))


def pattern(kinds: Sequence[Any]) -> tuple[int, int]:
    """The fewest layers after which only repeats follow, and the period of those; all of them and 1 if none does.

    A dense layer, then mixtures only: (2, 1).  Three recurrent layers and one of attention, again and again: (4, 4).
    """
    depth = len(kinds)
    repeating = [
        (start + period, period)
        for period in range(1, depth)
        for start in range(depth - period)
        if kinds[start : depth - period] == kinds[start + period :]
    ]
    return min(repeating, default=(depth, 1))


def with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The configuration with its first ``layers`` layers; lists with an entry per layer are cut too."""
    settings = {
        name: value[:layers] if isinstance(value, list) and len(value) == config.num_hidden_layers else value
        for name, value in config.to_dict().items()
    }
    settings[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = layers
    return type(config).from_dict(settings)


def shrunken(name: str, layers: int, folder: Path) -> str:
    """A model of that architecture with ``layers`` layers and random weights, in a directory; returns its path."""
    path = folder / f"{zlib.crc32(name.encode()):08x}-{layers}"
    if not path.exists():
        AutoModelForCausalLM.from_config(with_layers(load_model_config(name), layers)).save_pretrained(path)
        load_tokenizer(name).save_pretrained(path)
    return str(path)


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
