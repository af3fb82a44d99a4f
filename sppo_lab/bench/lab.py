"""The lab's side of the comparison: its loop, and its sampling beside ``transformers.generate``."""

import time
from collections.abc import Callable

import torch

from sppo_lab.bench.floor import sample_floor, update_floor
from sppo_lab.bench.setup import GROUP, UPDATES, Setup, Timing
from sppo_lab.config import Config
from sppo_lab.processes import peak_memory_mb
from sppo_lab.rollout import encode_prompts
from sppo_lab.tasks import Problem
from sppo_lab.trainer import Trainer


def lab_config(setup: Setup, sampler: str = "auto") -> Config:
    return Config(
        algorithm="grpo",
        model=setup.model,
        sampler=sampler,
        prompts_per_step=setup.responses_per_batch // GROUP,
        group_size=GROUP,
        max_new_tokens=setup.max_new_tokens,
        mini_batches=UPDATES,
        lora_rank=setup.lora_rank,
        lora_alpha=2.0 * setup.lora_rank,
        lr=setup.lr,
        save_responses=0,
        steps=setup.batches + 1,
    )


def make_trainer(setup: Setup, sampler: str = "auto") -> Trainer:
    trainer = Trainer(lab_config(setup, sampler))
    if setup.full_length:
        trainer.policy = trainer.policy.endless()
    return trainer


def train_with_lab(setup: Setup) -> Timing:
    """The loop as it is."""
    trainer = make_trainer(setup)
    trainer.train_step()
    tokens, started = trainer.num_tokens, time.perf_counter()
    records = [trainer.train_step() for _ in range(setup.batches)]
    seconds = time.perf_counter() - started
    memory = peak_memory_mb()
    batches = [record.rollouts for record in records]
    return Timing(
        responses=setup.batches * setup.responses_per_batch,
        tokens=trainer.num_tokens - tokens,
        sample_seconds=sum(record.metrics["time/sample"] for record in records),
        seconds=seconds,
        memory_mb=memory,
        sample_floor=sum(sample_floor(trainer.policy.model, batch) for batch in batches),
        update_floor=sum(update_floor(trainer.policy.model, batch) for batch in batches),
    )


def sample_with_lab(setup: Setup) -> Timing:
    """Sampling alone, from the policy before training."""
    return sampling(make_trainer(setup), setup, write)


def sample_with_continuous_batching(setup: Setup) -> Timing:
    """The same prompts and the same policy through transformers' continuous batching."""
    return sampling(make_trainer(setup, "continuous"), setup, write)


def sample_with_generate(setup: Setup) -> Timing:
    """The same through ``transformers.generate`` as anybody would call it."""
    return sampling(make_trainer(setup), setup, generate)


def write(trainer: Trainer, problems: list[Problem]) -> int:
    """Sample by the trainer's own sampler; returns the response tokens."""
    return int(trainer.sample(problems, group_size=GROUP).lengths.sum())


def generate(trainer: Trainer, problems: list[Problem]) -> int:
    """Sample by ``transformers.generate``; returns the response tokens."""
    policy, limit = trainer.policy, trainer.config.max_new_tokens
    ids, mask = encode_prompts(policy, [problem.prompt for problem in problems], limit)
    ids, mask = ids.repeat_interleave(GROUP, 0), mask.repeat_interleave(GROUP, 0)
    written = policy.model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=limit,
        min_new_tokens=limit if policy.stop_ids == policy.endless().stop_ids else None,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=policy.pad_id,
    )[:, ids.shape[1] :]
    ended = torch.isin(written, torch.tensor(policy.stop_ids, device=written.device))
    before_end = ended.cumsum(1) - ended.long() == 0
    return int(before_end.sum())


def sampling(trainer: Trainer, setup: Setup, write: Callable[[Trainer, list[Problem]], int]) -> Timing:
    """``write`` one batch after the other; it returns how many tokens it wrote."""
    write(trainer, trainer.next_problems())
    problems = [trainer.next_problems() for _ in range(setup.batches)]
    with torch.no_grad():
        started = time.perf_counter()
        tokens = sum(write(trainer, part) for part in problems)
        seconds = time.perf_counter() - started
    return Timing(setup.batches * setup.responses_per_batch, tokens, seconds, seconds, peak_memory_mb())
