import math

import pytest
import torch

from sppo_lab.errors import LabError
from sppo_lab.loss import (
    TOKEN_WEIGHTS,
    bce_value_loss,
    clipped_high,
    clipped_low,
    clipped_surrogate,
    clipped_value_loss,
    kl_k1,
    kl_k2,
    kl_k3,
    probability_ratio,
    sequence_ratio,
)


def one(ratio: float, advantage: float, epsilon: float = 0.2, **bounds: float):
    """Loss and gradient of a single token with that ratio and advantage."""
    logprob = torch.tensor([[math.log(ratio)]], requires_grad=True)
    loss = clipped_surrogate(logprob.exp(), torch.tensor([[advantage]]), epsilon, **bounds)
    loss.sum().backward()
    return loss.item(), logprob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 0.5, -0.5, -0.5),
        (1.1, 0.5, -0.55, -0.55),
        (1.5, 0.5, -0.6, 0.0),  # above 1.2 with A > 0: clipped
        (0.5, 0.5, -0.25, -0.25),  # below 0.8 with A > 0: not clipped
        (0.5, -0.5, 0.4, 0.0),  # below 0.8 with A < 0: clipped
        (1.5, -0.5, 0.75, 0.75),  # above 1.2 with A < 0: not clipped
        (1.3, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, gradient):
    assert one(ratio, advantage) == pytest.approx((loss, gradient), abs=1e-6)


def test_clip_higher_moves_the_upper_bound_only():
    assert one(1.25, 1.0, epsilon_high=0.28) == pytest.approx((-1.25, -1.25))
    assert one(1.5, 1.0, epsilon_high=0.28) == pytest.approx((-1.28, 0.0))
    assert one(0.5, -1.0, epsilon_high=0.28) == pytest.approx((0.8, 0.0))


def test_the_clip_regions_are_where_the_gradient_vanishes():
    torch.manual_seed(0)
    logprobs = torch.randn(50, 7, requires_grad=True)
    advantages = torch.randn(50, 7)
    clipped_surrogate(logprobs.exp(), advantages, 0.2, 0.3).sum().backward()
    ratio = probability_ratio(logprobs.detach(), torch.zeros(50, 7))
    clipped = clipped_low(ratio, advantages, 0.2) | clipped_high(ratio, advantages, 0.3)
    assert clipped.any() and not clipped.all()
    assert torch.equal(logprobs.grad == 0, clipped)


def test_first_pass_loss_is_near_zero_but_its_gradient_is_not():
    """Trap 1: with ratio 1 the loss is minus the mean advantage."""
    logprobs = torch.full((2, 3), -1.0, requires_grad=True)
    advantages = torch.tensor([[0.5] * 3, [-0.5] * 3])
    loss = (clipped_surrogate(probability_ratio(logprobs, logprobs.detach()), advantages, 0.2) / 6).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-7)
    torch.testing.assert_close(logprobs.grad, -advantages / 6)


def test_token_weights_by_hand():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    torch.testing.assert_close(TOKEN_WEIGHTS["token-mean"](mask), mask / 4)
    torch.testing.assert_close(
        TOKEN_WEIGHTS["seq-mean-token-mean"](mask), torch.tensor([[1 / 6, 1 / 6, 1 / 6], [1 / 2, 0.0, 0.0]])
    )
    torch.testing.assert_close(TOKEN_WEIGHTS["seq-mean-token-sum"](mask), mask / 2)
    torch.testing.assert_close(TOKEN_WEIGHTS["seq-mean-token-sum-norm"](mask, 10), mask / 20)
    for name in ("token-mean", "seq-mean-token-mean"):
        assert TOKEN_WEIGHTS[name](mask).sum().item() == pytest.approx(1.0)


def test_an_empty_mask_gives_weights_of_zero_not_nan():
    """Every response truncated and left out: there is nothing to learn from, and nothing breaks."""
    for weights in TOKEN_WEIGHTS.values():
        assert not weights(torch.zeros(2, 3), 5).any()


def test_dual_clip_bounds_the_loss_of_a_wrong_response():
    assert one(5.0, -1.0) == pytest.approx((5.0, 5.0))
    assert one(5.0, -1.0, dual_clip=3.0) == pytest.approx((3.0, 0.0))
    assert one(2.0, -1.0, dual_clip=3.0) == pytest.approx((2.0, 2.0))
    assert one(5.0, 1.0, dual_clip=3.0) == pytest.approx((-1.2, 0.0))


def test_the_sequence_ratio_is_the_geometric_mean_of_the_token_ratios():
    logprobs, old = torch.tensor([[0.2, -0.4, 9.0], [0.3, 0.1, -0.1]]), torch.zeros(2, 3)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    found = sequence_ratio(logprobs, old, mask)
    torch.testing.assert_close(found, torch.tensor([[math.exp(-0.1)] * 3, [math.exp(0.1)] * 3]))


def test_the_estimators_of_the_kl_divergence_by_enumeration():
    """k1 and k3 have the divergence as their mean; the gradient of k2's mean is the divergence's, as k1's is not."""
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    reference = torch.randn(6, generator=torch.Generator().manual_seed(1)).double().log_softmax(0)
    logprobs = logits.log_softmax(0)
    probs = logprobs.exp()
    exact = (probs * (logprobs - reference)).sum()
    for estimator in (kl_k1, kl_k3):
        torch.testing.assert_close((probs * estimator(logprobs, reference)).sum(), exact)
    assert (kl_k2(logprobs, reference) >= 0).all() and (kl_k3(logprobs, reference) >= 0).all()
    (wanted,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (found,) = torch.autograd.grad((probs.detach() * kl_k2(logprobs, reference)).sum(), logits, retain_graph=True)
    torch.testing.assert_close(found, wanted)
    (nothing,) = torch.autograd.grad((probs.detach() * kl_k1(logprobs, reference)).sum(), logits)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing))


def test_the_clipped_value_loss_by_hand():
    values, old, returns = torch.tensor([0.9, 0.9, 0.1]), torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 1.0])
    found = clipped_value_loss(values, old, returns, 0.2)
    torch.testing.assert_close(found, 0.5 * torch.tensor([0.3**2, 0.9**2, 0.9**2]))


def test_bce_is_the_negative_log_likelihood():
    logits, rewards = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, 0.0])
    by_hand = [math.log(2), math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))]
    torch.testing.assert_close(bce_value_loss(logits, rewards), torch.tensor(by_hand))


def test_a_constant_critic_is_best_at_the_mean_reward():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0])
    logit = torch.tensor([math.log(0.4 / 0.6)], requires_grad=True)
    bce_value_loss(logit.expand(5), rewards).mean().backward()
    assert logit.grad.item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_bce_refuses_rewards_outside_the_unit_interval(wrong):
    """Trap 7."""
    with pytest.raises(LabError, match=r"rewards in \[0, 1\]"):
        bce_value_loss(torch.zeros(2), torch.tensor([1.0, wrong]))
