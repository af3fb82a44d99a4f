"""LoRA adapters: putting them on a model, choosing among them, folding one into the weights while sampling."""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

POLICY, CRITIC = "default", "critic"  # the adapters on a base that the policy shares with its critic


def add_lora(model: torch.nn.Module, rank: int, alpha: float, seed: int, name: str = POLICY) -> PeftModel:
    """A LoRA adapter on every linear layer of the transformer, without dropout, initialised from ``seed``.

    The adapter is kept in float32 whatever the base's precision.  A model that has one gets a second, not yet active.
    """
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft and transformers warn each other of deprecated names
        torch.manual_seed(seed)
        if not isinstance(model, PeftModel):
            return get_peft_model(model, settings, adapter_name=name)
        model.add_adapter(name, settings)
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
    """Add the adapter into the base weights for a while, so that sampling pays for one matrix product, not three.

    Only in float32: coarser weights would round the adapter away.  Nothing is folded while the adapter is switched
    off.  The base weights come back as exact copies: subtracting what was added would leave rounding behind.
    """
    adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if model.dtype != torch.float32 or any(module.disable_adapters for module in adapted):
        yield
        return
    layers = [module.get_base_layer() for module in adapted]
    saved = [layer.weight.detach().clone() for layer in layers]
    model.merge_adapter()
    try:
        yield
    finally:
        model.unmerge_adapter()
        for layer, weight in zip(layers, saved, strict=True):
            layer.weight.data.copy_(weight)
