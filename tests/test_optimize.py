"""The optimizer on its own; tests/test_trainer.py sees it at work."""

import pytest
import torch
from torch import nn

from sppo_lab.errors import NonFiniteError
from sppo_lab.optimize import PASS_COST, Learner, like_lengths, micro_batches, update_metrics
from sppo_lab.rollout import Rollouts


class Half(nn.Module):
    """A frozen layer in float16 behind a trained one in float32, as under a LoRA adapter."""

    def __init__(self):
        super().__init__()
        self.trained = nn.Linear(1, 1, bias=False)
        self.frozen = nn.Linear(1, 1, bias=False).half().requires_grad_(False)
        nn.init.ones_(self.trained.weight)
        nn.init.ones_(self.frozen.weight)

    def forward(self, x):
        return self.frozen(self.trained(x).half()).float()

    def learner(self, half: bool = True) -> Learner:
        return Learner({"trained": self.trained.weight}, 1e-3, 1e9, "the policy", half)


def test_a_gradient_too_small_for_float16_survives():
    model, tiny = Half(), 1e-9  # below the least number of float16
    learner = model.learner()
    learner.backward((model(torch.ones(1, 1)) * tiny).sum())
    assert learner.gradients()[0].item() == pytest.approx(tiny, rel=0.05)
    assert learner.step() == pytest.approx(tiny, rel=0.05)

    model = Half()
    unscaled = model.learner(half=False)
    unscaled.backward((model(torch.ones(1, 1)) * tiny).sum())
    assert unscaled.gradients()[0].item() == 0  # what the scale is there for


def test_an_overflow_leaves_the_update_out_and_lowers_the_scale():
    model = Half()
    learner, before = model.learner(), model.trained.weight.clone()
    scale = learner.scaler.get_scale()
    learner.backward((model(torch.ones(1, 1)) * 100).sum())  # 100 times the scale is beyond float16
    assert learner.step() is None and learner.scaler.get_scale() == scale / 2
    assert torch.equal(model.trained.weight, before)
    norms = []
    while None in norms or not norms:
        learner.backward((model(torch.ones(1, 1)) * 100).sum())
        norms = [learner.step()]
    assert norms[0] == pytest.approx(100, rel=0.01) and not torch.equal(model.trained.weight, before)


@pytest.mark.parametrize("half", [True, False])
def test_updates_that_are_not_finite_are_left_out_and_stop_the_run_in_the_end(half):
    model = Half()
    learner, before = model.learner(half), model.trained.weight.clone()

    def spoiled():
        learner.backward(model(torch.ones(1, 1)).sum())
        model.trained.weight.grad.fill_(float("nan"))
        return learner.step()

    assert [spoiled() for _ in range(Learner.PATIENCE - 1)] == [None] * (Learner.PATIENCE - 1)
    with pytest.raises(NonFiniteError, match=f"the policy's gradient was nan in {Learner.PATIENCE} updates in a row"):
        spoiled()
    assert torch.equal(model.trained.weight, before)


def test_a_good_update_starts_the_count_anew_and_it_is_saved():
    model = Half()
    learner = model.learner(half=False)
    for gradient in (float("inf"), 1.0, float("inf"), float("inf")):
        model.trained.weight.grad = torch.full((1, 1), gradient)
        learner.step()
    assert learner.skipped == 2
    restored = Half().learner(half=False)
    restored.load_state_dict(learner.state_dict())
    assert restored.skipped == 2


def test_the_scale_is_saved():
    learner, other = Half().learner(), Half().learner()
    learner.scaler.scale(torch.ones(1))
    learner.scaler.update(4.0)
    other.load_state_dict(learner.state_dict())
    assert other.scaler.get_scale() == 4.0


def test_left_out_updates_are_counted_and_spare_the_mean():
    assert update_metrics("policy", [2.0, None, 4.0]) == {"policy/grad_norm": 3.0, "policy/skipped_updates": 1.0}
    assert update_metrics("value", [None]) == {"value/grad_norm": 0.0, "value/skipped_updates": 1.0}


def ragged(prompts: list[int], responses: list[int]) -> Rollouts:
    """A batch of those lengths, the row's number as its reward."""
    count, width, height = len(prompts), max(prompts), max(responses)
    prompt_mask = (torch.arange(width) >= width - torch.tensor(prompts)[:, None]).long()
    response_mask = (torch.arange(height) < torch.tensor(responses)[:, None]).long()
    return Rollouts(
        prompt_ids=prompt_mask,
        prompt_mask=prompt_mask,
        response_ids=response_mask,
        response_mask=response_mask,
        old_logprobs=torch.zeros(count, height),
        truncated=torch.zeros(count, dtype=torch.bool),
        group=torch.arange(count),
        prompts=[""] * count,
        texts=[""] * count,
        rewards=torch.arange(count).float(),
    )


def test_rows_of_like_length_go_together_and_none_is_lost():
    batch = ragged([3, 9, 3, 9, 3, 3], [40, 2, 5, 90, 40, 5])
    parts = list(micro_batches(batch, 2))
    assert [rows.tolist() for _, rows in parts] == [[2, 5], [1], [0, 4], [3]]
    for part, rows in parts:
        assert part.rewards.tolist() == rows.tolist()  # each part holds the rows that it names
        assert part.response_ids.shape[1] == int(part.lengths.max()) and len(part) <= 2


def test_a_cut_must_save_more_than_a_pass_costs():
    cost = PASS_COST["cpu"]
    assert like_lengths(torch.tensor([10, 10 + cost]), "cpu") == [2]
    assert like_lengths(torch.tensor([10, 11 + cost]), "cpu") == [1, 1]
    assert like_lengths(torch.tensor([10, 11 + cost]), "cuda") == [2]  # where a pass costs more
    assert like_lengths(torch.tensor([7]), "cpu") == [1]
    assert like_lengths(torch.full((50,), 7), "cpu") == [50]


def test_cuts_leave_little_padding():
    tokens = torch.randint(5, 200, (64,), generator=torch.Generator().manual_seed(0)).sort().values
    sizes = like_lengths(tokens, "cpu")
    padded = sum(len(part) * int(part[-1]) for part in tokens.split(sizes))
    assert sum(sizes) == 64 and len(sizes) <= 16
    assert padded + len(sizes) * PASS_COST["cpu"] < 1.2 * int(tokens.sum()) < 0.75 * 64 * int(tokens[-1])
