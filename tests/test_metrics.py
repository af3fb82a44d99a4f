from pathlib import Path

import pytest
import torch

from sppo_lab.metrics import METRICS, TIMING, batch_metrics, markdown_table
from sppo_lab.rollout import Rollouts


def test_every_explanation_is_one_line():
    assert all(text and "\n" not in text and "|" not in text.replace("|A|", "") for text in METRICS.values())
    assert set(TIMING) <= set(METRICS)


@pytest.mark.parametrize("name", ["README.md"])
def test_the_documents_hold_the_same_table(name):
    assert markdown_table() in (Path(__file__).parents[1] / name).read_text(encoding="utf-8")


def test_the_numbers_of_a_small_batch_by_hand():
    """Three responses of 1, 2 and 2 tokens; V is 0.5, 0.5 and 0.8, R is 1, 0 and 1."""
    mask = torch.tensor([[1, 0], [1, 1], [1, 1]])
    values, rewards = torch.tensor([0.5, 0.5, 0.8]), torch.tensor([1.0, 0.0, 1.0])
    advantages = (rewards - values)[:, None] * mask
    batch = Rollouts(
        prompt_ids=mask,
        prompt_mask=mask,
        response_ids=mask,
        response_mask=mask,
        old_logprobs=torch.zeros(3, 2),
        truncated=torch.tensor([False, False, True]),
        group=torch.arange(3),
        prompts=["a", "b", "c"],
        texts=["", "", ""],
        rewards=rewards,
        values=values,
        raw_advantages=advantages,
    )
    found = batch_metrics(batch, 1)
    assert found["reward"] == pytest.approx(2 / 3) and found["completions/mean_length"] == pytest.approx(5 / 3)
    assert found["completions/clipped_ratio"] == pytest.approx(1 / 3)
    assert found["value/mean"] == pytest.approx(0.6) and found["value/std"] == pytest.approx(0.02**0.5)
    assert found["value/brier"] == pytest.approx((0.25 + 0.25 + 0.04) / 3)
    assert found["value/correlation"] == pytest.approx(0.5)
    assert found["advantage/mean"] == pytest.approx(0.2 / 3)
    assert found["advantage/second_moment"] == pytest.approx(0.54 / 3)  # a response counts once, whatever its length
