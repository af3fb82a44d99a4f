"""A trainer on disk, in one directory: everything that the next step depends on.

adapter/             the policy's LoRA adapter, in peft's format
critic.safetensors   the critic's trained weights, where there is a critic
trainer.pt           optimizers, random state, counters
"""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import load_peft_weights, set_peft_model_state_dict

from sppo_lab.errors import LabError
from sppo_lab.lora import POLICY
from sppo_lab.models import Policy, trainable_parameters
from sppo_lab.storage import PARTIAL, sync, write_text
from sppo_lab.trainer import Trainer
from sppo_lab.value import Critic


def save_checkpoint(folder: Path, trainer: Trainer) -> None:
    """Write under another name and rename when everything is on the disk."""
    partial = folder.with_name(folder.name + PARTIAL)
    for stale in (partial, folder):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    save_adapter(trainer.policy, partial / "adapter")
    if trainer.critic is not None:
        trained = trainable_parameters(trainer.critic)
        weights = {name: weight.detach().contiguous() for name, weight in trained.items()}
        (partial / "critic.safetensors").write_bytes(safetensors.torch.save(weights))
    write_tensors(partial / "trainer.pt", trainer.state_dict())
    for file in partial.rglob("*"):
        if file.is_file():
            sync(file)
    os.replace(partial, folder)


def load_checkpoint(folder: Path, trainer: Trainer) -> None:
    """Put a trainer of the same configuration where ``save_checkpoint`` left it.  LabError if a file is damaged."""
    load_weights(folder, trainer.policy, trainer.critic)
    trainer.load_state_dict(_read(folder / "trainer.pt", torch.load, weights_only=True))


def load_weights(folder: Path, policy: Policy, critic: Critic | None) -> None:
    """Only the adapter and the critic, for measuring."""
    device = str(policy.device)
    set_peft_model_state_dict(policy.model, _read(folder / "adapter", load_peft_weights, device=device))
    if critic is not None:
        weights = _read(folder / "critic.safetensors", safetensors.torch.load_file, device=device)
        with torch.no_grad():
            for name, weight in trainable_parameters(critic).items():
                weight.copy_(weights[name])


def save_adapter(policy: Policy, folder: Path) -> None:
    """The policy's adapter as peft reads it, without the critic's where that shares the base."""
    policy.model.save_pretrained(folder, selected_adapters=[POLICY])


def save_evidence(folder: Path, trainer: Trainer, error: Exception) -> None:
    """What is needed to understand why training broke down: adapter, optimizers, the latest batch, the message."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_adapter(trainer.policy, folder / "adapter")
    batch = trainer.rollouts and vars(trainer.rollouts)
    write_tensors(folder / "state.pt", {"error": str(error), "trainer": trainer.state_dict(), "rollouts": batch})
    write_text(folder / "message.txt", f"{error}\n")


def write_tensors(path: Path, content: Any) -> None:
    """What torch.save would write.  Written by us, a full disk is an OSError like any other."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())


def _read(path: Path, read: Any, **options: Any) -> Any:
    try:
        return read(str(path), **options)
    except Exception as error:  # whatever the library raises, the remedy is the same
        checkpoint = next(parent for parent in (path, *path.parents) if parent.name.startswith("step-"))
        raise LabError(
            f"{path} is missing or damaged ({type(error).__name__}). Delete the directory {checkpoint} to go on from "
            "the checkpoint before it, or start again with --overwrite."
        ) from error
