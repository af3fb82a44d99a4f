"""Loading: a causal LM with a LoRA adapter as the policy, a transformer with a scalar head as the critic."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from sppo_lab.algorithms import get_algorithm
from sppo_lab.assets import embedded_models
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.hub import hub_access
from sppo_lab.lora import add_lora
from sppo_lab.value import Critic, PromptCritic, TokenCritic

SMALL_SIBLING = {"tiny": "tiny-small"}  # the backbone of sppo-small-critic, where the lab ships one


@dataclass(frozen=True)
class Policy:
    """A causal LM with a LoRA adapter, and what is needed to sample from it."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]  # every token id that ends a response
    context: int  # prompt and response tokens together, at most
    pad_id: int  # fills the rectangle; masks come from lengths, so any id would do

    @property
    def device(self) -> torch.device:
        return self.model.device


def load_policy(config: Config) -> Policy:
    """The model of the configuration with a fresh LoRA adapter; its base weights are frozen.

    It stays in evaluation mode: dropout would make the ratio differ from 1 before any update.
    """
    path = model_path(config.model)
    device = choose_device(config.device)
    model = _from_pretrained(AutoModelForCausalLM, path, config.model, device, choose_dtype(config.dtype, device))
    tokenizer = load_tokenizer(config.model)
    stop_ids = end_token_ids(model, tokenizer)
    return Policy(
        model=add_lora(model, config.lora_rank, config.lora_alpha, config.seed).eval(),
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        context=min(getattr(model.config, "max_position_embeddings", 1 << 30), tokenizer.model_max_length),
        pad_id=stop_ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, by the model's name."""
    return _from_pretrained(AutoTokenizer, model_path(name), name)


def load_critic(config: Config, policy: Policy) -> Critic:
    """The critic of the algorithm, of prompts or of tokens: a backbone of its own with a scalar head, in float32.

    Raises LabError if the backbone reads other token ids than the policy writes.
    """
    name = critic_model_name(config)
    path = model_path(name)
    tokenizer = load_tokenizer(name)
    if tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise LabError(
            f"critic_model {name!r} has another vocabulary than the policy {config.model!r}, but it must read the "
            "same tokens. Choose a model of the policy's family."
        )
    dtype = torch.float32 if config.critic_lora_rank == 0 else choose_dtype(config.dtype, policy.device)
    backbone = _from_pretrained(AutoModel, path, name, policy.device, dtype)
    hidden_size = backbone.config.get_text_config().hidden_size
    if config.critic_lora_rank > 0:
        backbone = add_lora(backbone, config.critic_lora_rank, 2.0 * config.critic_lora_rank, config.seed)
    kind = get_algorithm(config.algorithm).baseline
    if kind == "prompt":
        critic: Critic = PromptCritic(backbone, hidden_size)
    else:
        critic = TokenCritic(backbone, hidden_size, kind == "token-bce", config.value_clip)
    return critic.to(policy.device).eval()


def critic_model_name(config: Config) -> str:
    """Which model the critic's backbone is: as configured, the policy's own, or its small sibling."""
    if config.critic_model is not None:
        return config.critic_model
    if not get_algorithm(config.algorithm).small_critic:
        return config.model
    if config.model not in SMALL_SIBLING:
        raise LabError(
            f"{config.algorithm} needs a critic smaller than {config.model!r}: name one of the same family with "
            "critic_model (--critic-model)."
        )
    return SMALL_SIBLING[config.model]


def end_token_ids(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every id that ends a response: the tokenizer's, the model's and its generation settings' (often several)."""
    found: list[int] = []
    for source in (tokenizer, model.config, getattr(model, "generation_config", None)):
        ids = getattr(source, "eos_token_id", None)
        found += [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    if not found:
        raise LabError("the model and its tokenizer name no end-of-sequence token: set tokenizer.eos_token.")
    return tuple(dict.fromkeys(found))


def trainable_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Name to parameter of everything that receives gradients."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def model_path(name: str) -> str:
    """The directory of an embedded model, or the name unchanged: a directory or a name on the hub."""
    return str(embedded_models().get(name, name))


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then Apple's MPS, then the CPU; a device that is not there raises LabError."""
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if found[kind]))
    if not found.get(name.split(":")[0], False):
        here = ", ".join(kind for kind, there in found.items() if there)
        raise LabError(f"device {name!r} is not available: this machine has {here}. Use auto to take the best.")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` takes bfloat16 on a GPU that computes in it, else float32.

    ``torch.cuda.is_bf16_supported()`` is true on older GPUs by emulation, so the compute capability decides.
    """
    if name != "auto":
        return getattr(torch, name)
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if fast else torch.float32


def _from_pretrained(kind: type, path: str, name: str, device=None, dtype=None):
    """``kind.from_pretrained(path)``, where every way that can fail becomes one message with the remedy."""
    settings = {} if dtype is None else {"dtype": dtype}
    choices = f"A model is one of {', '.join(embedded_models())}, a directory in the hub's format, or a name on the hub"
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            raise LabError(f"{path} is not a model in the hub's format: it holds no config.json.")
        access = contextlib.nullcontext()
    elif path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path:
        raise LabError(f"cannot load model {name!r}: there is no such directory. {choices}.")
    else:
        access = hub_access(path, "model")
    try:
        with access, _quiet():
            loaded = kind.from_pretrained(path, **settings)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LabError(
            f"cannot load model {name!r}: {reason} {choices} (which needs a network, and a login where the model is "
            "gated)."
        ) from error
    return loaded if device is None else loaded.to(device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' report of what it loaded off the screen: a critic's backbone has no use for an LM head."""
    before = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
