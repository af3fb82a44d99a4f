"""The horizon in closed form, against lists of every response, against simulation and against numbers by hand."""

import pytest
import torch

from sppo_lab.bandit import Bandit
from sppo_lab.errors import LabError
from sppo_lab.horizon import TokenEstimator, TokenTask, late_critic, noisy_critics, prompt_critic
from sppo_lab.horizon_figures import baseline_figure, by_lambda, credit_figure, grow, horizon_figure, lambda_figure

SETTINGS = [(1.0, 1.0), (1.0, 0.95), (0.9, 1.0), (0.9, 0.5), (1.0, 0.0)]


def uneven() -> TokenTask:
    """Chances that differ, one token without effect, two of four needed."""
    right = torch.tensor([0.3, 0.8, 0.5, 0.9, 0.4]).double()
    return TokenTask(right, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]), 2)


def any_critic(task: TokenTask, seed: int = 0) -> torch.Tensor:
    """A critic that says anything in every state."""
    return torch.randn(task.values().shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


TASKS = [uneven(), TokenTask.all_right(4), TokenTask.most_right(5), TokenTask.first_right(3, 0.7)]


def test_two_tokens_by_hand():
    """q = (0.5, 0.8), both needed: p = 0.4, V = 0.8 after a right token, 0 after a wrong one."""
    task = TokenTask(torch.tensor([0.5, 0.8]).double(), torch.ones(2), 2)
    values = task.values()
    assert task.solve_rate == pytest.approx(0.4)
    assert values[1, :2].tolist() == pytest.approx([0.0, 0.8]) and values[2].tolist() == [0, 0, 1]
    assert task.responses().tolist() == [[1, 1], [1, 0], [0, 1], [0, 0]]
    assert task.chances(task.responses()).tolist() == pytest.approx([0.4, 0.1, 0.4, 0.1])
    assert task.gradient().tolist() == pytest.approx([0.25 * 0.8, 0.16 * 0.5])
    found = task.moments(prompt_critic(task))
    # Place 1: (x - q) A is 0.3, -0.2 and, after a wrong token, 0.2 in every case.
    second = 0.4 * 0.3**2 + 0.1 * 0.2**2 + 0.5 * 0.2**2
    assert float(found.variance[0]) == pytest.approx(second - 0.2**2)


@pytest.mark.parametrize("task", TASKS)
def test_the_gradient_and_the_solve_rate_are_autograds(task):
    logits = task.right.logit().requires_grad_()
    responses = task.responses()
    chances = torch.where(responses == 1, logits.sigmoid(), 1 - logits.sigmoid()).prod(1)
    expected = (chances * task.rewards(responses)).sum()
    expected.backward()
    assert task.solve_rate == pytest.approx(expected.item())
    torch.testing.assert_close(task.gradient(), logits.grad)
    torch.testing.assert_close(task.occupancy().sum(1), torch.ones(task.length + 1).double())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("gamma", "lam"), SETTINGS)
def test_the_recursion_is_the_list_of_every_response(task, gamma, lam):
    for critic in (prompt_critic(task), task.values(), any_critic(task)):
        found, listed = task.moments(critic, gamma, lam), task.enumerated(critic, gamma, lam)
        torch.testing.assert_close(found.mean, listed.mean)
        torch.testing.assert_close(found.variance, listed.variance)


def test_a_stack_of_critics_is_one_after_the_other():
    task = uneven()
    stack = noisy_critics(task, 0.2, 3, torch.Generator().manual_seed(0))
    assert (stack - task.values()).abs().allclose(torch.tensor(0.2).double())
    found = task.moments(stack, 0.9, 0.5)
    for place, critic in enumerate(stack):
        torch.testing.assert_close(found.mean[place], task.moments(critic, 0.9, 0.5).mean)
        torch.testing.assert_close(found.variance[place], task.moments(critic, 0.9, 0.5).variance)


@pytest.mark.parametrize(("gamma", "lam"), SETTINGS)
def test_simulation_agrees_within_its_interval(gamma, lam):
    task = TokenTask.most_right(31, 0.6)  # too long to list
    critic = any_critic(task)
    exact = task.moments(critic, gamma, lam)
    drawn = task.simulate(critic, gamma, lam, 20_000, torch.Generator().manual_seed(1))
    assert ((drawn.mean(0) - exact.mean).abs() < 4 * (exact.variance / 20_000).sqrt()).all()
    squared = (drawn - exact.mean).square().sum(1)
    assert abs(float(squared.mean() - exact.variance.sum())) < 4 * float(squared.std()) / 20_000**0.5


@pytest.mark.parametrize("task", TASKS)
def test_no_prompt_only_baseline_bends_the_gradient_and_it_is_the_sequence_advantage(task):
    responses = task.responses()
    for value in (-3.0, 0.0, 0.9):
        critic = prompt_critic(task, value)
        torch.testing.assert_close(task.moments(critic).mean, task.gradient())
        advantages = (task.rewards(responses) - value)[:, None]
        torch.testing.assert_close(task.gradients(responses, critic, 1.0, 1.0), (responses - task.right) * advantages)


