"""Which of the sampled responses the policy is updated on: all of them, unless an algorithm leaves some out."""

import torch
from torch import Tensor

from sppo_lab.config import Config
from sppo_lab.rollout import Rollouts


def groups_with_signal(rewards: Tensor, group_size: int) -> Tensor:
    """(B / G,) True where the responses to a prompt differ in reward, so that comparing them says something."""
    groups = rewards.view(-1, group_size)
    return groups.amax(1) > groups.amin(1)


def kept_rows(rollouts: Rollouts, config: Config) -> Tensor:
    """Rows that the update uses, in order.

    DAPO (``filter_groups``) leaves out groups without signal and keeps the first ``prompts_per_step`` others; where
    there is no other it keeps all.  CPPO (``prune``) keeps the ``floor(G (1 - prune))`` largest |A| of each group.
    Sources: arXiv 2503.14476, section 3.2; arXiv 2503.22342, eq. 8.
    """
    size = config.group_size
    rows = torch.arange(len(rollouts), device=rollouts.rewards.device).view(-1, size)
    if config.filter_groups:
        signal = groups_with_signal(rollouts.rewards, size)
        if signal.any():
            rows = rows[signal][: config.prompts_per_step]
    if config.prune:
        count = max(1, int(size * (1 - config.prune) + 1e-9))
        strength = rollouts.advantages[:, 0].abs()[rows]
        best = strength.argsort(dim=1, descending=True, stable=True)[:, :count]
        rows = rows.gather(1, best.sort(dim=1).values)
    return rows.flatten()
