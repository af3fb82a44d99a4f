import copy
import dataclasses
import importlib
from types import SimpleNamespace

import pytest
import torch

from sppo_lab.algorithms import ALGORITHMS
from sppo_lab.config import Config
from sppo_lab.errors import LabError, NonFiniteError
from sppo_lab.experiment import evaluate_trainer
from sppo_lab.metrics import METRICS, TIMING
from sppo_lab.models import trainable_parameters
from sppo_lab.tasks import Task
from sppo_lab.trainer import Trainer

SMALL = {"prompts_per_step": 8, "max_new_tokens": 24, "steps": 3}


def untimed(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if name not in TIMING}


def weights_of(module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_step_moves_adapter_and_critic_and_leaves_the_base(algorithm, small_task):
    """Trap 10."""
    trainer = Trainer(Config(algorithm=algorithm, **SMALL), small_task)
    before = weights_of(trainer.policy.model)
    critic_before = trainer.critic and weights_of(trainer.critic)
    for _ in trainer:  # the first step moves B only, since it starts at zero
        pass
    for name, weight in trainer.policy.model.named_parameters():
        assert torch.equal(weight, before[name]) != ("lora_" in name), name
    if trainer.critic is not None:
        moved = [not torch.equal(w, critic_before[name]) for name, w in trainer.critic.named_parameters()]
        # Embeddings of tokens that no prompt holds stay, but every tensor holds some that moved.
        assert all(moved)


@pytest.mark.parametrize("algorithm", ["sppo", "ppo"])
def test_a_critic_on_the_policys_base_moves_and_leaves_that_base(algorithm, small_task):
    trainer = Trainer(Config(algorithm=algorithm, critic="adapter", **SMALL), small_task)
    before = weights_of(trainer.policy.model)
    for _ in trainer:
        pass
    for name, weight in trainer.policy.model.named_parameters():
        assert torch.equal(weight, before[name]) != ("lora_" in name), name
    assert any(".critic." in name for name in before) and trainer.critic.head.weight.abs().sum() > 0


def test_the_reference_policy_is_the_adapter_switched_off(small_task):
    """Trap 10: without its adapter the trained policy is the base again, and the critic does not change with it."""
    trainer = Trainer(Config(**SMALL, lr=1e-2), small_task)
    ids = torch.tensor([trainer.policy.tokenizer.encode("7+5=")])
    base = trainer.policy.model(input_ids=ids).logits.detach()  # a fresh adapter adds nothing
    list(trainer)
    value = trainer.critic.prompt_values(ids, torch.ones_like(ids))
    assert (trainer.policy.model(input_ids=ids).logits - base).abs().max() > 1e-3
    with trainer.policy.model.disable_adapter():
        torch.testing.assert_close(trainer.policy.model(input_ids=ids).logits, base)
        assert torch.equal(trainer.critic.prompt_values(ids, torch.ones_like(ids)), value)


def test_the_advantage_uses_the_critic_before_its_update(small_task):
    trainer = Trainer(Config(**SMALL, critic_lr=0.05), small_task)
    first = trainer.train_step().rollouts
    assert first.values.tolist() == [0.5] * 8  # what a fresh critic says, though it has been updated since
    torch.testing.assert_close(first.advantages[:, 0], first.rewards - 0.5)
    assert (trainer.critic.prompt_values(first.prompt_ids, first.prompt_mask) - 0.5).abs().max() > 0.01


def test_the_first_update_starts_at_ratio_one(small_task):
    """Trap 1: with one mini-batch and one epoch nothing is clipped and the policy has not moved."""
    metrics = Trainer(Config(**SMALL, mini_batches=1), small_task).train_step().metrics
    assert metrics["clip_ratio/region_mean"] == 0
    assert abs(metrics["policy/approx_kl"]) < 1e-6
    assert metrics["policy/grad_norm"] > 1e-3
    second = Trainer(Config(**SMALL, mini_batches=1, epochs=2, lr=1e-2), small_task).train_step().metrics
    assert second["policy/approx_kl"] > 1e-4


@pytest.mark.parametrize("algorithm", ["sppo", "reinforce", "ppo", "ppo-bce", "grpo", "dr-grpo"])
def test_micro_batches_change_nothing(algorithm, small_task):
    """Trap 9: the same loss and the same weights for any micro-batch size, ragged responses included."""
    found = []
    for size in (None, 1, 3):
        trainer = Trainer(Config(algorithm=algorithm, **SMALL, micro_batch_size=size, seed=5), small_task)
        metrics = trainer.train_step().metrics
        found.append((metrics["policy/loss"], metrics["policy/grad_norm"], metrics["entropy"]))
    assert found[0][1] > 0
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "dr-grpo", "cppo"])
def test_equal_rewards_give_a_group_no_gradient(small_task, algorithm):
    """Trap 8."""
    all_right = dataclasses.replace(small_task, rewards=lambda responses, answers: [1.0] * len(responses))
    trainer = Trainer(Config(algorithm=algorithm, group_size=4, **SMALL), all_right)
    before = weights_of(trainer.policy.model)
    metrics = trainer.train_step().metrics
    assert metrics["frac_reward_zero_std"] == 1 and metrics["policy/grad_norm"] == 0
    for name, weight in trainer.policy.model.named_parameters():
        assert torch.equal(weight, before[name])
    with pytest.raises(LabError, match="needs at least 2"):
        Trainer(Config(algorithm=algorithm, group_size=1, **SMALL), small_task)


