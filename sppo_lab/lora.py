"""LoRA adapters: putting them on a model, choosing among them, folding one into the weights while sampling."""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from sppo_lab.errors import LabError

POLICY, CRITIC = "default", "critic"  # the adapters on a base that the policy shares with its critic


def add_lora(model: nn.Module, rank: int, alpha: float, seed: int, name: str = POLICY) -> PeftModel:
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


def adapter_weights(model: PeftModel, name: str) -> dict[str, nn.Parameter]:
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


class SlimLora(nn.Module):
    """A layer and its adapter in the layer's precision, ``W x + b + up (down x)``: half as many kernels as in peft.

    ``down`` (rank, in) and ``up`` (out, rank), which holds the scale.
    """

    def __init__(self, layer: nn.Module, down: Tensor, up: Tensor):
        super().__init__()
        self.layer, self.down, self.up = layer, down, up

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + linear(linear(x, self.down), self.up)


@contextlib.contextmanager
def folded_adapter(model: PeftModel) -> Iterator[None]:
    """Put plainer layers in the place of peft's for a while, without gradients: sampling is then much faster.

    In float32 the adapter is added into the weights, so that a layer is one matrix product and not three.  Coarser
    weights would round it away: there it stays beside them, in their precision.  Nothing is done while the adapter is
    switched off.  The base weights come back as exact copies: subtracting what was added would leave rounding behind.
    """
    adapted = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) and not isinstance(module, ParamWrapper)  # of the experts of a mixture
    }
    if any(module.disable_adapters for module in adapted.values()):
        yield
        return
    saved: dict[str, Tensor] = {}
    try:
        for path, module in adapted.items():
            layer, name = module.get_base_layer(), model.active_adapter
            if layer.weight.dtype == torch.float32:
                saved[path] = layer.weight.detach().clone()
                layer.weight.data += module.get_delta_weight(name)
            else:
                down, up = module.lora_A[name].weight, module.lora_B[name].weight * module.scaling[name]
                dtype = layer.weight.dtype if layer.weight.is_floating_point() else model.dtype  # else it is packed
                layer = SlimLora(layer, down.detach().to(dtype), up.detach().to(dtype))
            model.set_submodule(path, layer)
        yield
    finally:
        for path, module in adapted.items():
            if path in saved:
                module.get_base_layer().weight.data.copy_(saved[path])
            model.set_submodule(path, module)