def test_what_is_unbiased_and_what_is_not():
    task = uneven()
    truth, wrong = task.gradient(), any_critic(task)
    torch.testing.assert_close(task.moments(wrong).mean, truth)  # lambda = 1: any critic
    for lam in (0.0, 0.7):
        torch.testing.assert_close(task.moments(task.values(), 1.0, lam).mean, truth)  # the exact critic: any lambda
        assert (task.moments(wrong, 1.0, lam).mean - truth).abs().max() > 0.01
        shifted = task.values() + 0.3  # off by the same everywhere: the error leaves the difference of two values
        torch.testing.assert_close(task.moments(shifted, 1.0, lam).mean, truth)
    powers = 0.9 ** torch.arange(4, -1, -1).double()
    torch.testing.assert_close(task.moments(wrong, 0.9, 1.0).mean, powers * truth)  # gamma < 1
    torch.testing.assert_close(task.moments(prompt_critic(task), 1.0, 0.9).mean, powers * truth)


def test_the_noise_of_the_sequence_advantage_grows_with_the_length():
    """The first token decides, q = 0.5: every token has variance 1/16 but the first, whose square is always 1/16."""
    for length in (1, 5, 41):
        task = TokenTask.first_right(length)
        assert float(task.moments(prompt_critic(task)).noise_to_signal) == pytest.approx(length - 1)
        assert float(task.moments(task.values()).noise_to_signal) == pytest.approx(0, abs=1e-12)


def test_an_exact_critic_helps_in_one_task_and_harms_in_another():
    for task, helps in ((TokenTask.most_right(21), True), (TokenTask.all_right(21), False)):
        exact, prompt = task.moments(task.values()), task.moments(prompt_critic(task))
        assert (float(exact.noise_to_signal) < float(prompt.noise_to_signal)) == helps
    assert TokenTask.all_right(21).solve_rate == pytest.approx(0.5)


def test_the_error_left_is_the_best_of_all_scalings():
    task = uneven()
    found, truth = task.moments(any_critic(task), 0.9, 0.5), task.gradient()
    scales = torch.linspace(-2, 2, 20_001).double()[:, None]
    missed = (scales * found.mean - truth).square().sum(1) + scales[:, 0].square() * found.variance.sum() / 8
    best = float(missed.min() / truth.square().sum())
    assert float(found.error_left(truth, 8)) == pytest.approx(best, abs=1e-5)
    assert float(task.moments(prompt_critic(task)).error_left(truth, 10**9)) == pytest.approx(0, abs=1e-6)
    assert float(found.cosine(3 * found.mean)) == pytest.approx(1)


def test_a_late_critic_knows_the_prompt_first_and_the_state_later():
    task = TokenTask.most_right(5)
    critic = late_critic(task, 0.6)
    assert (critic[:3] == task.solve_rate).all() and critic[3:].equal(task.values()[3:])


def test_too_many_tokens_to_list():
    with pytest.raises(LabError, match="17 tokens"):
        TokenTask.most_right(17).responses()


def test_the_figures_draw_the_exact_numbers():
    exact = TokenEstimator("exact", TokenTask.values, lam=0.9)
    task = TokenTask.most_right(5)
    moments, truth = exact.moments(task), task.gradient()
    curves = grow(TokenTask.most_right, (3, 5), [TokenEstimator("prompt"), exact])
    assert curves["exact"][1] == pytest.approx((float(moments.noise_to_signal), float(moments.cosine(truth))))
    noise, cosine = horizon_figure((3, 5), {"most": curves}, 10).axes
    assert [line.get_ydata()[1] for line in (noise.lines[1], cosine.lines[1])] == pytest.approx(curves["exact"][1])

    left, right = credit_figure(task, [exact]).axes
    assert list(left.lines[0].get_ydata()) == pytest.approx(truth.tolist())
    assert list(right.lines[0].get_ydata()) == pytest.approx(moments.variance.sqrt().tolist())

    found = by_lambda(task, {"exact": task.values()}, (0.0, 0.9), (8, 64))
    assert found["exact"][1] == pytest.approx([float(moments.error_left(truth, n)) for n in (8, 64)])
    few, many = lambda_figure((0.0, 0.9), found, (8, 64)).axes
    assert [few.lines[0].get_ydata()[1], many.lines[0].get_ydata()[1]] == pytest.approx(found["exact"][1])


def test_the_baseline_figure_has_a_flat_mean():
    world = Bandit.with_solve_rates(torch.tensor([0.4]))
    left, right = baseline_figure(world, torch.linspace(-0.5, 1.5, 5)).axes
    assert all(line.get_ydata() == pytest.approx([1.0] * 5) for line in left.lines)
    assert right.lines[0].get_ydata()[0] > min(right.lines[0].get_ydata())
