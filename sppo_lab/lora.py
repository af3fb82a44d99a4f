"""LoRA adapters: putting them on a model, choosing among them, folding one into the weights while sampling."""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer

from sppo_lab.errors import LabError

POLICY, CRITIC = "default", "critic"  # the adapters on a base that the policy shares with its critic


def add_lora(model: torch.nn.Module, rank: int, alpha: float, seed: int, name: str = POLICY) -> PeftModel:
    """A LoRA adapter on every linear layer of the transformer, without dropout, initialised from ``seed``.

    The adapter is kept in float32 whatever the base's precision.  A model that has one gets a second, not yet active.
    Raises LabError for an architecture that peft cannot adapt.
    """
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft and transformers warn each other of deprecated names
        torch.manual_seed(seed)
        try:
            if not isinstance(model, PeftModel):
                return get_peft_model(model, settings, adapter_name=name)
            model.add_adapter(name, settings)
        except ValueError as error:
            raise LabError(
                f"peft cannot put a LoRA adapter on every linear layer of model {model.name_or_path!r}, whose "
                f"architecture is {model.config.model_type}. Choose a model of another architecture."
            ) from error
    for weight in adapter_weights(model, name).values():
        weight.requires_grad_(True)
    return model


def adapter_weights(model: PeftModel, name: str) -> dict[str, torch.nn.Parameter]:
    """Name to parameter of one adapter; empty where the model has none of that name."""
    return {
        place: weight
        for place, weight in model.named_parameters()
        if f".lora_A.{name}." in place or f".lora_B.{name}." in place
    }


@contextlib.contextmanager
def active_adapter(model: PeftModel, name: str) -> Iterator[None]:
    """Run the model with another of its adapters for a while.

    A gradient through checkpointed layers runs them again, so it must be taken in here too.  All adapters stay
    trainable: peft's own switch freezes those that it leaves.
    """
    before = model.active_adapter
    _activate(model, name)
    try:
        yield
    finally:
        _activate(model, before)


def _activate(model: PeftModel, name: str) -> None:
    if model.active_adapter == name:
        return
    model.set_adapter(name)
    for place, weight in model.named_parameters():
        if ".lora_" in place:
            weight.requires_grad_(True)


@contextlib.contextmanager
def folded_adapter(model: PeftModel) -> Iterator[None]:
    """Put plain layers with the adapter added into their weights in place for a while, without gradients.

    Sampling then pays for one matrix product per layer, not three.  Only in float32: coarser weights would round the
    adapter away.  Nothing is folded while the adapter is switched off.  The base weights come back as exact copies:
    subtracting what was added would leave rounding behind.
    """
    adapted = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) and not isinstance(module, ParamWrapper)  # of the experts of a mixture
    }
    plain = {path: module.get_base_layer() for path, module in adapted.items()}
    if any(layer.weight.dtype != torch.float32 for layer in plain.values()) or any(
        module.disable_adapters for module in adapted.values()
    ):
        yield
        return
    saved = {path: layer.weight.detach().clone() for path, layer in plain.items()}
    try:
        for path, module in adapted.items():
            for name in module.active_adapters:
                plain[path].weight.data += module.get_delta_weight(name)
            model.set_submodule(path, plain[path])
        yield
    finally:
        for path, module in adapted.items():
            plain[path].weight.data.copy_(saved[path])
            model.set_submodule(path, module)
