"""One dataclass holds every setting of a run; it checks itself and is saved with the run."""

import dataclasses
from dataclasses import dataclass, field, fields
from typing import Any

from sppo_lab.errors import LabError


def _setting(default: Any, help: str, **limits: Any) -> Any:
    """A field with its one-line help and, optionally, ``min``, ``max``, ``above`` (exclusive) or ``choices``."""
    return field(default=default, metadata={"help": help, **limits})


OWN = "default: the algorithm's own"


@dataclass(frozen=True)
class Config:
    """Settings of one run.  The defaults are the tuned values of the ``tiny`` tier (see data/README.md).

    ``Config()`` trains the embedded model; ``Config.for_tier("gpu")`` starts from settings for a real model.
    Raises LabError on construction if a value is of the wrong type or out of its range.
    """

    # what is trained, and on what
    algorithm: str = _setting(
        "sppo",
        "row of the algorithm table: sppo, sppo-small-critic, ppo, ppo-bce, reinforce, remax, rloo, grpo, dr-grpo, "
        "dapo, cppo, spo, poise or steppo",
    )
    task: str = _setting(
        "chain-sum",
        "problems and their verifier: chain-sum, gsm8k, math, reasoning-gym:NAME, or a Python file that defines task",
    )
    data: str | None = _setting(None, "file with the problems, in the task's published format; default: its own")
    test_data: str | None = _setting(
        None, "file with the test problems; default: the task's own split, or the last fifth of data"
    )
    model: str = _setting("tiny", "policy: tiny, a directory in the hub's format, or a name on the hub")
    critic_model: str | None = _setting(
        None, "backbone of the critic; default: the policy's, or its small sibling for sppo-small-critic"
    )
    seed: int = _setting(0, "seed of the LoRA initialisation, the order of prompts and the sampling", min=0)
    steps: int = _setting(200, "number of training steps; each samples once and updates on what it sampled", min=0)

    # sampling
    prompts_per_step: int = _setting(64, "prompts sampled per step", min=1)
    group_size: int | None = _setting(None, f"responses per prompt; {OWN}", min=1)
    filter_groups: bool | None = _setting(
        None, "sample further prompts in place of those whose responses are all right or all wrong; " + OWN
    )
    max_gen_batches: int = _setting(10, "with filter_groups, batches sampled at most for one step", min=1)
    overlong_buffer: float | None = _setting(
        None, f"last share of max_new_tokens over which the reward falls by 1; 0 is off; {OWN}", min=0, max=1
    )
    sample_batch_size: int = _setting(
        1024, "responses sampled at a time, at most; smaller saves memory and takes longer", min=1
    )
    sampler: str = _setting(
        "auto",
        "who writes the responses; auto: the lab's own sampler wherever the model's cache lets it, on a GPU as a "
        "recorded graph, else transformers' generate; continuous: transformers' continuous batching",
        choices=("auto", "lab", "graph", "generate", "continuous"),
    )
    temperature: float = _setting(1.0, "sampling temperature; it divides the logits in the loss too", above=0, max=5)
    max_new_tokens: int = _setting(88, "longest response, in tokens; a longer one is cut and marked truncated", min=1)

    # advantage
    advantage_scale: str | None = _setting(
        None,
        f"scaling of the advantage: by its group's standard deviation, to mean 0 and variance 1, or none; {OWN}",
        choices=("none", "group", "whiten"),
    )
    gamma: float = _setting(1.0, "discount per token in the advantage of ppo and steppo", min=0, max=1)
    gae_lambda: float = _setting(1.0, "lambda of generalized advantage estimation in ppo and steppo", min=0, max=1)
    prune: float | None = _setting(
        None, f"share of each group left out of the update, those with the smallest |A|; {OWN}", min=0, max=0.99
    )
    tracker_decay: float = _setting(0.9, "how much of a prompt's past spo keeps at each visit", min=0, max=1)

    # policy update
    lr: float = _setting(2e-4, "learning rate of the policy (AdamW)", above=0, max=1)
    lora_rank: int = _setting(16, "rank of the LoRA adapter on every linear layer", min=1, max=1024)
    lora_alpha: float = _setting(32.0, "LoRA scale: the update is multiplied by lora_alpha / lora_rank", above=0)
    epsilon: float = _setting(
        0.2, "clip range: the ratio counts only within 1 - epsilon to 1 + epsilon", above=0, max=1
    )
    epsilon_high: float | None = _setting(
        None, "upper clip range where it differs from epsilon (clip-higher)", above=0, max=10
    )
    dual_clip: float | None = _setting(
        None, "bound of the loss where A < 0, in units of |A|; verl calls it clip_ratio_c; default: none", above=1
    )
    importance_sampling_level: str = _setting(
        "token", "ratio of each token, or one of the whole response (GSPO)", choices=("token", "sequence")
    )
    aggregation: str | None = _setting(
        None,
        f"how the losses of tokens are averaged; {OWN}",
        choices=("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"),
    )
    kl_coef: float = _setting(0.0, "weight of the KL divergence to the policy without its adapter", min=0)
    kl_estimator: str = _setting("k3", "estimator of that divergence", choices=("k1", "k2", "k3"))
    entropy_coef: float = _setting(0.0, "weight of an entropy bonus", min=0)
    mask_truncated: bool = _setting(False, "leave truncated responses out of the loss")
    epochs: int = _setting(1, "passes over the sampled batch per step", min=1, max=100)
    mini_batches: int = _setting(2, "optimizer updates per pass: the batch is split into this many parts", min=1)
    micro_batch_size: int | None = _setting(
        None, "responses per forward pass, at most; smaller saves memory and changes nothing else", min=1
    )
    max_grad_norm: float = _setting(1.0, "gradients longer than this are scaled down to it", above=0)

    # critic
    critic: str = _setting(
        "model",
        "where V is computed: a model of its own, or a second LoRA adapter on the policy's base",
        choices=("model", "adapter"),
    )
    critic_lr: float = _setting(3e-4, "learning rate of the critic (AdamW)", above=0, max=1)
    critic_lora_rank: int = _setting(
        0,
        "rank of a LoRA adapter on the critic's backbone; 0 trains the whole backbone, and with critic = adapter "
        "takes the policy's rank",
        min=0,
        max=1024,
    )
    value_clip: float = _setting(0.2, "ppo: V moves at most this far in one step, as the loss sees it", above=0)
    critic_warmup: int = _setting(0, "first steps in which only the critic learns", min=0)

    # measuring and saving
    eval_samples: int = _setting(16, "responses per test prompt before and after training (the k of avg@k)", min=1)
    eval_prompts: int | None = _setting(None, "test prompts to use; default: all", min=1)
    gradient_repeats: int = _setting(
        0, "batches sampled after training to measure the gradient's noise; 0: not measured", min=0
    )
    checkpoint_every: int = _setting(25, "steps between checkpoints; a killed run loses at most these", min=1)
    keep_checkpoints: int = _setting(2, "checkpoints kept on disk, the newest ones", min=1)
    tracker: str | None = _setting(
        None,
        "also log every step to tensorboard (into the run's directory), trackio or wandb; default: none",
        choices=("tensorboard", "trackio", "wandb"),
    )
    save_responses: int = _setting(16, "sampled responses written per step, with R, V, A and log-probs", min=0)

    # machine
    device: str = _setting("auto", "cpu, cuda, mps, or auto for the best at hand")
    dtype: str = _setting(
        "auto",
        "precision of the weights; auto: bfloat16 on a GPU that computes in it, float16 with a scaled loss on an older "
        "one, else float32",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    attention: str = _setting(
        "auto",
        "implementation of attention; auto: sdpa wherever the model has it",
        choices=("auto", "sdpa", "eager"),
    )
    gradient_checkpointing: bool = _setting(
        False, "compute activations again in the backward pass instead of keeping them: less memory, a third more time"
    )
    quantize: str | None = _setting(
        None, "4bit: keep the frozen base weights in 4 bits (needs bitsandbytes); default: as dtype", choices=("4bit",)
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            _check(setting, getattr(self, setting.name))

    @classmethod
    def for_tier(cls, tier: str = "tiny", **changes: Any) -> "Config":
        """The settings of a tier (a key of ``TIERS``) with some fields changed."""
        if tier not in TIERS:
            raise LabError(f"unknown tier {tier!r}: choose one of {', '.join(TIERS)}.")
        return cls.from_dict(TIERS[tier] | changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Build from a mapping, as read from a run's config.json; an unknown field raises LabError."""
        known = [setting.name for setting in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise LabError(f"unknown setting {', '.join(unknown)}. The settings are: {', '.join(known)}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def options(self) -> list[str]:
        """The words of a command line that set every field which is not at its default."""
        words: list[str] = []
        for name, value in self.to_dict().items():
            if value != getattr(Config(), name):
                words += [option(name, value)] if isinstance(value, bool) else [option(name), str(value)]
        return words

    def replace(self, **changes: Any) -> "Config":
        """A checked copy with some fields changed."""
        return self.from_dict(self.to_dict() | changes)


TIERS: dict[str, dict[str, Any]] = {
    "tiny": {},
    # A 0.5 B model with LoRA on one GPU of 16 GB or more.
    "gpu": {
        "task": "gsm8k",
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "steps": 200,
        "max_new_tokens": 400,
        "lr": 2e-5,
        "lora_rank": 32,
        "lora_alpha": 64.0,
        "sample_batch_size": 128,
        "micro_batch_size": 8,
        "critic_lr": 5e-5,
        "critic_lora_rank": 16,
        "eval_samples": 1,
        "eval_prompts": 256,
    },
}


def option(name: str, on: bool = True) -> str:
    """The command-line option of a field: ``lora_rank`` gives ``--lora-rank``; a switch that is off ``--no-...``."""
    return ("--" if on else "--no-") + name.replace("_", "-")


def _check(setting: dataclasses.Field, value: Any) -> None:
    """Raise LabError unless ``value`` has the field's type and lies in its range."""
    types = _types(setting)
    named = f"{setting.name} = {value!r}"
    if value is None and type(None) in types:
        return
    wrong_type = not isinstance(value, types) and not (float in types and isinstance(value, int))
    if wrong_type or (isinstance(value, bool) and bool not in types):
        raise LabError(f"{named} is not of type {_type_names(types)}: {setting.metadata['help']}.")
    limits = setting.metadata
    allowed = describe_limits(setting)
    outside = (
        ("choices" in limits and value not in limits["choices"])
        or ("min" in limits and not value >= limits["min"])
        or ("above" in limits and not value > limits["above"])
        or ("max" in limits and not value <= limits["max"])
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and value in (float("inf"), float("-inf")))
    )
    if outside or value != value:
        raise LabError(f"{named} is not allowed: expected {allowed} ({setting.metadata['help']}).")


def describe_limits(setting: dataclasses.Field) -> str:
    """The allowed range of a field in words: ``a number above 0, at most 1``."""
    limits = setting.metadata
    if "choices" in limits:
        return "one of " + ", ".join(limits["choices"])
    if is_switch(setting):
        return "true or false"
    if is_text(setting):
        return "a non-empty text"
    parts = [
        f"{word} {limits[key]}"
        for key, word in (("above", "above"), ("min", "at least"), ("max", "at most"))
        if key in limits
    ]
    kind = "a whole number" if int in _types(setting) else "a finite number"
    return f"{kind} {', '.join(parts)}".rstrip()


def is_text(setting: dataclasses.Field) -> bool:
    """Whether the field takes any text: a name or a path."""
    return str in _types(setting) and "choices" not in setting.metadata


def is_switch(setting: dataclasses.Field) -> bool:
    """Whether the field is true or false."""
    return bool in _types(setting)


def field_type(setting: dataclasses.Field) -> type:
    """The class a text from the command line is turned into."""
    return next(kind for kind in _types(setting) if kind is not type(None))


def _types(setting: dataclasses.Field) -> tuple[type, ...]:
    """The classes a field accepts: ``int | None`` gives ``(int, NoneType)``."""
    return getattr(setting.type, "__args__", None) or (setting.type,)


def _type_names(types: tuple[type, ...]) -> str:
    return " or ".join("None" if kind is type(None) else kind.__name__ for kind in types)
