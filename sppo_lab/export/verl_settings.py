"""What the settings of a run are called in verl 0.9.1, and which of them it cannot honour.

docs/export_verl.md has the same as a table, with the reasons.
"""

from dataclasses import dataclass
from typing import Any

from sppo_lab.algorithms import get_algorithm
from sppo_lab.config import Config
from sppo_lab.errors import LabError

HERE = "$here"  # the directory of the export, as its launch script writes it
PLUGIN = "sppo_lab.export.verl_plugin"
REWARD_FILE = "lab/sppo_lab/export/verl_reward.py"
NO_DUAL_CLIP = 1e9  # verl always clips twice; it keeps every ratio below e^20, so this bound is never reached
LARGEST_LORA_RANK = 512  # of vLLM

ESTIMATORS = {  # algorithm to verl's name of its advantage, and the scalings that it can have there
    "sppo": ("sppo", ("none",)),
    "sppo-small-critic": ("sppo", ("none",)),
    "ppo": ("gae", ("whiten",)),
    "rloo": ("rloo", ("none",)),
    "grpo": ("grpo", ("group", "none")),
    "dr-grpo": ("grpo", ("group", "none")),
    "dapo": ("grpo", ("group", "none")),
}
REFUSED = {  # algorithm to the reason
    "ppo-bce": "verl's GAE takes the critic's output for V itself, not for its logit",
    "reinforce": "verl has no advantage whose baseline is the mean of the batch",
    "remax": "verl's current trainer samples no greedy response; only its legacy one does",
    "cppo": "verl updates on every response and leaves none out by |A|",
    "spo": "verl keeps no record of each prompt's solve rate",
    "poise": "verl hands the policy's hidden states to no baseline",
    "steppo": "verl's actions are tokens; it knows no reasoning steps",
}


@dataclass(frozen=True)
class Facts:
    """What the settings alone do not say."""

    train_prompts: int
    longest_prompt: int  # in tokens, of all prompts
    steps_done: int  # of the checkpoint that is exported
    name: str = "run"  # of the experiment, in verl's logs


def require_exportable(config: Config) -> None:
    """Raise LabError with every reason for which verl cannot go on with a run of these settings."""
    reasons = reasons_against(config)
    if reasons:
        raise LabError(
            f"verl 0.9.1 cannot go on with this run: {'; '.join(reasons)}. docs/export_verl.md says what it can."
        )


def reasons_against(config: Config) -> list[str]:
    """The settings that verl cannot honour, each with the reason; ``config`` is filled by its algorithm."""
    if config.algorithm in REFUSED:
        return [f"algorithm {config.algorithm}: {REFUSED[config.algorithm]}"]
    estimator, scalings = ESTIMATORS[config.algorithm]
    checks = {
        f"advantage_scale = {config.advantage_scale}: verl's {estimator} is scaled by {' or '.join(scalings)} only": (
            config.advantage_scale not in scalings
        ),
        f"prune = {config.prune:g}: {REFUSED['cppo']}": config.prune > 0,
        f"overlong_buffer = {config.overlong_buffer:g}: verl gives the critic the penalised reward, which falls below "
        "0, and cross-entropy needs one in [0, 1]": estimator == "sppo" and config.overlong_buffer > 0,
        "mask_truncated: verl has no such setting": config.mask_truncated,
        f"task = {config.task}: verl's machines have no such file": config.task.endswith(".py"),
        "critic = adapter: verl's critic is a model of its own": needs_critic(config) and config.critic == "adapter",
        "quantize = 4bit: verl trains on whole weights": config.quantize is not None,
        "dual_clip with importance_sampling_level = sequence: verl's GSPO loss has no second clip": (
            config.importance_sampling_level == "sequence" and config.dual_clip is not None
        ),
        "dtype = float32: verl loads the critic with FlashAttention, which computes in half precision only": (
            config.dtype == "float32"
        ),
        f"mini_batches = {config.mini_batches} does not divide prompts_per_step = {config.prompts_per_step}: verl "
        "fills the rest up with padding": config.prompts_per_step % config.mini_batches != 0,
        f"lora_rank = {config.lora_rank}: vLLM takes {LARGEST_LORA_RANK} at most": config.lora_rank > LARGEST_LORA_RANK,
    }
    return [reason for reason, applies in checks.items() if applies]


