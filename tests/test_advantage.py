"""Exact properties of the estimators: for 0/1 rewards every expectation is a sum of two terms."""

import itertools
import math

import pytest
import torch

from sppo_lab.advantage import (
    batch_mean_advantage,
    broadcast_to_tokens,
    divide_by_group_std,
    generalized_advantage,
    greedy_advantage,
    group_mean_advantage,
    leave_one_out_advantage,
    overlong_penalty,
    sequence_advantage,
    stepwise_advantage,
    whiten,
)


def expectation(p: float, group_size: int, function) -> torch.Tensor:
    """Exact mean of ``function(rewards)`` over every outcome of G Bernoulli(p) rewards."""
    total = torch.zeros(group_size, dtype=torch.double)
    for outcome in itertools.product((0.0, 1.0), repeat=group_size):
        rewards = torch.tensor(outcome, dtype=torch.double)
        total += math.prod(p if r else 1 - p for r in outcome) * function(rewards)
    return total


def ragged(seed: int = 0, rows: int = 6, width: int = 9):
    """Rewards, token values with rubbish where masked, and a mask of random lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    mask = (torch.arange(width) < lengths[:, None]).long()
    rewards = torch.randint(0, 2, (rows,), generator=generator).double()
    return rewards, torch.randn(rows, width, generator=generator).double(), mask


def test_sequence_advantage_by_hand():
    rewards, values = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.25, 0.25, 1.0])
    assert sequence_advantage(rewards, values).tolist() == [0.75, -0.25, 0.0]


def test_the_second_moment_is_bernoulli_noise_plus_the_critics_error():
    """``E[A^2] = p(1-p) + (p-V)^2`` for each prompt, by enumeration of R in {0, 1}."""
    p, v = torch.rand(1000, dtype=torch.double), torch.rand(1000, dtype=torch.double)
    right, wrong = sequence_advantage(torch.ones_like(p), v), sequence_advantage(torch.zeros_like(p), v)
    second_moment = p * right**2 + (1 - p) * wrong**2
    torch.testing.assert_close(second_moment, p * (1 - p) + (p - v) ** 2)
    mean = p * right + (1 - p) * wrong
    torch.testing.assert_close(second_moment - mean**2, p * (1 - p))  # Var(A | s_p) does not depend on V
    assert right.abs().max() <= 1 and wrong.abs().max() <= 1


def test_a_wrong_value_leaves_the_policy_gradient_unbiased():
    """A bandit with four actions: the exact gradient of the expected reward, whatever V is."""
    logits = torch.tensor([0.3, -1.2, 0.8, 0.0], dtype=torch.double, requires_grad=True)
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.double)
    probs = logits.softmax(0)
    (exact,) = torch.autograd.grad((probs * rewards).sum(), logits, retain_graph=True)
    for value in (0.0, 0.4, 1.0):
        advantage = sequence_advantage(rewards, torch.full((4,), value, dtype=torch.double))
        surrogate = (probs.detach() * advantage * probs.log()).sum()
        (found,) = torch.autograd.grad(surrogate, logits, retain_graph=True)
        torch.testing.assert_close(found, exact)


def test_batch_mean_advantage_is_centred():
    assert batch_mean_advantage(torch.tensor([1.0, 0.0, 0.0, 1.0])).tolist() == [0.5, -0.5, -0.5, 0.5]


def test_broadcasting_reaches_response_tokens_only():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert broadcast_to_tokens(torch.tensor([0.5, -2.0]), mask).tolist() == [[0.5, 0.5, 0.0], [-2.0, 0.0, 0.0]]


@pytest.mark.parametrize(("p", "group_size"), [(0.3, 2), (0.7, 4), (0.1, 8)])
def test_the_variance_of_the_group_estimators_by_enumeration(p, group_size):
    """RLOO: p(1-p) G/(G-1).  Without the factor: p(1-p) (G-1)/G.  Both have mean 0."""
    noise = p * (1 - p)
    for estimator, factor in (
        (leave_one_out_advantage, group_size / (group_size - 1)),
        (group_mean_advantage, (group_size - 1) / group_size),
    ):
        mean = expectation(p, group_size, lambda r, e=estimator: e(r, group_size))
        second = expectation(p, group_size, lambda r, e=estimator: e(r, group_size) ** 2)
        torch.testing.assert_close(mean, torch.zeros(group_size, dtype=torch.double), atol=1e-12, rtol=0)
        torch.testing.assert_close(second, torch.full((group_size,), noise * factor, dtype=torch.double))


@pytest.mark.parametrize(("p", "group_size"), [(0.3, 2), (0.5, 4), (0.1, 8)])
def test_the_share_of_groups_without_signal(p, group_size):
    silent = expectation(p, group_size, lambda r: (group_mean_advantage(r, group_size) == 0).double())
    assert silent[0].item() == pytest.approx(p**group_size + (1 - p) ** group_size)


def test_grpos_advantage_for_bernoulli_rewards():
    """``sqrt((1-p)/p)`` for a success, ``-sqrt(p/(1-p))`` for a failure, times ``sqrt((G-1)/G)``."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.double)
    found = divide_by_group_std(group_mean_advantage(rewards, 8), rewards, 8)
    p, bessel = 0.25, math.sqrt(7 / 8)
    right, wrong = math.sqrt((1 - p) / p) * bessel, -math.sqrt(p / (1 - p)) * bessel
    wanted = rewards * right + (1 - rewards) * wrong
    torch.testing.assert_close(found, wanted, rtol=5e-4, atol=0)  # the 1e-4 beside the deviation
    assert not divide_by_group_std(group_mean_advantage(rewards * 0, 8), rewards * 0, 8).any()


