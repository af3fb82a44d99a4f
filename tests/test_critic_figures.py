import time

import numpy as np
import pytest
import torch

from sppo_lab.critic_figures import (
    bce_gradient,
    critic_learning_figure,
    equal_parts,
    regression_figure,
    reliability,
    reliability_figure,
    squared_gradient,
    value_gradient_figure,
)
from sppo_lab.errors import LabError
from sppo_lab.loss import bce_value_loss

VALUES = np.array([0.05, 0.15, 0.25, 1.0])
RATES = np.array([0.0, 0.5, 0.25, 1.0])


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_reliability_by_hand():
    found = reliability(VALUES, RATES, bins=5)
    assert list(found.counts) == [2, 1, 0, 0, 1]  # V = 1 is in the last bin
    assert found.values == pytest.approx([0.1, 0.25, 0, 0, 1])
    assert found.outcomes == pytest.approx([0.25, 0.25, 0, 0, 1])
    # Two prompts, 0 and 0.5: deviation 0.5 / sqrt 2, over sqrt 2 prompts.  One prompt has no spread to measure.
    assert found.margins == pytest.approx([1.96 * 0.25, 0, 0, 0, 0])
    assert list(found.filled) == [True, True, False, False, True]


def test_the_bins_account_for_every_prompt():
    values, rates = np.random.default_rng(0).random((2, 300))
    found = reliability(values, rates)
    assert found.counts.sum() == 300
    assert found.counts @ found.values == pytest.approx(values.sum())
    assert found.counts @ found.outcomes == pytest.approx(rates.sum())


@pytest.mark.parametrize(
    ("values", "outcomes", "said"),
    [([0.5], [1, 0], "as many values"), ([], [], "as many values"), ([1.2], [1], "sigmoid"), ([-0.1], [0], "sigmoid")],
)
def test_reliability_refuses_what_it_cannot_bin(values, outcomes, said):
    with pytest.raises(LabError, match=said):
        reliability(values, outcomes)


def test_the_reliability_figure_draws_filled_bins_and_counts():
    upper, lower = reliability_figure(VALUES, RATES, bins=5).axes
    (drawn,) = upper.containers
    assert drawn.lines[0].get_xydata() == pytest.approx(np.array([[0.1, 0.25], [0.25, 0.25], [1, 1]]))
    ends = np.array([bar[:, 1] for bar in drawn.lines[2][0].get_segments()])
    assert ends[0] == pytest.approx([0, 0.25 + 1.96 * 0.25])  # an interval ends where a share does
    assert [bar.get_height() for bar in lower.patches] == [2, 1, 0, 0, 1]
    assert [text.get_text() for text in lower.texts] == ["2", "1", "", "", "1"]


def test_the_regression_figure_draws_both_means():
    values, rates = np.array([0.4, 0.5, 0.3, 0.8]), np.array([0.0, 0.2, 0.6, 1.0])
    drawn = lines(regression_figure(values, rates, groups=2).axes[0])
    assert drawn["a prompt"].get_xydata() == pytest.approx(np.stack([rates, values], 1))
    assert drawn["mean V"].get_ydata() == pytest.approx([0.5, 0.5])
    assert drawn["mean V at a pass rate"].get_xydata() == pytest.approx(np.array([[0.1, 0.45], [0.8, 0.55]]))
    assert drawn["mean pass rate at a V"].get_xydata() == pytest.approx(np.array([[0.3, 0.35], [0.6, 0.65]]))


def test_a_calibrated_critic_that_knows_part_regresses_to_the_mean():
    random = np.random.default_rng(0)
    known = random.uniform(0.2, 0.8, 4000)
    drawn = lines(regression_figure(known, known + random.uniform(-0.2, 0.2, 4000)).axes[0])
    by_value = drawn["mean pass rate at a V"].get_xydata()
    assert by_value[:, 0] == pytest.approx(by_value[:, 1], abs=0.02)  # on the diagonal
    (low_rate, low_value), *_, (high_rate, high_value) = drawn["mean V at a pass rate"].get_xydata()
    assert low_value > low_rate + 0.05 and high_value < high_rate - 0.05


@pytest.mark.parametrize("reward", [0.0, 0.3, 1.0])
def test_the_gradients_are_those_of_the_losses(reward):
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    rewards = torch.full((9,), reward)
    values = torch.sigmoid(logits)
    for loss, formula in (
        (bce_value_loss(logits, rewards), bce_gradient),
        (0.5 * (values - rewards).square(), squared_gradient),
    ):
        (wanted,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
        assert formula(values.detach().numpy(), reward) == pytest.approx(wanted.numpy(), abs=1e-6)


def test_the_gradient_figure_draws_gradients_and_the_way_down():
    figure = value_gradient_figure(start=0.1, reward=1.0, rate=0.5, steps=2, values=[0.0, 0.5, 1.0])
    gradients, way = (lines(ax) for ax in figure.axes)
    assert gradients["BCE: V - R"].get_ydata() == pytest.approx([-1, -0.5, 0])
    assert gradients["squared error: (V - R) V (1 - V)"].get_ydata() == pytest.approx([0, -0.125, 0])
    first = torch.tensor(0.1).logit() + 0.5 * 0.9
    assert way["BCE"].get_ydata()[:2] == pytest.approx([0.1, torch.sigmoid(first).item()])
    assert all(way["BCE"].get_ydata()[1:] > way["squared error"].get_ydata()[1:])
    with pytest.raises(LabError, match="start = 1"):
        value_gradient_figure(start=1.0)


def test_the_learning_figure_draws_losses_and_references():
    drawn = lines(critic_learning_figure([0.7, 0.6], [0, 2], [0.69, 0.61], {"always 0.5": 0.693, "floor": 0.4}).axes[0])
    assert drawn["each training batch"].get_xydata() == pytest.approx(np.array([[1, 0.7], [2, 0.6]]))
    assert drawn["held-out prompts"].get_xydata() == pytest.approx(np.array([[0, 0.69], [2, 0.61]]))
    assert drawn["always 0.5, 0.693"].get_ydata()[0] == 0.693 and "floor, 0.400" in drawn


@pytest.mark.parametrize(
    "draw",
    [
        lambda values: reliability_figure(values, values),
        lambda values: regression_figure(values, values),
        lambda values: value_gradient_figure(start=values[0]),
    ],
)
def test_redrawing_is_quick_enough_for_a_widget(draw):
    values = np.linspace(0.01, 0.99, 400)
    draw(values)
    times = []
    for _ in range(5):
        started = time.process_time()
        draw(values)
        times.append(time.process_time() - started)
    assert min(times) < 0.1


def test_equal_keys_stay_in_one_part():
    assert [part.tolist() for part in equal_parts(np.full(10, 0.5), 5)] == [list(range(10))]
    parts = equal_parts(np.array([0.3, 0.1, 0.1, 0.1, 0.2, 0.3]), 3)
    assert [part.tolist() for part in parts] == [[1, 2, 3], [4], [0, 5]]
    assert [len(part) for part in equal_parts(np.arange(100) / 100, 5)] == [20] * 5
