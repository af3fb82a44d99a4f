"""The critics: SPPO's, which says one number per prompt, and PPO's, which says one before every token.

Both are a transformer backbone (any causal LM without its output layer; it may be smaller than the policy, or be the
policy's own under a second adapter) with a scalar head.  The head starts at zero, so an untrained critic says 0.5 where
V is a probability, else 0.
"""

import contextlib
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from sppo_lab.lora import CRITIC, active_adapter, adapter_weights
from sppo_lab.loss import bce_value_loss, clipped_value_loss, token_mean_weights
from sppo_lab.rollout import Rollouts, position_ids


class SharedBackbone(nn.Module):
    """The policy's own transformer, read through the adapter ``critic``: a critic without a base of its own."""

    def __init__(self, model: PeftModel):
        super().__init__()
        self.policy = (model,)  # in a tuple, so that its weights do not count as the critic's
        self.config = model.get_base_model().config
        self.adapter = nn.ParameterList(adapter_weights(model, CRITIC).values())

    @property
    def dtype(self) -> torch.dtype:
        """Of the shared layers; the adapter itself is kept in float32."""
        return self.policy[0].dtype

    def forward(self, **inputs: Any) -> Any:
        """As the transformer without its output layer."""
        with self.active():
            return self.policy[0].get_base_model().base_model(**inputs)

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the shared model runs with the critic's adapter."""
        return active_adapter(self.policy[0], CRITIC)


class Critic(nn.Module):
    """Backbone and scalar head.  ``bce`` makes V a probability, ``sigmoid(head)``, and BCE against R its loss."""

    def __init__(self, backbone: nn.Module, hidden_size: int, bce: bool = True):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(hidden_size, 1)
        self.bce = bce
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The backbone's last hidden states, (B, L, H)."""
        return self.backbone(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask)).last_hidden_state.to(
            self.head.weight.dtype
        )

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Where the critic's gradient is taken: a shared backbone must not go back to the policy before."""
        return self.backbone.active() if isinstance(self.backbone, SharedBackbone) else contextlib.nullcontext()

    def prompt_output(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """The head at the last prompt token, (B,), from prompts (B, P) padded on either side."""
        hidden = self.hidden(prompt_ids, prompt_mask)
        columns = torch.arange(prompt_mask.shape[1], device=prompt_mask.device)
        last = (columns * prompt_mask).argmax(1)
        return self.head(hidden[torch.arange(len(hidden), device=hidden.device), last]).squeeze(1)

    def as_value(self, output: Tensor) -> Tensor:
        """V from what the head says."""
        return torch.sigmoid(output.float()) if self.bce else output.float()

    @torch.no_grad()
    def prompt_values(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """V(s_p), (B,), without gradient."""
        return self.as_value(self.prompt_output(prompt_ids, prompt_mask))


class PromptCritic(Critic):
    """``V(s_p) = sigmoid(head(h))`` with h the hidden state at the last prompt token.  It never sees the response.

    Source: arXiv 2604.08865, section 3; the reference code's ``_forward_prompt_value``.
    """

    def forward(self, batch: Rollouts) -> Tensor:
        """Logits of V(s_p), (B,)."""
        return self.prompt_output(batch.prompt_ids, batch.prompt_mask)

    def losses(self, batch: Rollouts) -> Tensor:
        """BCE of V against R per response, (B,)."""
        return bce_value_loss(self(batch), batch.rewards)

    def weights(self, batch: Rollouts) -> Tensor:
        """How much each element of ``losses`` counts: every response the same, (B,)."""
        return torch.full_like(batch.rewards, 1 / len(batch))


class TokenCritic(Critic):
    """V(s_t) before every response token, read at the position before it; the first one is V(s_p).

    With ``bce`` each V(s_t) is a probability of R = 1 (the paper's ablation ``ppo-bce``), else a number that is
    fitted to the returns by clipped squared error.
    """

    def __init__(self, backbone: nn.Module, hidden_size: int, bce: bool, value_clip: float):
        super().__init__(backbone, hidden_size, bce)
        self.value_clip = value_clip

    def forward(self, batch: Rollouts) -> Tensor:
        """What the head says before each response token, (B, T)."""
        ids = torch.cat([batch.prompt_ids, batch.response_ids], dim=1)
        mask = torch.cat([batch.prompt_mask, batch.response_mask], dim=1)
        hidden = self.hidden(ids, mask)[:, batch.prompt_ids.shape[1] - 1 : -1]
        return self.head(hidden).squeeze(2)

    def losses(self, batch: Rollouts) -> Tensor:
        """(B, T): BCE against R, or clipped squared error against the returns ``A + V`` of the batch."""
        output = self(batch)
        if self.bce:
            return bce_value_loss(output, batch.rewards[:, None].expand_as(output))
        return clipped_value_loss(output.float(), batch.values, batch.returns, self.value_clip)

    def weights(self, batch: Rollouts) -> Tensor:
        """How much each element of ``losses`` counts: every place where an action starts the same, (B, T)."""
        return token_mean_weights(batch.action_starts)