def verl_settings(config: Config, facts: Facts) -> dict[str, Any]:
    """Hydra key to value, for ``verl.trainer.main_ppo``.  A leading ``+`` adds a key that verl's YAML leaves out.

    ``config`` is filled by its algorithm and exportable.  Paths begin with ``HERE``.
    """
    steps = steps_to_go(config, facts)
    return (
        data_settings(config, facts)
        | policy_settings(config)
        | sampling_settings(config)
        | advantage_settings(config)
        | batch_settings(config, facts)
        | (critic_settings(config) if needs_critic(config) else {"critic.enable": False})
        | reward_settings(config)
        | {
            "trainer.project_name": "sppo-lab",
            "trainer.experiment_name": facts.name,
            "trainer.logger": ["console"],
            "trainer.n_gpus_per_node": 1,
            "trainer.nnodes": 1,
            "trainer.total_training_steps": steps,
            "trainer.total_epochs": -(-steps // (facts.train_prompts // config.prompts_per_step)),
            "trainer.critic_warmup": warmup_steps(config, facts),
            "trainer.val_before_train": True,
            "trainer.test_freq": steps,
            "trainer.save_freq": config.checkpoint_every,
            "trainer.max_actor_ckpt_to_keep": config.keep_checkpoints,
            "trainer.max_critic_ckpt_to_keep": config.keep_checkpoints,
            "trainer.default_local_dir": f"{HERE}/checkpoints",
            "trainer.rollout_data_dir": f"{HERE}/responses" if config.save_responses else None,
            "+ray_kwargs.ray_init.runtime_env.env_vars.PYTHONPATH": "$PYTHONPATH",
        }
        | (plugin_settings() if needs_plugin(config) else {})
    )


def steps_to_go(config: Config, facts: Facts) -> int:
    """The steps that the run has left; a complete run gets as many again."""
    return max(config.steps - facts.steps_done, 0) or config.steps


def warmup_steps(config: Config, facts: Facts) -> int:
    """verl's ``critic_warmup`` is the first step, counted from 1, that updates the policy."""
    left = max(config.critic_warmup - facts.steps_done, 0)
    return left + 1 if left else 0


def needs_critic(config: Config) -> bool:
    return get_algorithm(config.algorithm).has_critic


def needs_plugin(config: Config) -> bool:
    """Whether the algorithm is one that verl does not have."""
    return ESTIMATORS[config.algorithm][0] == "sppo"


def plugin_settings() -> dict[str, Any]:
    return {
        "trainer.v1.trainer_mode": "sppo",
        "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES": PLUGIN,
    }


def data_settings(config: Config, facts: Facts) -> dict[str, Any]:
    return {
        "data.train_files": f"{HERE}/data/train.parquet",
        "data.val_files": f"{HERE}/data/test.parquet",
        "data.max_prompt_length": facts.longest_prompt,
        "data.max_response_length": config.max_new_tokens,
        "data.train_batch_size": config.prompts_per_step,
        "data.shuffle": True,
        "data.seed": config.seed,
    }


def policy_settings(config: Config) -> dict[str, Any]:
    """The policy: base, adapter, optimizer and loss."""
    actor = "actor_rollout_ref.actor"
    high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    found = {
        "actor_rollout_ref.model.path": f"{HERE}/model",
        "actor_rollout_ref.model.lora_adapter_path": f"{HERE}/adapter",
        "actor_rollout_ref.model.lora_rank": config.lora_rank,
        "actor_rollout_ref.model.lora_alpha": config.lora_alpha,
        f"{actor}.policy_loss.loss_mode": "gspo" if config.importance_sampling_level == "sequence" else "vanilla",
        f"{actor}.clip_ratio": config.epsilon,
        f"{actor}.clip_ratio_low": config.epsilon,
        f"{actor}.clip_ratio_high": high,
        f"{actor}.clip_ratio_c": NO_DUAL_CLIP if config.dual_clip is None else config.dual_clip,
        f"{actor}.loss_agg_mode": config.aggregation,
        f"{actor}.entropy_coeff": config.entropy_coef,
        f"{actor}.use_kl_loss": config.kl_coef > 0,
        f"{actor}.kl_loss_coef": config.kl_coef,
        f"{actor}.kl_loss_type": config.kl_estimator,
        f"{actor}.ppo_epochs": config.epochs,
        "actor_rollout_ref.model.enable_gradient_checkpointing": config.gradient_checkpointing,
    }
    if config.aggregation == "seq-mean-token-sum-norm":
        found[f"{actor}.loss_scale_factor"] = config.max_new_tokens
    return found | optimizer_settings(actor, config.lr, config)


def optimizer_settings(owner: str, lr: float, config: Config) -> dict[str, Any]:
    """AdamW without weight decay at a constant rate, on mini-batches in random order."""
    return {
        f"{owner}.optim.lr": lr,
        f"{owner}.optim.weight_decay": 0.0,
        f"{owner}.optim.clip_grad": config.max_grad_norm,
        f"{owner}.ppo_mini_batch_size": config.prompts_per_step // config.mini_batches,  # in prompts
        f"{owner}.shuffle": True,
        f"{owner}.data_loader_seed": config.seed,
    }


def sampling_settings(config: Config) -> dict[str, Any]:
    """vLLM, and the evaluation: samples at the temperature of training."""
    rollout = "actor_rollout_ref.rollout"
    return {
        f"{rollout}.name": "vllm",
        f"{rollout}.load_format": "safetensors",  # the base from the directory; the adapter is sent at every step
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.n": config.group_size,
        f"{rollout}.temperature": config.temperature,
        f"{rollout}.top_p": 1.0,
        f"{rollout}.top_k": -1,
        f"{rollout}.seed": config.seed,
        f"{rollout}.val_kwargs.n": config.eval_samples,
        f"{rollout}.val_kwargs.do_sample": True,
        f"{rollout}.val_kwargs.temperature": config.temperature,
        f"{rollout}.val_kwargs.top_p": 1.0,
        f"{rollout}.val_kwargs.top_k": -1,
    }


def advantage_settings(config: Config) -> dict[str, Any]:
    found = {
        "algorithm.adv_estimator": ESTIMATORS[config.algorithm][0],
        "algorithm.gamma": config.gamma,
        "algorithm.lam": config.gae_lambda,
        "algorithm.norm_adv_by_std_in_grpo": config.advantage_scale == "group",
        "algorithm.use_kl_in_reward": False,
        "algorithm.filter_groups.enable": config.filter_groups,
    }
    if config.filter_groups:
        found["algorithm.filter_groups.metric"] = "acc"  # the verifier's reward, before a penalty for length
    return found


def batch_settings(config: Config, facts: Facts) -> dict[str, Any]:
    """Micro-batches by tokens: as many responses of the greatest length as a micro-batch of the lab holds."""
    whole = config.prompts_per_step // config.mini_batches * config.group_size
    tokens = (config.micro_batch_size or whole) * (facts.longest_prompt + config.max_new_tokens)
    found = {
        "actor_rollout_ref.actor.use_dynamic_bsz": True,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": tokens,
    }
    if needs_critic(config):
        found["+critic.ppo_infer_max_token_len_per_gpu"] = tokens  # what verl's trainer reads for training too
    return found


def critic_settings(config: Config) -> dict[str, Any]:
    found = {
        "critic.enable": True,
        "critic.model.path": f"{HERE}/critic",
        "critic.ppo_epochs": 1,
        "critic.model.enable_gradient_checkpointing": config.gradient_checkpointing,
        "critic.cliprange_value": config.value_clip,
        "critic.loss_agg_mode": "token-mean",
    }
    if config.critic_lora_rank > 0:
        found |= {
            "critic.model.lora_adapter_path": f"{HERE}/critic_adapter",
            "critic.model.lora_rank": config.critic_lora_rank,
            "critic.model.lora_alpha": 2 * config.critic_lora_rank,
        }
    return found | optimizer_settings("critic", config.critic_lr, config)


def reward_settings(config: Config) -> dict[str, Any]:
    found = {
        "reward.custom_reward_function.path": f"{HERE}/{REWARD_FILE}",
        "reward.custom_reward_function.name": "compute_score",
    }
    if config.overlong_buffer > 0:
        buffer = "+reward.reward_kwargs.overlong_buffer_cfg"
        found |= {
            "reward.reward_manager.name": "dapo",
            "+reward.reward_kwargs.max_resp_len": config.max_new_tokens,
            f"{buffer}.enable": True,
            f"{buffer}.len": config.overlong_buffer * config.max_new_tokens,
            f"{buffer}.penalty_factor": 1.0,
            f"{buffer}.log": False,
        }
    return found


def hydra_word(key: str, value: Any) -> str:
    """One word of the launch script, in the double quotes of a shell: ``"data.train_batch_size=64"``."""
    return f'"{key}={_hydra_value(value)}"'


def _hydra_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_hydra_value, value))}]"
    return f"'{value}'" if isinstance(value, str) and not value.isidentifier() else str(value)
