"""Every setting of a run is either carried over to verl, refused with a reason, or of no concern to it."""

import dataclasses
import re
from pathlib import Path

import pytest

from sppo_lab.algorithms import ALGORITHMS, get_algorithm
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.export.verl_settings import (
    ESTIMATORS,
    REFUSED,
    Facts,
    hydra_word,
    reasons_against,
    require_exportable,
    verl_settings,
)

FACTS = Facts(train_prompts=640, longest_prompt=20, steps_done=0)
DOCS = Path(__file__).parents[2] / "docs" / "export_verl.md"
ACTOR, ROLLOUT, CRITIC = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "critic"
NOT_CARRIED = None


def filled(**settings) -> Config:
    config = Config(**settings)
    return get_algorithm(config.algorithm).fill(config)


def exported(facts=FACTS, **settings):
    config = filled(**settings)
    require_exportable(config)
    return verl_settings(config, facts)


# setting: a change of it, with what it needs beside it, and what that does: settings of verl, a reason against, nothing
CASES = {
    "algorithm": [({"algorithm": "rloo"}, {"algorithm.adv_estimator": "rloo", "critic.enable": False})],
    "task": [
        ({"task": "gsm8k"}, NOT_CARRIED),  # in the data and the reward file
        ({"task": "mine.py"}, "no such file"),
    ],
    "data": [({"data": "x"}, NOT_CARRIED)],
    "test_data": [({"test_data": "x"}, NOT_CARRIED)],
    "model": [({"model": "x"}, NOT_CARRIED)],  # in the directories of the models
    "critic_model": [({"critic_model": "x"}, NOT_CARRIED)],
    "seed": [({"seed": 7}, {"data.seed": 7, f"{ROLLOUT}.seed": 7, f"{ACTOR}.data_loader_seed": 7})],
    "steps": [({"steps": 30}, {"trainer.total_training_steps": 30, "trainer.total_epochs": 3})],
    "prompts_per_step": [({"prompts_per_step": 32}, {"data.train_batch_size": 32, f"{ACTOR}.ppo_mini_batch_size": 16})],
    "group_size": [({"group_size": 4}, {f"{ROLLOUT}.n": 4})],
    "filter_groups": [
        (
            {"algorithm": "grpo", "filter_groups": True},
            {"algorithm.filter_groups.enable": True, "algorithm.filter_groups.metric": "acc"},
        )
    ],
    "max_gen_batches": [({"max_gen_batches": 3}, NOT_CARRIED)],
    "overlong_buffer": [
        (
            {"algorithm": "grpo", "overlong_buffer": 0.25},
            {"reward.reward_manager.name": "dapo", "+reward.reward_kwargs.overlong_buffer_cfg.len": 22.0},
        ),
        ({"overlong_buffer": 0.25}, "cross-entropy needs one in"),
    ],
    "temperature": [({"temperature": 0.6}, {f"{ROLLOUT}.temperature": 0.6, f"{ROLLOUT}.val_kwargs.temperature": 0.6})],
    "max_new_tokens": [
        (
            {"max_new_tokens": 30, "micro_batch_size": 2},
            {"data.max_response_length": 30, f"{ACTOR}.ppo_max_token_len_per_gpu": 100},
        )
    ],
    "advantage_scale": [
        ({"algorithm": "dr-grpo", "advantage_scale": "group"}, {"algorithm.norm_adv_by_std_in_grpo": True}),
        ({"advantage_scale": "whiten"}, "verl's sppo is scaled by none only"),
        ({"algorithm": "ppo", "advantage_scale": "none"}, "verl's gae is scaled by whiten only"),
    ],
    "gamma": [({"algorithm": "ppo", "gamma": 0.9}, {"algorithm.gamma": 0.9})],
    "gae_lambda": [({"algorithm": "ppo", "gae_lambda": 0.9}, {"algorithm.lam": 0.9})],
    "prune": [({"algorithm": "grpo", "prune": 0.5}, "leaves none out")],
    "tracker_decay": [({"tracker_decay": 0.5}, NOT_CARRIED)],
    "lr": [({"lr": 1e-5}, {f"{ACTOR}.optim.lr": 1e-5})],
    "lora_rank": [
        ({"lora_rank": 8}, {"actor_rollout_ref.model.lora_rank": 8}),
        ({"lora_rank": 1024}, "vLLM takes 512 at most"),
    ],
    "lora_alpha": [({"lora_alpha": 8.0}, {"actor_rollout_ref.model.lora_alpha": 8.0})],
    "epsilon": [({"epsilon": 0.1}, {f"{ACTOR}.clip_ratio_low": 0.1, f"{ACTOR}.clip_ratio_high": 0.1})],
    "epsilon_high": [({"epsilon_high": 0.3}, {f"{ACTOR}.clip_ratio_high": 0.3})],
    "dual_clip": [({"dual_clip": 3.0}, {f"{ACTOR}.clip_ratio_c": 3.0})],
    "importance_sampling_level": [
        ({"importance_sampling_level": "sequence"}, {f"{ACTOR}.policy_loss.loss_mode": "gspo"}),
        ({"importance_sampling_level": "sequence", "dual_clip": 3.0}, "no second clip"),
    ],
    "aggregation": [
        ({"aggregation": "seq-mean-token-mean"}, {f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean"}),
        ({"aggregation": "seq-mean-token-sum-norm"}, {f"{ACTOR}.loss_scale_factor": 88}),
    ],
    "kl_coef": [({"kl_coef": 0.01}, {f"{ACTOR}.use_kl_loss": True, f"{ACTOR}.kl_loss_coef": 0.01})],
    "kl_estimator": [({"kl_estimator": "k2"}, {f"{ACTOR}.kl_loss_type": "k2"})],
    "entropy_coef": [({"entropy_coef": 0.01}, {f"{ACTOR}.entropy_coeff": 0.01})],
    "mask_truncated": [({"mask_truncated": True}, "no such setting")],
    "epochs": [({"epochs": 3}, {f"{ACTOR}.ppo_epochs": 3})],
    "mini_batches": [
        ({"mini_batches": 4}, {f"{ACTOR}.ppo_mini_batch_size": 16, f"{CRITIC}.ppo_mini_batch_size": 16}),
        ({"mini_batches": 3}, "does not divide"),
    ],
    "sampler": [({"sampler": "continuous"}, NOT_CARRIED)],
    "sample_batch_size": [({"sample_batch_size": 4}, NOT_CARRIED)],
    "gradient_checkpointing": [
        (
            {"gradient_checkpointing": True},
            {
                "actor_rollout_ref.model.enable_gradient_checkpointing": True,
                "critic.model.enable_gradient_checkpointing": True,
            },
        )
    ],
    "attention": [({"attention": "eager"}, NOT_CARRIED)],
    "quantize": [({"quantize": "4bit"}, "whole weights")],
    "critic": [({"critic": "adapter"}, "a model of its own")],
    "micro_batch_size": [
        ({"micro_batch_size": 2}, {f"{ACTOR}.ppo_max_token_len_per_gpu": 2 * (20 + 88)}),
        ({"micro_batch_size": 2}, {"+critic.ppo_infer_max_token_len_per_gpu": 2 * (20 + 88)}),
    ],
    "max_grad_norm": [
        ({"max_grad_norm": 0.5}, {f"{ACTOR}.optim.clip_grad": 0.5, f"{CRITIC}.optim.clip_grad": 0.5}),
    ],
    "critic_lr": [({"critic_lr": 1e-5}, {f"{CRITIC}.optim.lr": 1e-5})],
    "critic_lora_rank": [({"critic_lora_rank": 4}, {"critic.model.lora_rank": 4, "critic.model.lora_alpha": 8})],
    "value_clip": [({"algorithm": "ppo", "value_clip": 0.1}, {"critic.cliprange_value": 0.1})],
    "critic_warmup": [({"critic_warmup": 5}, {"trainer.critic_warmup": 6})],
    "eval_samples": [({"eval_samples": 4}, {f"{ROLLOUT}.val_kwargs.n": 4})],
    "eval_prompts": [({"eval_prompts": 4}, NOT_CARRIED)],  # in the data
    "tracker": [({"tracker": "wandb"}, NOT_CARRIED)],
    "gradient_repeats": [({"gradient_repeats": 4}, NOT_CARRIED)],
    "checkpoint_every": [({"checkpoint_every": 5}, {"trainer.save_freq": 5})],
    "keep_checkpoints": [({"keep_checkpoints": 5}, {"trainer.max_actor_ckpt_to_keep": 5})],
    "save_responses": [({"save_responses": 0}, {"trainer.rollout_data_dir": None})],
    "device": [({"device": "cuda"}, NOT_CARRIED)],
    "dtype": [({"dtype": "bfloat16"}, NOT_CARRIED), ({"dtype": "float32"}, "FlashAttention")],
}


def test_every_setting_and_algorithm_is_decided():
    assert set(CASES) == {setting.name for setting in dataclasses.fields(Config)}
    assert set(ESTIMATORS) | set(REFUSED) == set(ALGORITHMS)
    assert not set(ESTIMATORS) & set(REFUSED)


def test_the_document_has_a_row_for_each():
    rows = re.findall(r"^\| `([\w-]+)` \|", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(rows) == set(CASES) | set(ALGORITHMS)


@pytest.mark.parametrize(
    ("settings", "expected"), [case for cases in CASES.values() for case in cases], ids=lambda value: str(value)[:60]
)
def test_what_becomes_of_a_setting(settings, expected):
    if isinstance(expected, str):
        with pytest.raises(LabError, match=expected):
            exported(**settings)
    elif expected is NOT_CARRIED:
        assert exported(**settings) == exported()
    else:
        assert {key: exported(**settings)[key] for key in expected} == expected
        assert {key: exported().get(key) for key in expected} != expected


@pytest.mark.parametrize("name", REFUSED)
def test_an_algorithm_that_verl_lacks_is_refused_with_the_reason(name):
    with pytest.raises(LabError, match=re.escape(f"algorithm {name}: {REFUSED[name]}")):
        exported(algorithm=name)


def test_all_reasons_are_said_at_once():
    assert len(reasons_against(filled(mask_truncated=True, mini_batches=3, dtype="float32"))) == 3


@pytest.mark.parametrize("name", ESTIMATORS)
def test_only_sppo_needs_the_plugin(name):
    found = exported(algorithm=name)
    assert ("trainer.v1.trainer_mode" in found) == name.startswith("sppo")
    assert found["critic.enable"] == (name in ("sppo", "sppo-small-critic", "ppo"))
    assert found["algorithm.norm_adv_by_std_in_grpo"] == (name in ("grpo", "dapo"))


def test_only_an_asked_for_dual_clip_can_act():
    """verl keeps ratios below e^20."""
    assert exported()[f"{ACTOR}.clip_ratio_c"] > 4.9e8


def test_what_the_run_has_done_is_not_done_again():
    def at(step):
        found = exported(Facts(640, 20, steps_done=step), steps=100, critic_warmup=30)
        return found["trainer.total_training_steps"], found["trainer.critic_warmup"]

    assert [at(step) for step in (0, 10, 30, 99)] == [(100, 31), (90, 21), (70, 0), (1, 0)]
    assert at(100) == (100, 0)  # a complete run gets as many again


def test_hydra_words():
    assert [hydra_word("a.b", value) for value in (None, True, 1e-05, "sppo", ["console"], "$here/a b")] == [
        '"a.b=null"',
        '"a.b=true"',
        '"a.b=1e-05"',
        '"a.b=sppo"',
        '"a.b=[console]"',
        "\"a.b='$here/a b'\"",
    ]
