"""Every advantage and loss against verl 0.9.1 and TRL 1.16.0, on the random ragged batches of record.py."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sppo_lab.advantage import (
    broadcast_to_tokens,
    divide_by_group_std,
    generalized_advantage,
    greedy_advantage,
    group_mean_advantage,
    leave_one_out_advantage,
    overlong_penalty,
    whiten,
)
from sppo_lab.loss import (
    KL_ESTIMATORS,
    TOKEN_WEIGHTS,
    clipped_surrogate,
    clipped_value_loss,
    kl_k3,
    probability_ratio,
    sequence_ratio,
)

GROUP_SIZE = 4
VERL_MODES = list(TOKEN_WEIGHTS)
TRL_MODES = {"grpo": "seq-mean-token-mean", "bnpo": "token-mean", "dr_grpo": "seq-mean-token-sum-norm"}


class Recorded:
    """One batch: what went in and what the two libraries said."""

    def __init__(self, file, seed: int):
        self.file, self.seed = file, seed
        self.limit = int(file.metadata()["limit"])
        self.mask = self["mask"]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.file.get_tensor(f"{self.seed}/{name}")

    def same(self, found: torch.Tensor, name: str) -> None:
        torch.testing.assert_close(found, self[name], atol=1e-5, rtol=1e-5)

    def same_on_response(self, found: torch.Tensor, name: str) -> None:
        torch.testing.assert_close(found * self.mask, self[name] * self.mask, atol=1e-5, rtol=1e-5)


@pytest.fixture(params=range(4))
def batch(request):
    with safe_open(Path(__file__).with_name("expected.safetensors"), "pt") as file:
        assert (file.metadata()["verl"], file.metadata()["trl"]) == ("0.9.1", "1.16.0")
        yield Recorded(file, request.param)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.95, 0.9)])
def test_gae(batch, gamma, lam):
    found = generalized_advantage(batch["rewards"], batch["values"], batch.mask, gamma, lam)
    batch.same_on_response(whiten(found, batch.mask), f"verl/gae/{gamma}/{lam}/advantages")
    batch.same_on_response(found + batch["values"], f"verl/gae/{gamma}/{lam}/returns")


def test_group_advantages(batch):
    rewards = batch["rewards"]
    centred = group_mean_advantage(rewards, GROUP_SIZE)
    for advantage, name in (
        (centred, "dr-grpo"),
        (divide_by_group_std(centred, rewards, GROUP_SIZE), "grpo"),
        (leave_one_out_advantage(rewards, GROUP_SIZE), "rloo"),
        (greedy_advantage(rewards, batch["greedy_rewards"]), "remax"),
    ):
        batch.same(broadcast_to_tokens(advantage, batch.mask), f"verl/{name}")


def policy_loss(batch, advantages, mode, *, sequence=False, kl_coef=0.0, **bounds):
    """The lab's loss and its gradient with respect to the log-probabilities."""
    logprobs = batch["logprobs"].requires_grad_()
    if sequence:
        ratio = sequence_ratio(logprobs, batch["old_logprobs"], batch.mask)
    else:
        ratio = probability_ratio(logprobs, batch["old_logprobs"])
    losses = clipped_surrogate(ratio, advantages, 0.2, **bounds)
    losses = losses + kl_coef * kl_k3(logprobs, batch["reference_logprobs"])
    loss = (losses * TOKEN_WEIGHTS[mode](batch.mask, batch.limit)).sum()
    loss.backward()
    return loss.detach(), logprobs.grad


@pytest.mark.parametrize("mode", VERL_MODES)
def test_clipped_loss_with_dual_clip_in_every_aggregation(batch, mode):
    loss, gradient = policy_loss(batch, batch["advantages"], mode, dual_clip=3.0)
    batch.same(loss, f"verl/policy/{mode}/loss")
    batch.same(gradient, f"verl/policy/{mode}/gradient")


def test_clip_higher(batch):
    loss, gradient = policy_loss(batch, batch["advantages"], "token-mean", epsilon_high=0.28, dual_clip=1.5)
    batch.same(loss, "verl/policy/clip-higher/loss")
    batch.same(gradient, "verl/policy/clip-higher/gradient")


def test_the_ratio_of_the_whole_response(batch):
    advantages = broadcast_to_tokens(batch["sequence_advantages"], batch.mask)
    loss, gradient = policy_loss(batch, advantages, "seq-mean-token-mean", sequence=True)
    batch.same(loss, "verl/policy/gspo/loss")
    batch.same(gradient, "verl/policy/gspo/gradient")


@pytest.mark.parametrize(("loss_type", "level"), [(name, "token") for name in TRL_MODES] + [("grpo", "sequence")])
def test_trls_loss_with_its_penalty(batch, loss_type, level):
    advantages = broadcast_to_tokens(batch["sequence_advantages"], batch.mask)
    loss, gradient = policy_loss(
        batch, advantages, TRL_MODES[loss_type], sequence=level == "sequence", kl_coef=0.04, epsilon_high=0.28
    )
    batch.same(loss, f"trl/{loss_type}/{level}/loss")
    batch.same(gradient, f"trl/{loss_type}/{level}/gradient")


def test_value_loss(batch):
    losses = clipped_value_loss(batch["new_values"], batch["values"], batch["advantages"], 0.2)
    batch.same((losses * TOKEN_WEIGHTS["token-mean"](batch.mask)).sum(), "verl/value")


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_kl_estimators(batch, name):
    batch.same(KL_ESTIMATORS[name](batch["logprobs"], batch["reference_logprobs"]), f"verl/kl/{name}")


def test_logprobs_and_entropy(batch):
    """As ``response_logprobs`` computes them from logits."""
    logits = torch.stack([batch["values"], batch["logprobs"], batch["advantages"]], -1)
    scores = logits.log_softmax(-1)
    batch.same(scores.gather(2, batch.mask[..., None]).squeeze(2), "trl/logprobs")
    batch.same(-(scores.exp() * scores).sum(-1), "trl/entropy")


def test_overlong_penalty(batch):
    batch.same(overlong_penalty(torch.arange(1, 25), limit=20, buffer=0.2), "trl/overlong")
