"""Loading: a causal LM with a LoRA adapter as the policy, a transformer with a scalar head as the critic."""

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from sppo_lab.algorithms import get_algorithm
from sppo_lab.assets import embedded_models
from sppo_lab.config import Config
from sppo_lab.errors import LabError, first_line
from sppo_lab.hub import hub_access
from sppo_lab.lora import CRITIC, POLICY, adapter_weights, add_lora
from sppo_lab.model_check import check_model
from sppo_lab.parallel import local_device
from sppo_lab.samplers import SAMPLERS
from sppo_lab.value import Critic, PromptCritic, SharedBackbone, TokenCritic

SMALL_SIBLING = {"tiny": "tiny-small"}  # the backbone of sppo-small-critic, where the lab ships one


@dataclass(frozen=True)
class Policy:
    """A causal LM with a LoRA adapter, and what is needed to sample from it."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]  # every token id that ends a response
    context: int  # prompt and response tokens together, at most
    pad_id: int  # fills the rectangle; masks come from lengths, so any id would do
    sampler: Callable[..., tuple[Tensor, Tensor, Tensor]] = SAMPLERS["lab"]  # writes responses: see samplers

    @property
    def weights(self) -> dict[str, torch.nn.Parameter]:
        """What training changes: the adapter's parameters by name."""
        return adapter_weights(self.model, POLICY)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def endless(self) -> "Policy":
        """The same, but no token ends a response, so that every one runs to its limit."""
        return replace(self, stop_ids=(-1,))


def load_policy(config: Config) -> Policy:
    """The model of the configuration with a fresh LoRA adapter; its base weights are frozen.

    It stays in evaluation mode: dropout would make the ratio differ from 1 before any update.
    """
    device = choose_device(config.device)
    model = _from_pretrained(AutoModelForCausalLM, config.model, device, **base_options(config, device))
    if config.gradient_checkpointing:
        recompute_activations(model)
    tokenizer = load_tokenizer(config.model)
    stop_ids = end_token_ids(model, tokenizer)
    policy = Policy(
        model=add_lora(model, config.lora_rank, config.lora_alpha, config.seed).eval(),
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        context=min(getattr(model.config, "max_position_embeddings", 1 << 30), tokenizer.model_max_length),
        pad_id=stop_ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )
    return replace(policy, sampler=SAMPLERS[check_model(policy, config.model, config.sampler)])


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, by the model's name.  Raises LabError for one that knows no tokens."""
    tokenizer = _from_pretrained(AutoTokenizer, name)
    if not tokenizer("1 + 1")["input_ids"]:  # transformers makes an empty one where its files are missing
        raise LabError(
            f"model {name!r} comes without a tokenizer. Put the files of the one it was trained with (tokenizer.json, "
            "tokenizer_config.json) into its directory."
        )
    return tokenizer


def load_model_config(name: str) -> PreTrainedConfig:
    """The configuration of a model, by the model's name, without its weights."""
    return _from_pretrained(AutoConfig, name).get_text_config()


def load_critic(config: Config, policy: Policy) -> Critic:
    """The critic of the algorithm, of prompts or of tokens: a backbone with a scalar head in float32."""
    backbone = shared_backbone(config, policy) if config.critic == "adapter" else own_backbone(config, policy)
    hidden_size = backbone.config.get_text_config().hidden_size
    kind = get_algorithm(config.algorithm).baseline
    if kind == "prompt":
        critic: Critic = PromptCritic(backbone, hidden_size)
    else:
        critic = TokenCritic(backbone, hidden_size, kind == "token-bce", config.value_clip)
    return critic.to(policy.device).eval()


def shared_backbone(config: Config, policy: Policy) -> SharedBackbone:
    """The policy's base under a second adapter: a critic that adds next to nothing to the memory.

    Raises LabError where the algorithm or the configuration asks for another model.
    """
    if critic_model_name(config) != config.model:
        raise LabError(
            'critic = "adapter" reads the policy\'s own base, so it goes neither with critic_model nor with '
            "sppo-small-critic: leave one of them out."
        )
    rank = config.critic_lora_rank or config.lora_rank
    return SharedBackbone(add_lora(policy.model, rank, 2.0 * rank, config.seed, CRITIC))


