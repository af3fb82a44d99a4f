import io

import numpy as np
import pytest
import torch

from sppo_lab.advantage import divide_by_group_std, group_mean_advantage
from sppo_lab.loss import TOKEN_WEIGHTS, clipped_surrogate
from sppo_lab.loss_figures import (
    advantage_figure,
    clip_figure,
    group_advantages,
    ratio_figure,
    weights_figure,
    without_gradient,
)


def labelled(ax) -> dict:
    return {line.get_label(): line for line in ax.get_lines()}


def test_the_advantages_are_those_of_the_papers_figure_2():
    right, wrong, gap = advantage_figure().axes
    p = labelled(right)["SPPO, V = p"].get_xdata()
    for name, above, below in (
        ("SPPO, V = p", 1 - p, -p),
        ("GRPO, large G", np.sqrt((1 - p) / p), -np.sqrt(p / (1 - p))),
    ):
        np.testing.assert_allclose(labelled(right)[name].get_ydata(), above, rtol=1e-4)
        np.testing.assert_allclose(labelled(wrong)[name].get_ydata(), below, rtol=1e-4)
        np.testing.assert_allclose(labelled(gap)[name].get_ydata(), above - below, rtol=1e-4)


@pytest.mark.parametrize("size", [2, 4, 8, 64])
def test_the_points_of_a_finite_group_are_the_packages_and_the_formulas(size):
    right, wrong, _ = advantage_figure((size,)).axes
    points = labelled(right)[f"GRPO, G = {size}"]
    assert list(points.get_xdata()) == pytest.approx([k / size for k in range(1, size)])
    for k, drawn in enumerate(points.get_ydata(), start=1):
        rewards = torch.tensor([1.0] * k + [0.0] * (size - k))
        assert drawn == pytest.approx(
            divide_by_group_std(group_mean_advantage(rewards, size), rewards, size)[0].item(), abs=1e-5
        )
        assert drawn == pytest.approx(((size - k) / k * (size - 1) / size) ** 0.5, rel=2e-3)
    assert list(labelled(wrong)[f"GRPO, G = {size}"].get_ydata()) == pytest.approx((-points.get_ydata()[::-1]).tolist())
    assert len(group_advantages(size)[0]) == size - 1


@pytest.mark.parametrize("bounds", [(0.2, None, None), (0.2, 0.28, None), (0.1, 0.5, 3.0)])
def test_loss_and_gradient_are_those_of_the_packages_surrogate(bounds):
    loss, gradient, _ = clip_figure(*bounds).axes
    for number, advantage in enumerate((1.0, -1.0)):
        line = loss.get_lines()[number]
        ratio = torch.tensor(line.get_xdata())
        wanted = clipped_surrogate(ratio, torch.full_like(ratio, advantage), *bounds)
        np.testing.assert_allclose(line.get_ydata(), wanted, rtol=1e-5)
        slope = gradient.get_lines()[number].get_ydata()
        held = without_gradient(ratio, torch.full_like(ratio, advantage), *bounds).numpy()
        assert held.any() and not held.all()
        assert (slope[held] == 0).all()
        np.testing.assert_allclose(slope[~held], -advantage * ratio.numpy()[~held], rtol=1e-5)


@pytest.mark.parametrize("bounds", [(0.2, None, None), (0.2, 0.28, 3.0)])
def test_tokens_lie_where_they_are_and_in_the_shade_when_they_have_no_gradient(bounds):
    torch.manual_seed(0)
    ratios, advantages = torch.randn(500).exp(), torch.randn(500)
    plane = clip_figure(*bounds, ratios=ratios, advantages=advantages).axes[2]
    held = without_gradient(ratios, advantages, *bounds)
    alive, stopped = labelled(plane)["token with gradient"], labelled(plane)["token without"]
    assert len(alive.get_xdata()) == int((~held).sum()) and len(stopped.get_xdata()) == int(held.sum())
    assert list(stopped.get_ydata()) == pytest.approx(advantages[held].tolist())
    edge = plane.get_xlim()[1]
    assert list(alive.get_xdata()) == pytest.approx(ratios[~held].clamp(max=0.99 * edge).tolist())
    shade = [patch.get_bbox() for patch in plane.patches]
    for line, inside in ((alive, False), (stopped, True)):
        assert all(any(box.contains(*point) for box in shade) == inside for point in line.get_xydata())
    assert f"{held.float().mean():.1%} of 500" in plane.get_title()


def test_bars_are_the_weights_of_the_rules():
    lengths, limit = [4, 10, 40], 88
    one, whole = weights_figure(lengths, limit, ["a", "b", "c"]).axes
    mask = (torch.arange(40) < torch.tensor(lengths)[:, None]).long()
    rules = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
    for rule, tokens, responses in zip(rules, one.containers, whole.containers, strict=True):
        weights = TOKEN_WEIGHTS[rule](mask, limit)
        assert [bar.get_height() for bar in tokens] == pytest.approx(weights[:, 0].tolist())
        assert [bar.get_height() for bar in responses] == pytest.approx(weights.sum(1).tolist())
    assert [text.get_text() for text in one.get_xticklabels()] == ["a", "b", "c"]


def test_ratios_are_sorted_by_that_of_the_response_and_padding_is_not_drawn():
    ratios = torch.tensor([[3.0, 0.9, 7.0], [0.7, 1.1, 0.8]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    (ax,) = ratio_figure(ratios, torch.tensor([1.2, 0.85]), mask).axes
    tokens, whole = ax.get_lines()[:2]
    assert list(whole.get_ydata()) == pytest.approx([0.85, 1.2])
    assert list(tokens.get_xdata()) == [0, 0, 0, 1, 1]
    assert list(tokens.get_ydata()) == pytest.approx([0.7, 1.1, 0.8, 2.0, 0.9])


def test_every_figure_can_be_saved_with_its_defaults():
    for figure in (advantage_figure(), clip_figure(), weights_figure([3, 5], 8)):
        figure.savefig(io.BytesIO())
