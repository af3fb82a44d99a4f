"""Shallow models: the architecture of a given one with fewer layers and random weights, to rehearse with.

Where layers differ, such as attention after every three recurrent ones, whole repeats of their pattern are kept.
"""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from sppo_lab.models import load_model_config, load_tokenizer

MORE = 4  # layers, at least, by which the larger rehearsal exceeds the smaller: what is left out multiplies the noise
ROOM = 2**31  # bytes of float32 weights in the layers of a rehearsal, at most, if they are more than that


def rehearsed_depths(config: PreTrainedConfig, whole: bool = False) -> tuple[int, int]:
    """How many layers the smaller and the larger rehearsal have; both all of them, where fewer cannot be had.

    ``whole``: also where all have room.
    """
    depth = config.num_hidden_layers
    try:
        kinds = layer_kinds(config)
        fewest, period = pattern(kinds)
        layer_kinds(with_layers(config, fewest))
    except Exception:  # whatever an architecture raises that does not know what to do with fewer layers
        return depth, depth
    bytes_per_layer = sum(4 * math.prod(shape) for _, shapes in kinds for shape in shapes) / depth
    if whole and depth * bytes_per_layer <= ROOM:
        return depth, depth
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


def shallow_model(name: str, layers: int, folder: Path) -> str:
    """A model of that architecture with ``layers`` layers and random weights, in a directory; returns its path."""
    path = folder / f"{zlib.crc32(name.encode()):08x}-{layers}"
    if not path.exists():
        AutoModelForCausalLM.from_config(with_layers(load_model_config(name), layers)).save_pretrained(path)
        load_tokenizer(name).save_pretrained(path)
    return str(path)
