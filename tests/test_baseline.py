from types import SimpleNamespace

import pytest
import torch

from sppo_lab.baseline import BetaTracker, HiddenProbe, hidden_features, of_the_others
from sppo_lab.config import Config
from sppo_lab.rollout import sample, step_starts
from sppo_lab.trainer import Trainer


def judged(prompts: list[str], rewards: list[float]) -> SimpleNamespace:
    scores = torch.tensor(rewards)
    return SimpleNamespace(prompts=prompts, scores=scores, old_logprobs=scores[:, None])


def test_the_tracker_is_a_beta_mean_that_forgets():
    """By hand with decay 0.5: (1, 1), then a success (1.5, 0.5), then a failure (0.75, 1.25)."""
    tracker = BetaTracker(0.5)
    assert tracker.values(judged(["a", "b"], [0.0, 0.0])).tolist() == [0.5, 0.5]
    tracker.update(judged(["a"], [1.0]))
    assert tracker.values(judged(["a", "b"], [0.0, 0.0])).tolist() == [0.75, 0.5]
    tracker.update(judged(["a"], [0.0]))
    assert tracker.values(judged(["a"], [0.0])).tolist() == pytest.approx([0.75 / 2])


def test_without_forgetting_the_tracker_finds_the_solve_rate():
    tracker = BetaTracker(1.0)
    rewards = (torch.rand(2000, generator=torch.Generator().manual_seed(0)) < 0.3).float().tolist()
    for reward in rewards:
        tracker.update(judged(["a"], [reward]))
    assert tracker.values(judged(["a"], [0.0])).item() == pytest.approx(0.3, abs=0.04)


def probed(features: torch.Tensor, scores: torch.Tensor) -> SimpleNamespace:
    """A batch with two responses to each prompt."""
    return SimpleNamespace(features=of_the_others(features, 2), scores=scores)


def test_the_probe_learns_what_the_other_responses_tell():
    generator = torch.Generator().manual_seed(0)
    probe = HiddenProbe()
    rates = torch.rand(400, generator=generator).repeat_interleave(2)
    features = torch.stack([rates, torch.rand(800, generator=generator)], 1)
    scores = (torch.rand(800, generator=generator) < rates).float()
    assert probe.values(probed(features, scores)).tolist() == [0.5] * 800
    probe.update(probed(features, scores))
    error = (probe.values(probed(features, scores)) - rates).abs().mean()
    assert error < 0.08


def test_the_probes_value_of_a_response_does_not_depend_on_it():
    """Otherwise the gradient would be biased."""
    generator = torch.Generator().manual_seed(1)
    probe = HiddenProbe()
    probe.update(probed(torch.randn(40, 3, generator=generator), 0.5 + 0.1 * torch.randn(40, generator=generator)))
    features, scores = torch.randn(4, 3, generator=generator), torch.zeros(4)
    before = probe.values(probed(features, scores))
    features[0] += 1
    after = probe.values(probed(features, scores + 1))
    assert after[0] == before[0] and after[1] != before[1] and torch.equal(after[2:], before[2:])


def test_features_read_real_tokens_only(policy):
    batch = sample(policy, ["1+1=", "9-4+2-1+8="], max_new_tokens=20, group_size=2, generator=torch.Generator())
    together = hidden_features(policy, batch)
    alone = hidden_features(policy, batch.select(torch.tensor([0])))
    torch.testing.assert_close(alone[0], together[0], atol=1e-4, rtol=0)
    assert torch.equal(together[0, :128], together[1, :128]) or torch.allclose(together[0, :128], together[1, :128])


def test_steps_start_after_the_mark(policy):
    batch = sample(policy, ["7+5-3="], max_new_tokens=40, group_size=4, generator=torch.Generator().manual_seed(2))
    starts = step_starts(batch, policy.tokenizer, ";")
    for row, text in enumerate(batch.texts):
        wanted = [0] + [i + 1 for i, letter in enumerate(text) if letter == ";"]  # one token a character
        assert starts[row].nonzero().squeeze(1).tolist() == wanted


def test_a_probe_that_has_seen_one_response_says_its_score():
    """As few are left where truncated responses and the smallest advantages are left out."""
    probe = HiddenProbe()
    probe.update(SimpleNamespace(features=torch.randn(1, 3), scores=torch.ones(1)))
    assert probe.values(probed(torch.randn(4, 3), torch.zeros(4))).tolist() == [1.0] * 4


def test_features_are_the_same_in_any_parts_and_memory(small_task):
    """In whole, one at a time, and halved where the memory does not suffice."""
    settings = {"algorithm": "poise", "prompts_per_step": 4, "max_new_tokens": 16}
    trainers = [Trainer(Config(**settings, micro_batch_size=size), small_task) for size in (None, 1, 8)]
    rollouts = trainers[0].sample(small_task.train, group_size=2)
    whole, single = (trainer.features(rollouts) for trainer in trainers[:2])
    torch.testing.assert_close(whole, hidden_features(trainers[0].policy, rollouts), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(single, whole, atol=1e-5, rtol=1e-5)

    def full(module, args, kwargs):
        if len(kwargs["input_ids"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    trainers[2].policy.model.register_forward_pre_hook(full, with_kwargs=True)
    with pytest.warns(UserWarning, match="going on with micro_batch_size = 4 instead of 8"):
        torch.testing.assert_close(trainers[2].features(rollouts), whole, atol=1e-5, rtol=1e-5)
