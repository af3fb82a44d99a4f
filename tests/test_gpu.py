"""What only a GPU can show: its samplers, its precisions, its memory.  Skipped where there is none."""

import importlib.util
import math
from dataclasses import replace

import pytest
import torch

from sppo_lab.budget import measure
from sppo_lab.config import Config
from sppo_lab.models import load_policy
from sppo_lab.rollout import Rollouts, sample
from sppo_lab.samplers import SAMPLERS
from sppo_lab.trainer import Trainer
from sppo_lab.update import accumulate_gradient

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
PROMPTS = ["7+5-3=", "1+1=", "9-4+2-1+8-3-3+5=", "3-8="]
SHORT = {"prompts_per_step": 8, "max_new_tokens": 24, "mini_batches": 1, "save_responses": 0, "device": "cuda"}


def seeded() -> torch.Generator:
    return torch.Generator("cuda").manual_seed(0)


def gradient(trainer: Trainer, rollouts: Rollouts) -> tuple[float, list[torch.Tensor]]:
    """The policy's loss on a batch, and its gradient."""
    learner = trainer.learner
    loss = accumulate_gradient(trainer.policy, learner, rollouts, trainer.config)["policy/loss"]
    return loss, [part.cpu() for part in learner.gradients()]


def test_the_gpu_gives_the_loss_and_the_gradient_of_the_cpu(small_task):
    config = Config(**SHORT | {"dtype": "float32", "algorithm": "grpo", "group_size": 4})
    on_gpu, on_cpu = Trainer(config, small_task), Trainer(config.replace(device="cpu"), small_task)
    _, rollouts = on_gpu.collect()
    rollouts.rewards = (torch.arange(len(rollouts), device="cuda") % 3 == 0).float()  # some signal in every group
    on_gpu.form_advantages(rollouts)
    batch = on_gpu.select(rollouts)
    loss, gradients = gradient(on_gpu, batch)
    same_loss, same_gradients = gradient(on_cpu, batch.to(torch.device("cpu")))
    assert loss == pytest.approx(same_loss, abs=1e-5)
    assert max(part.abs().max() for part in gradients) > 1e-3
    for got, expected in zip(gradients, same_gradients, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-3)


def test_a_recorded_graph_writes_the_responses_of_the_labs_sampler(monkeypatch):
    """Sampled in groups by a trained adapter, in several segments, from which responses leave."""
    policy = load_policy(Config(device="cuda", dtype="float32"))
    assert policy.sampler is SAMPLERS["graph"]
    torch.manual_seed(0)
    for weight in policy.weights.values():
        torch.nn.init.normal_(weight, std=0.02)
    monkeypatch.setattr("sppo_lab.samplers.graph.SEGMENT", 5)
    settings = {"max_new_tokens": 40, "group_size": 8, "temperature": 0.8}
    got, plain = (
        sample(replace(policy, sampler=SAMPLERS[name]), PROMPTS, **settings, generator=seeded())
        for name in ("graph", "lab")
    )
    assert len(set(got.lengths.tolist())) > 3 and got.texts == plain.texts
    torch.testing.assert_close(got.old_logprobs, plain.old_logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["qwen3_moe", "qwen3_5_text", "bloom"])
def test_a_model_is_sampled_and_trained_whether_it_can_be_recorded_or_not(unusual_model, small_task, kind):
    trainer = Trainer(Config(**SHORT, model=unusual_model(kind), lora_rank=2), small_task)
    for metrics in (trainer.train_step().metrics for _ in range(2)):
        assert math.isfinite(metrics["policy/loss"])


