"""The critic of SPPO: one number per prompt, the probability that the policy solves it."""

import torch
from torch import Tensor, nn

from sppo_lab.rollout import position_ids


class PromptCritic(nn.Module):
    """``V(s_p) = sigmoid(head(h))`` with h the backbone's hidden state at the last prompt token.

    The backbone is a transformer of its own (any causal LM without its output layer; it may be smaller than the
    policy).  The head starts at zero, so an untrained critic says 0.5 to every prompt.
    Source: arXiv 2604.08865, section 3; the reference code's ``_forward_prompt_value``.
    """

    def __init__(self, backbone: nn.Module, hidden_size: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """Logits of V, (B,), from prompts (B, P) padded on either side.  The response is never seen."""
        hidden = self.backbone(
            input_ids=prompt_ids, attention_mask=prompt_mask, position_ids=position_ids(prompt_mask)
        ).last_hidden_state
        columns = torch.arange(prompt_mask.shape[1], device=prompt_mask.device)
        last = (columns * prompt_mask).argmax(1)
        at_last = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return self.head(at_last.to(self.head.weight.dtype)).squeeze(1)

    @torch.no_grad()
    def values(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """V(s_p) in [0, 1], (B,), without gradient."""
        return torch.sigmoid(self(prompt_ids, prompt_mask).float())
