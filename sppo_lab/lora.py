"""The LoRA adapter: putting it on a model, and folding it into the weights while sampling."""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer


def add_lora(model: torch.nn.Module, rank: int, alpha: float, seed: int) -> PeftModel:
    """A LoRA adapter on every linear layer of the transformer, without dropout, initialised from ``seed``.

    The adapter is kept in float32 whatever the base's precision.
    """
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft and transformers warn each other of deprecated names
        torch.manual_seed(seed)
        return get_peft_model(model, settings)


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