def own_backbone(config: Config, policy: Policy) -> torch.nn.Module:
    """A transformer beside the policy's, trained whole in float32 or by LoRA.

    Raises LabError if it reads other token ids than the policy writes.
    """
    name = critic_model_name(config)
    tokenizer = load_tokenizer(name)
    if tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise LabError(
            f"critic_model {name!r} has another vocabulary than the policy {config.model!r}, but it must read the "
            "same tokens. Choose a model of the policy's family."
        )
    rank = config.critic_lora_rank
    whole = config.replace(dtype="float32", quantize=None)  # all of it is trained
    options = base_options(whole if rank == 0 else config, policy.device)
    backbone = _from_pretrained(AutoModel, name, policy.device, **options)
    backbone.config.use_cache = False
    if config.gradient_checkpointing:
        recompute_activations(backbone)
    return backbone if rank == 0 else add_lora(backbone, rank, 2.0 * rank, config.seed)


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
        raise LabError(
            "the model and its tokenizer name no end-of-sequence token, so no response could end. Set eos_token in the "
            "tokenizer_config.json of a local copy to the token that its training texts end with."
        )
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
        return local_device(next(kind for kind in ("cuda", "mps", "cpu") if found[kind]))
    if not found.get(name.split(":")[0], False):
        here = ", ".join(kind for kind, there in found.items() if there)
        raise LabError(f"device {name!r} is not available: this machine has {here}. Use auto to take the best.")
    return local_device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of that name; ``auto`` is the best that the device computes in."""
    if name != "auto":
        return getattr(torch, name)
    return best_dtype(torch.cuda.get_device_capability(device) if device.type == "cuda" else None)


def best_dtype(capability: tuple[int, int] | None) -> torch.dtype:
    """bfloat16 from compute capability 8 on, float16 on an older GPU, float32 where there is no CUDA GPU (None).

    ``torch.cuda.is_bf16_supported()`` is true on older GPUs by emulation, so the compute capability decides.
    """
    if capability is None:
        return torch.float32
    return torch.bfloat16 if capability >= (8, 0) else torch.float16


def base_options(config: Config, device: torch.device) -> dict[str, Any]:
    """How ``from_pretrained`` is to load the weights.  Raises LabError if a library that this needs is missing."""
    dtype = choose_dtype(config.dtype, device)
    options: dict[str, Any] = {"dtype": dtype}
    if config.attention != "auto":
        options["attn_implementation"] = config.attention
    if config.quantize == "4bit":
        if device.type != "cuda":  # on a CPU bitsandbytes 0.50 packs weights anew in sampling, and loses gradients
            raise LabError(f"quantize = '4bit' needs a CUDA GPU and the device is {device.type}: leave quantize out.")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise LabError("quantize = '4bit' needs the bitsandbytes library: pip install bitsandbytes")
        # Multiplied in half precision in any case: sampling folds an adapter into float32 weights only.
        half = torch.bfloat16 if dtype == torch.float32 else dtype
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=half,
        )
        options |= {"dtype": half, "quantization_config": settings, "device_map": {"": device}}
    return options


def recompute_activations(model: PreTrainedModel) -> None:
    """Gradient checkpointing in evaluation mode: each layer runs a second time in the backward pass.

    Transformers does so in training mode only.  Here the layers alone are in that mode, and only while gradients are
    recorded; what lies in them stays as it is, without dropout.  Sampling keeps its cache.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of its new name, which older versions do not have
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise LabError(
            f"{model.name_or_path} has no gradient checkpointing: set gradient_checkpointing off."
        ) from error
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:  # some call dropout themselves, with a rate of their own
        for name, value in vars(layer).items():
            if "drop" in name and isinstance(value, float):
                setattr(layer, name, 0.0)

    def switch(*_: Any) -> None:
        for layer in layers:
            layer.training = torch.is_grad_enabled()

    model.base_model.register_forward_pre_hook(switch)


def _from_pretrained(kind: type, name: str, device: torch.device | None = None, **options: Any) -> Any:
    """``kind.from_pretrained``, where every way that can fail becomes one message with the remedy."""
    path = model_path(name)
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
            loaded = kind.from_pretrained(path, **options)
    except LabError as error:  # what the hub said
        raise LabError(f"cannot load model {name!r}: {error}") from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = first_line(error)
        raise LabError(f"cannot load model {name!r}: {reason} {choices}.") from error
    return loaded if device is None or "device_map" in options else loaded.to(device)


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
