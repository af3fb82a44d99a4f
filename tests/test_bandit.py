"""Exact against enumerated and against simulated."""

import itertools

import pytest
import torch

from sppo_lab.bandit import ADVANTAGES, Bandit, Estimator


def bandit() -> Bandit:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 0]]).double()
    return Bandit(torch.randn(3, 4, generator=generator).double(), rewards)


VALUES = torch.tensor([0.2, 0.9, 0.4]).double()


def test_the_gradient_is_autograds():
    world = bandit()
    logits = world.logits.clone().requires_grad_()
    (logits.softmax(1) * world.rewards).sum(1).mean().backward()
    torch.testing.assert_close(world.gradient(), logits.grad)


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("size", [2, 3])
def test_the_moments_by_enumerating_every_group(name, size):
    """Every context, every tuple of actions."""
    world, estimator = bandit(), Estimator.of(name, size)
    found = world.moments(estimator, rollouts=size, values=VALUES)
    mean, square, second, silent = torch.zeros(3, 4).double(), 0.0, 0.0, 0.0
    for context in range(3):
        probs = world.probs[context]
        for actions in itertools.product(range(4), repeat=size):
            chance = float(probs[list(actions)].prod()) / 3
            rewards = world.rewards[context][list(actions)][None]
            advantages = estimator.advantage(rewards, VALUES[context].reshape(1, 1))[0]
            gradient = torch.zeros(3, 4).double()
            for action, advantage in zip(actions, advantages, strict=True):
                gradient[context] += advantage * (torch.eye(4)[action] - probs) / size
            mean += chance * gradient
            square += chance * float(gradient.square().sum())
            second += chance * float(advantages.square().mean())
            silent += chance * float((advantages == 0).double().mean())
    torch.testing.assert_close(found.mean, mean, atol=1e-7, rtol=1e-5)
    assert found.variance == pytest.approx(square - float(mean.square().sum()), rel=1e-5)
    assert found.second_moment == pytest.approx(second, rel=1e-5) and found.silent == pytest.approx(silent, abs=1e-9)


@pytest.mark.parametrize(("name", "size"), [("sppo", 1), ("rloo", 4), ("dr-grpo", 8), ("grpo", 8)])
def test_exact_and_simulated_variance_agree_within_the_simulations_interval(name, size):
    world, estimator = bandit(), Estimator.of(name, size)
    exact = world.moments(estimator, rollouts=16, values=VALUES)
    repeats = 4000
    drawn = world.simulate(estimator, 16, repeats, torch.Generator().manual_seed(1), VALUES)
    squared = (drawn - exact.mean).square().sum((1, 2))  # their mean is the trace of the covariance
    error = 3 * float(squared.std()) / repeats**0.5
    assert abs(float(squared.mean()) - exact.variance) < error
    assert (drawn.mean(0) - exact.mean).abs().max() < 4 * (exact.variance / repeats) ** 0.5


def test_a_wrong_value_costs_variance_and_no_bias():
    """The mean is the true gradient whatever V is; the best V is not far from p."""
    world, estimator = bandit(), Estimator.of("sppo", 1)
    for offset in (-0.5, 0.0, 0.3):
        found = world.moments(estimator, 64, world.solve_rates + offset)
        torch.testing.assert_close(found.mean, world.gradient())
        p = world.solve_rates
        assert found.second_moment == pytest.approx(float((p * (1 - p)).mean()) + offset**2)
    at_p = world.moments(estimator, 64).variance
    assert world.moments(estimator, 64, world.solve_rates + 0.5).variance > at_p


def test_rloo_is_unbiased_and_centring_alone_shrinks():
    world = bandit()
    torch.testing.assert_close(world.moments(Estimator.of("rloo", 4), 64).mean, world.gradient())
    shrunk = world.moments(Estimator.of("dr-grpo", 4), 64).mean
    torch.testing.assert_close(shrunk, world.gradient() * 3 / 4)


def test_grpo_weighs_prompts_by_one_over_their_deviation_in_large_groups_only():
    """``1 / sqrt(p (1 - p))`` for large G; a group of two has one deviation, so every prompt counts the same."""
    p = torch.tensor([0.1, 0.3, 0.5, 0.8]).double()
    world = Bandit.with_solve_rates(p)
    exact = world.gradient()

    def weight(size: int) -> torch.Tensor:
        mean = world.moments(Estimator.of("grpo", size), 64).mean
        torch.testing.assert_close(torch.cosine_similarity(mean, exact), torch.ones(4).double())
        return (mean * exact).sum(1) / exact.square().sum(1)

    torch.testing.assert_close(weight(2), weight(2).mean().expand(4))
    torch.testing.assert_close(weight(256), 1 / (p * (1 - p)).sqrt(), rtol=0.03, atol=0)


def test_the_variance_falls_with_the_budget_and_the_ratio_is_free_of_scale():
    world, estimator = bandit(), Estimator.of("grpo", 4)
    small, large = world.moments(estimator, 16), world.moments(estimator, 64)
    assert small.variance == pytest.approx(4 * large.variance)
    doubled = Estimator("doubled", 4, lambda r, v: 2 * estimator.advantage(r, v))
    assert world.moments(doubled, 16).variance == pytest.approx(4 * small.variance)
    assert world.moments(doubled, 16).signal_to_noise == pytest.approx(small.signal_to_noise)


@pytest.mark.parametrize("size", [2, 8])
def test_the_share_without_signal(size):
    rates = torch.tensor([0.05, 0.3, 0.9])
    found = Bandit.with_solve_rates(rates).moments(Estimator.of("rloo", size), 64)
    assert found.silent == pytest.approx(float((rates**size + (1 - rates) ** size).mean()), rel=1e-5)
    torch.testing.assert_close(Bandit.with_solve_rates(rates).solve_rates, rates.double(), atol=1e-6, rtol=0)