def test_groups_are_the_responses_to_one_prompt(small_task):
    record = Trainer(Config(algorithm="rloo", group_size=4, **SMALL), small_task).train_step()
    assert len(record.rollouts) == 32
    assert record.rollouts.group.tolist() == [i for i in range(8) for _ in range(4)]
    assert [p.prompt for p in record.problems[:4]] == [record.problems[0].prompt] * 4


def test_two_algorithms_with_one_seed_see_the_same_prompts(small_task):
    orders = []
    for algorithm in ("sppo", "reinforce"):
        trainer = Trainer(Config(algorithm=algorithm, seed=3, **SMALL), small_task)
        orders.append([[p.prompt for p in record.problems] for record in trainer])
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]
    once = orders[0][0][:4]  # the task has four problems: a pass shows each once
    assert sorted(once) == sorted(p.prompt for p in small_task.train)


def test_dapo_replaces_groups_without_signal(small_task):
    """Every response that it updates on is from a group with both outcomes; every one that it sampled is counted."""
    trainer = Trainer(Config(algorithm="dapo", group_size=4, **SMALL), small_task)
    updated = []
    trainer.baseline = SimpleNamespace(update=lambda batch: updated.append(batch) or {})
    trainer.baseline.values = lambda batch: None
    record = trainer.train_step()
    (batch,) = updated
    rewards = batch.rewards.view(-1, 4)
    assert len(rewards) <= 8 and ((rewards.sum(1) > 0) & (rewards.sum(1) < 4)).all()
    assert record.metrics["num_rollouts"] == len(record.rollouts) == len(record.problems) > len(batch)
    assert record.metrics["frac_responses_used"] == len(batch) / len(record.rollouts)
    assert [p.prompt for p in record.problems] == record.rollouts.prompts
    seen = record.rollouts.group.unique(return_counts=True)[1]
    assert (seen == 4).all() and len(seen) == len(record.rollouts) // 4


def test_dapo_gives_up_replacing_after_a_while(small_task):
    all_right = dataclasses.replace(small_task, rewards=lambda responses, answers: [1.0] * len(responses))
    trainer = Trainer(Config(algorithm="dapo", group_size=2, max_gen_batches=3, **SMALL), all_right)
    assert trainer.train_step().metrics["num_rollouts"] == 3 * 8 * 2


def test_remax_counts_the_greedy_responses(small_task):
    record = Trainer(Config(algorithm="remax", **SMALL), small_task).train_step()
    assert record.metrics["num_rollouts"] == 16 and len(record.rollouts) == 8
    expected = record.rollouts.rewards - record.rollouts.greedy_rewards
    torch.testing.assert_close(record.rollouts.raw_advantages[:, 0], expected)


