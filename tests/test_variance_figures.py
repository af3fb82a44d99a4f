import numpy as np
import pytest
import torch

from sppo_lab.explorer_figures import squared_error
from sppo_lab.gradient import GradientNoise
from sppo_lab.variance import Separation, Split
from sppo_lab.variance_figures import bandit_figure, noise_figure, separation_figure, split_figure

RATES = torch.linspace(0.05, 0.95, 20)


def test_the_lines_of_the_bandit_figure_are_the_exact_numbers():
    from sppo_lab.bandit import Bandit, Estimator

    left, right = bandit_figure(RATES, error=0.1).axes
    exact = Bandit.with_solve_rates(RATES).moments(Estimator.of("rloo", 8), 64)
    drawn = {line.get_label(): line for line in left.get_lines()}
    assert drawn["rloo, dr-grpo"].get_ydata()[2] == pytest.approx(1 / exact.signal_to_noise)
    assert right.get_lines()[0].get_ydata()[2] == pytest.approx(exact.silent)


def test_a_drowned_signal_is_said_and_not_drawn():
    noise = {
        "sppo": GradientNoise("sppo", 64, 10, 2.0, (1.5, 2.5), 0.5, 0.25, (0.2, 0.3), 0.0, 0.2),
        "grpo": GradientNoise("grpo", 64, 10, 2.0, (1.5, 2.5), -0.1, -0.05, (-0.1, 0.1), 0.5, 0.2),
    }
    _, ratio, silent = noise_figure(noise).axes
    assert [text.get_text() for text in ratio.texts] == ["the signal drowns: more repeats"]
    assert ratio.patches[0].get_width() == pytest.approx(4.0)
    assert list(ratio.get_lines()[0].get_xdata()) == pytest.approx([1 / 0.3, 5.0])
    assert [bar.get_width() for bar in silent.patches] == [0.0, 0.5]


def test_the_other_figures_draw_what_they_are_given():
    figure = split_figure({0: Split(0.2, 0.05), 100: Split(0.1, -0.001)})
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([0.2, 0.1, 0.05, 0.0])
    one = Separation(*np.array([[0.25, 0.75], [0.5, 0.9], [0.5, 0.8], [0.4, 0.2]]))
    values, areas = separation_figure({"ppo": one}).axes
    assert [list(line.get_ydata()) for line in values.get_lines()] == [[0.5, 0.8], [0.4, 0.2]]
    assert list(areas.get_lines()[0].get_ydata()) == [0.5, 0.9]


def test_a_critic_that_is_off_stays_inside_0_to_1():
    assert squared_error(0.5, 0.1) == pytest.approx(0.01)
    assert squared_error(0.95, 0.5) == pytest.approx((0.05**2 + 0.5**2) / 2)  # V cannot be 1.45
    assert squared_error(np.array([0.0, 1.0]), 0.2) == pytest.approx([0.02, 0.02])
