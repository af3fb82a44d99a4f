"""SPPO for verl 0.9.1: the advantage ``R - V(s_p)`` and the critic of prompts, learnt by cross-entropy.

verl imports this file in every process of a run that has ``VERL_USE_EXTERNAL_MODULES=sppo_lab.export.verl_plugin``;
the launch script of an export sets it.  It is official extension points, ``register_adv_est``, ``register_trainer`` and
the worker's ``set_loss_fn``, and one patch: ``verl.trainer.ppo.v1.utils.compute_advantage`` hands values to GAE alone,
and SPPO's advantage needs them.

The critic's output is the logit of V.  verl keeps, for each response token, the output at the position before it; so
the first of them belongs to the last prompt token and has seen no response.
"""

from typing import Any

import torch
import verl
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from torch import Tensor
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import register_adv_est
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.trainer.ppo.v1 import utils as trainer_utils
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from sppo_lab.advantage import broadcast_to_tokens, sequence_advantage
from sppo_lab.loss import bce_value_loss

VERSION = "0.9.1"

if verl.__version__ != VERSION:
    raise ImportError(
        f"this export replaces a function of verl {VERSION}, but verl {verl.__version__} is installed: "
        f"pip install verl=={VERSION}"
    )


@register_adv_est("sppo")
def sppo_advantage(
    token_level_rewards: Tensor, response_mask: Tensor, values: Tensor, **_: Any
) -> tuple[Tensor, Tensor]:
    """``R - V(s_p)`` for every response token, and R for the critic, each (B, T) and 0 where masked.

    ``values`` (B, T) are logits.
    """
    rewards = token_level_rewards.sum(1)
    advantage = sequence_advantage(rewards, torch.sigmoid(values[:, 0].float()))
    return broadcast_to_tokens(advantage, response_mask), broadcast_to_tokens(rewards, response_mask)


verls_compute_advantage = trainer_utils.compute_advantage


def compute_advantage(data: DataProto, adv_estimator: str, **options: Any) -> DataProto:
    """verl's function of that name, but for ``sppo``, where the values are handed on."""
    if adv_estimator != "sppo":
        return verls_compute_advantage(data, adv_estimator=adv_estimator, **options)
    batch = data.batch
    batch["advantages"], batch["returns"] = sppo_advantage(
        batch["token_level_rewards"], batch["response_mask"], batch["values"]
    )
    return data


trainer_utils.compute_advantage = compute_advantage


def prompt_critic_loss(
    model_output: dict[str, Tensor], data: TensorDict, dp_group: Any = None
) -> tuple[Tensor, dict[str, Any]]:
    """Cross-entropy of V(s_p) against R, mean over the responses of the mini-batch, and verl's metrics of it.

    A micro-batch adds its part of that mean, and verl averages over the workers: hence ``dp_size``.  A row without
    response tokens is verl's padding and counts nothing.
    """
    logits = no_padding_2_padding(model_output["values"], data)[:, 0]
    padded = data.select("returns", "response_mask").to_padded_tensor()
    present = padded["response_mask"].bool().any(1)
    rewards = padded["returns"][:, 0]
    loss = (bce_value_loss(logits, rewards) * present).sum() / data["global_batch_size"] * data["dp_size"]
    values = torch.sigmoid(logits.detach().float())[present]
    return loss, {
        "critic/vf_loss": Metric(value=loss, aggregation=AggregationType.SUM),
        "critic/prompt_value_mean": values.mean().item() if len(values) else 0.0,
    }


@register_trainer("sppo")
class SPPOTrainer(PPOTrainerSync):
    """verl's synchronous trainer with SPPO's critic loss."""

    def __init__(self, config: DictConfig):
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # verl takes a trainer of any other name for an asynchronous one
        super().__init__(config)

    def on_init_end(self) -> None:
        self.critic_wg.set_loss_fn(prompt_critic_loss)
        super().on_init_end()