def test_the_penalty_to_the_reference_pulls_the_policy_back(small_task):
    """The divergence is 0 before the first update, and smaller with a larger weight."""
    ends = []
    for weight in (1e-6, 3.0):
        config = Config(algorithm="reinforce", kl_coef=weight, lr=5e-3, **SMALL | {"steps": 8})
        found = [record.metrics["kl"] for record in Trainer(config, small_task)]
        ends.append(found[-1])
    assert 0 <= ends[1] < ends[0]
    config = Config(algorithm="reinforce", kl_coef=1.0, mini_batches=1, **SMALL)
    assert abs(Trainer(config, small_task).train_step().metrics["kl"]) < 1e-6


def test_truncated_responses_can_be_left_out(small_task):
    settings = SMALL | {"max_new_tokens": 1}  # nothing ends within one token
    trainer = Trainer(Config(algorithm="reinforce", mask_truncated=True, **settings), small_task)
    metrics = trainer.train_step().metrics
    assert metrics["completions/clipped_ratio"] == 1 and metrics["policy/grad_norm"] == 0


def test_an_entropy_bonus_raises_the_entropy(small_task):
    same = dataclasses.replace(small_task, rewards=lambda responses, answers: [1.0] * len(responses))
    ends = []
    for weight in (0.0, 1.0):
        config = Config(algorithm="reinforce", entropy_coef=weight, lr=2e-3, **SMALL | {"steps": 6})
        ends.append(list(Trainer(config, same))[-1].metrics["entropy"])
    assert ends[1] > ends[0] + 0.05


def test_the_same_seed_gives_the_same_run_and_another_seed_another(small_task):
    runs = [[untimed(r.metrics) for r in Trainer(Config(seed=s, **SMALL), small_task)] for s in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_critic_warmup_holds_the_policy_still(small_task):
    trainer = Trainer(Config(critic_warmup=2, **SMALL), small_task)
    before = weights_of(trainer.policy.model)
    assert "policy/loss" not in trainer.train_step().metrics
    assert all(torch.equal(w, before[n]) for n, w in trainer.policy.model.named_parameters())
    trainer.train_step()
    assert "policy/loss" in trainer.train_step().metrics


def test_every_logged_number_is_explained_and_every_explanation_is_used(small_task):
    logged = set()
    for algorithm in ALGORITHMS:
        logged |= set(Trainer(Config(algorithm=algorithm, **SMALL), small_task).train_step().metrics)
    penalised = Trainer(Config(kl_coef=0.1, **SMALL), small_task)
    assert logged | set(penalised.train_step().metrics) == set(METRICS)


def test_rewards_outside_the_unit_interval_are_refused_by_a_critic(small_task):
    """Trap 7."""
    graded = Task("graded", small_task.train, small_task.test, lambda responses, answers: [2.0] * len(responses))
    with pytest.raises(LabError, match=r"rewards in \[0, 1\]"):
        Trainer(Config(**SMALL), graded).train_step()
    assert Trainer(Config(algorithm="reinforce", **SMALL), graded).train_step().metrics["reward"] == 2.0


def test_a_number_that_is_not_finite_stops_training_with_the_step(small_task):
    trainer = Trainer(Config(**SMALL), small_task)
    trainer.train_step()
    with torch.no_grad():
        next(iter(trainable_parameters(trainer.policy.model).values())).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"step 2: .*(nan|NaN).*learning rate"):
        trainer.train_step()


def test_more_mini_batches_than_responses_are_refused(small_task):
    with pytest.raises(LabError, match="mini_batches = 9 is more than the 8 responses"):
        Trainer(Config(**SMALL, mini_batches=9), small_task)


@pytest.mark.parametrize("algorithm", ["sppo", "ppo", "dapo", "spo", "poise"])
def test_state_dict_continues_in_another_trainer(small_task, algorithm):
    """The rest of a run continued from its state is the rest of the run itself."""
    config = Config(algorithm=algorithm, **SMALL | {"steps": 4})
    whole = Trainer(config, small_task)
    whole.train_step()
    whole.train_step()
    other = Trainer(config, small_task)
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    other.policy.model.load_state_dict(whole.policy.model.state_dict())
    if whole.critic is not None:
        other.critic.load_state_dict(whole.critic.state_dict())
    assert [untimed(r.metrics) for r in other] == [untimed(r.metrics) for r in whole]


