"""Exact properties of the estimators: for 0/1 rewards every expectation is a sum of two terms."""

import torch

from sppo_lab.advantage import batch_mean_advantage, broadcast_to_tokens, sequence_advantage


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