def test_groups_do_not_mix():
    rewards = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert group_mean_advantage(rewards, 2).tolist() == [0.5, -0.5, 0.0, 0.0]
    assert leave_one_out_advantage(rewards, 2).tolist() == [1.0, -1.0, 0.0, 0.0]
    assert greedy_advantage(rewards, torch.tensor([1.0, 1.0, 0.0, 0.0])).tolist() == [0.0, -1.0, 1.0, 1.0]


def test_gae_with_gamma_and_lambda_one_is_the_reward_minus_the_value():
    rewards, values, mask = ragged()
    found = generalized_advantage(rewards, values, mask, 1.0, 1.0)
    torch.testing.assert_close(found, (rewards[:, None] - values) * mask)


@pytest.mark.parametrize(("gamma", "lam"), [(0.9, 0.7), (1.0, 0.0), (0.5, 1.0)])
def test_gae_by_its_definition_as_a_sum(gamma, lam):
    rewards, values, mask = ragged(seed=1)
    found = generalized_advantage(rewards, values, mask, gamma, lam)
    for row in range(len(rewards)):
        length = int(mask[row].sum())
        v = [*values[row, :length].tolist(), 0.0]
        deltas = [(rewards[row].item() if t == length - 1 else 0.0) + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            wanted = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length))
            assert found[row, t].item() == pytest.approx(wanted)
        assert not found[row, length:].any()


def test_gae_ignores_values_at_masked_positions():
    """Trap 5; so does the terminal reward, which sits on the last real token."""
    rewards, values, mask = ragged(seed=2)
    other = torch.where(mask.bool(), values, torch.full_like(values, 1e6))
    for gamma, lam in ((1.0, 1.0), (0.9, 0.8)):
        torch.testing.assert_close(
            generalized_advantage(rewards, values, mask, gamma, lam),
            generalized_advantage(rewards, other, mask, gamma, lam),
        )


def test_steps_of_one_token_are_ppo_and_one_step_is_sppo():
    rewards, values, mask = ragged(seed=3)
    torch.testing.assert_close(
        stepwise_advantage(rewards, values, mask, mask, 0.9, 0.8),
        generalized_advantage(rewards, values, mask, 0.9, 0.8),
    )
    whole = torch.zeros_like(mask)
    whole[:, 0] = 1
    torch.testing.assert_close(
        stepwise_advantage(rewards, values, whole, mask, 0.9, 0.8),
        broadcast_to_tokens(sequence_advantage(rewards, values[:, 0]), mask),
    )


def test_a_step_shares_its_advantage_among_its_tokens():
    mask = torch.ones(1, 4, dtype=torch.long)
    starts = torch.tensor([[1, 0, 1, 0]])
    values = torch.tensor([[0.25, 9.0, 0.5, 9.0]])
    found = stepwise_advantage(torch.tensor([1.0]), values, starts, mask, 1.0, 0.0)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.25, 0.5, 0.5]]))


def test_whitening_gives_mean_zero_and_variance_one_whatever_came_in():
    """So the variance of a whitened advantage ranks nothing."""
    _, values, mask = ragged(seed=4)
    for scale in (0.01, 5.0):
        found = whiten(values * scale + 3, mask)[mask.bool()]
        assert found.mean().item() == pytest.approx(0, abs=1e-6)
        assert found.var().item() == pytest.approx(1, rel=1e-3)
    assert not whiten(torch.ones(3), torch.ones(3)).any()
    assert not whiten(torch.ones(1), torch.ones(1)).isnan().any()


def test_the_overlong_penalty_falls_over_the_last_share():
    lengths = torch.tensor([10, 80, 90, 100])
    torch.testing.assert_close(overlong_penalty(lengths, 100, 0.2), torch.tensor([0.0, 0.0, -0.5, -1.0]))
    assert not overlong_penalty(lengths, 100, 0.0).any()