def narrow(monkeypatch, place: str, most: int) -> None:
    """A function that takes rows as its second argument runs out of memory with more than ``most`` of them."""
    module, _, name = place.rpartition(".")
    real = getattr(importlib.import_module(module), name)

    def limited(first, rows, *rest, **options):
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(first, rows, *rest, **options)

    monkeypatch.setattr(place, limited)


@pytest.mark.parametrize(
    ("algorithm", "place", "setting"),
    [
        ("sppo", "sppo_lab.update.token_losses", "micro_batch_size"),
        ("grpo", "sppo_lab.trainer.response_logprobs", "micro_batch_size"),
        ("grpo", "sppo_lab.rollout.sample_together", "sample_batch_size"),
    ],
)
def test_out_of_memory_halves_the_batch_and_loses_nothing(small_task, monkeypatch, algorithm, place, setting):
    config = Config(algorithm=algorithm, **SMALL | {"prompts_per_step": 4})
    calm = untimed(Trainer(config, small_task).train_step().metrics)
    narrow(monkeypatch, place, 1)
    with pytest.warns(UserWarning, match=f"out of memory: going on with {setting} = "):
        narrowed = untimed(Trainer(config, small_task).train_step().metrics)
    assert narrowed == pytest.approx(calm, rel=1e-4, abs=1e-6)


def test_out_of_memory_while_sampling_splits_a_group_and_is_remembered(small_task, monkeypatch):
    """In training and in both evaluations; the responses are those of a machine with more memory."""
    config = Config(algorithm="grpo", **SMALL | {"prompts_per_step": 4})
    calm = Trainer(config, small_task)
    calm_rewards, calm_evaluation = calm.train_step().rollouts, evaluate_trainer(calm, samples=6)
    tight = Trainer(config, small_task)
    asked, write = [], tight.policy.sampler

    def limited(policy, prompt_ids, prompt_mask, group_size, *rest):
        asked.append(len(prompt_ids) * group_size)
        if asked[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return write(policy, prompt_ids, prompt_mask, group_size, *rest)

    tight.policy = dataclasses.replace(tight.policy, sampler=limited)
    with pytest.warns(UserWarning, match="going on with sample_batch_size = 2 instead of 4"):
        rollouts = tight.train_step().rollouts
    assert rollouts.texts == calm_rewards.texts and torch.equal(rollouts.group, calm_rewards.group)
    asked.clear()
    assert evaluate_trainer(tight, samples=6).solved == calm_evaluation.solved
    assert max(asked) <= 3  # the training has found what fits


def test_out_of_memory_in_the_critic_halves_its_batch_alone(small_task, monkeypatch):
    trainer = Trainer(Config(**SMALL | {"steps": 1}), small_task)
    trainer.critic.register_forward_pre_hook(lambda _, inputs: too_many(inputs[0], 2))
    with pytest.warns(UserWarning, match="micro_batch_size = 2 instead of 4"):
        metrics = trainer.train_step().metrics
    assert trainer.baseline.learner.part == 2 and trainer.learner.part is None
    whole = Trainer(Config(**SMALL | {"steps": 1}), small_task).train_step().metrics
    assert metrics["value/loss"] == pytest.approx(whole["value/loss"], rel=1e-5)


def too_many(batch, most: int) -> None:
    if len(batch) > most:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_one_response_at_a_time_that_does_not_fit_is_an_error_with_the_remedy(small_task, monkeypatch):
    narrow(monkeypatch, "sppo_lab.update.token_losses", 0)
    trainer = Trainer(Config(**SMALL), small_task)
    with (
        pytest.warns(UserWarning, match="out of memory"),
        pytest.raises(LabError, match="one response at a time: lower max_new_tokens"),
    ):
        trainer.train_step()


def test_another_error_is_not_taken_for_a_lack_of_memory(small_task, monkeypatch):
    monkeypatch.setattr(
        "sppo_lab.update.token_losses", lambda *_: (_ for _ in ()).throw(RuntimeError("something else"))
    )
    with pytest.raises(RuntimeError, match="something else"):
        Trainer(Config(**SMALL), small_task).train_step()