def test_every_sampler_writes_the_greedy_responses_of_the_cpu():
    expected = sample(load_policy(Config(device="cpu")), PROMPTS, max_new_tokens=20, greedy=True)
    policy = load_policy(Config(device="cuda", dtype="float32"))
    for sampler in SAMPLERS.values():
        got = sample(replace(policy, sampler=sampler), PROMPTS, max_new_tokens=20, greedy=True)
        assert got.texts == expected.texts and got.lengths.tolist() == expected.lengths.tolist()
        torch.testing.assert_close(got.old_logprobs.cpu(), expected.old_logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains(small_task, dtype):
    trainer = Trainer(Config(**SHORT, dtype=dtype, lr=1e-4), small_task)
    assert trainer.policy.model.dtype == getattr(torch, dtype)
    before = [weight.detach().clone() for weight in trainer.policy.weights.values()]
    for metrics in (trainer.train_step().metrics for _ in range(18)):  # a fresh loss scale takes up to 16
        assert math.isfinite(metrics["policy/loss"])
    assert metrics["policy/skipped_updates"] == 0
    moved = [(new - old).abs().max() for new, old in zip(trainer.policy.weights.values(), before, strict=True)]
    assert min(moved) > 0 and all(weight.dtype == torch.float32 for weight in trainer.policy.weights.values())


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_in_half_precision_the_ratio_starts_at_1_whoever_sampled(small_task, sampler):
    trainer = Trainer(Config(**SHORT, dtype="bfloat16", sampler=sampler), small_task)
    for metrics in (trainer.train_step().metrics for _ in range(2)):
        assert abs(metrics["policy/approx_kl"]) < 1e-4 and metrics["clip_ratio/region_mean"] == 0


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("critic", ["model", "adapter"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_base_in_4_bits_stays_as_it_is_and_its_adapter_learns(random_models, small_task, dtype, critic):
    config = Config(**SHORT, model=random_models["qwen2"], quantize="4bit", dtype=dtype, critic=critic)
    trainer = Trainer(config.replace(critic_lora_rank=4), small_task)
    packed = {
        name: weight.detach().clone()
        for name, weight in trainer.policy.model.named_parameters()
        if type(weight).__name__ == "Params4bit"
    }
    assert packed and all(weight.dtype == torch.uint8 for weight in packed.values())
    _, rollouts = trainer.collect()
    rollouts.rewards = (torch.arange(len(rollouts), device="cuda") % 2).float()
    trainer.form_advantages(rollouts)
    _, gradients = gradient(trainer, trainer.select(rollouts))
    assert any(part.abs().max() > 0 for part in gradients)
    for _ in range(2):
        assert math.isfinite(trainer.train_step().metrics["policy/loss"])
    now = dict(trainer.policy.model.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in packed.items())


def test_a_gpu_that_is_too_small_gets_fewer_responses_at_a_time_and_the_same_gradient(small_task):
    config = Config(**SHORT | {"prompts_per_step": 256, "max_new_tokens": 88, "dtype": "float32"})
    trainer = Trainer(config, small_task)
    trainer.policy = trainer.policy.endless()
    _, rollouts = trainer.collect()
    rollouts.rewards = (torch.arange(len(rollouts), device="cuda") % 2).float()
    trainer.form_advantages(rollouts)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    loss, gradients = gradient(trainer, rollouts)
    needed = torch.cuda.max_memory_allocated() - held
    trainer.learner.optimizer.zero_grad()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.8 * needed) / total)
    try:
        with pytest.warns(UserWarning, match="out of memory: going on with micro_batch_size = 128 instead of 256"):
            same_loss, same_gradients = gradient(trainer, rollouts)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert trainer.learner.part == 128
    assert same_loss == pytest.approx(loss, abs=1e-6)
    for got, expected in zip(same_gradients, gradients, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-3)


def test_a_run_on_the_gpu_goes_on_as_if_it_had_not_stopped(small_task):
    config = Config(**SHORT, dtype="float32", lr=1e-3)
    whole, first = Trainer(config, small_task), Trainer(config, small_task)
    for _ in range(2):
        whole.train_step()
        first.train_step()
    second = Trainer(config, small_task)
    second.load_state_dict(first.state_dict())
    for name, weight in first.policy.weights.items():
        second.policy.weights[name].data.copy_(weight.data)
    second.critic.load_state_dict(first.critic.state_dict())
    expected, got = whole.train_step(), second.train_step()
    assert got.rollouts.texts == expected.rollouts.texts
    for name in ("policy/loss", "value/loss"):
        assert got.metrics[name] == pytest.approx(expected.metrics[name], abs=1e-5)


def test_what_a_step_costs_is_measured_in_a_process_of_its_own(random_models):
    cost = measure(Config(**SHORT, model=random_models["qwen2"]))
    assert cost.sampler == "graph" and 0 < cost.loading_mb < cost.memory_mb < 1000 and cost.seconds > 0
