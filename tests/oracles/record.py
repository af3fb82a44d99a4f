"""Ask verl and TRL for every advantage and loss on random ragged batches, and write down what they say.

verl needs an older transformers than the lab uses, so it gets an environment of its own:

    python3 -m venv /tmp/oracles
    /tmp/oracles/bin/pip install torch==2.13.0 transformers==5.9.0 trl==1.16.0 tensordict==0.10.0 ray==2.60.0 \
        hydra-core codetiming peft
    /tmp/oracles/bin/pip install --no-deps verl==0.9.1
    /tmp/oracles/bin/python tests/oracles/record.py

It writes tests/oracles/expected.safetensors, inputs and answers, with the versions and the date in its metadata.
test_oracles.py compares the lab with it.
"""

import datetime
import importlib.metadata
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file

BATCHES, GROUPS, GROUP_SIZE, WIDTH, LIMIT = 4, 5, 4, 12, 20
ROWS = GROUPS * GROUP_SIZE


def inputs(seed: int) -> dict[str, torch.Tensor]:
    """A ragged batch: groups of responses with 0/1 rewards, one group all right and one all wrong."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, WIDTH + 1, (ROWS,), generator=generator)
    rewards = torch.randint(0, 2, (GROUPS, GROUP_SIZE), generator=generator).float()
    rewards[0], rewards[1] = 1.0, 0.0

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(ROWS, WIDTH, generator=generator)

    old = -1 + normal(0.3)
    return {
        "mask": (torch.arange(WIDTH) < lengths[:, None]).long(),
        "rewards": rewards.flatten(),
        "greedy_rewards": torch.randint(0, 2, (GROUPS,), generator=generator).float().repeat_interleave(GROUP_SIZE),
        "values": normal(0.5),
        "new_values": normal(0.5),
        "old_logprobs": old,
        "logprobs": old + normal(0.5),
        "reference_logprobs": old + normal(0.3),
        "advantages": normal(1.0),
        "sequence_advantages": torch.randn(ROWS, generator=generator),
    }


def ask_verl(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from verl.trainer.ppo import core_algos
    from verl.workers.config import ActorConfig

    mask = batch["mask"].float()
    last = mask.sum(1).long() - 1
    token_rewards = torch.zeros(ROWS, WIDTH)
    token_rewards[torch.arange(ROWS), last] = batch["rewards"]
    index = np.repeat(np.arange(GROUPS), GROUP_SIZE)
    found = {}
    for gamma, lam in ((1.0, 1.0), (0.95, 0.9)):
        advantages, returns = core_algos.compute_gae_advantage_return(
            token_rewards, batch["values"], mask, torch.tensor(gamma), torch.tensor(lam)
        )
        found |= {f"gae/{gamma}/{lam}/advantages": advantages, f"gae/{gamma}/{lam}/returns": returns}
    for name, by_std in (("grpo", True), ("dr-grpo", False)):
        found[name], _ = core_algos.compute_grpo_outcome_advantage(
            token_rewards, mask, index, epsilon=1e-4, norm_adv_by_std_in_grpo=by_std
        )
    found["rloo"], _ = core_algos.compute_rloo_outcome_advantage(token_rewards, mask, index)
    found["remax"], _ = core_algos.compute_remax_outcome_advantage(token_rewards, batch["greedy_rewards"], mask)

    def config(**changes) -> ActorConfig:
        settings = {"strategy": "fsdp", "rollout_n": 1, "ppo_micro_batch_size_per_gpu": 1}
        made = ActorConfig(**settings, **{"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2} | changes)
        made.global_batch_info["loss_scale_factor"] = LIMIT
        return made

    def gradient(name: str, mode: str, settings: ActorConfig, advantages: torch.Tensor) -> dict[str, torch.Tensor]:
        logprobs = batch["logprobs"].clone().requires_grad_()
        loss, _ = core_algos.get_policy_loss_fn(name)(
            batch["old_logprobs"], logprobs, advantages, mask, mode, config=settings
        )
        loss.backward()
        return {"loss": loss.detach(), "gradient": logprobs.grad}

    sequence = batch["sequence_advantages"][:, None] * mask
    wanted = {
        f"policy/{mode}": ("vanilla", mode, config(clip_ratio_c=3.0), batch["advantages"])
        for mode in ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")
    }
    wanted["policy/clip-higher"] = (
        "vanilla",
        "token-mean",
        config(clip_ratio_c=1.5, clip_ratio_high=0.28),
        batch["advantages"],
    )
    wanted["policy/gspo"] = ("gspo", "seq-mean-token-mean", config(), sequence)
    for name, arguments in wanted.items():
        found |= {f"{name}/{key}": value for key, value in gradient(*arguments).items()}

    found["value"], _ = core_algos.compute_value_loss(
        batch["new_values"], batch["advantages"], batch["values"], mask, 0.2, "token-mean"
    )
    for ours, theirs in (("k1", "kl"), ("k2", "mse"), ("k3", "low_var_kl")):
        found[f"kl/{ours}"] = core_algos.kl_penalty_forward(batch["logprobs"], batch["reference_logprobs"], theirs)
    return {f"verl/{name}": value for name, value in found.items()}


def ask_trl(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from trl import GRPOTrainer
    from trl.rewards import get_soft_overlong_punishment
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    found = {}
    for loss_type, level in (("grpo", "token"), ("bnpo", "token"), ("dr_grpo", "token"), ("grpo", "sequence")):
        logprobs = batch["logprobs"].clone().requires_grad_()
        trainer = SimpleNamespace(
            _get_per_token_logps_and_entropies=lambda *_, given=logprobs, **__: (given, torch.zeros_like(given), None),
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level=level,
            beta=0.04,
            loss_type=loss_type,
            epsilon_low=0.2,
            epsilon_high=0.28,
            use_vllm=False,
            aux_loss_enabled=False,
            _entropy_bonus_enabled=False,
            max_completion_length=LIMIT,
            current_gradient_accumulation_steps=1,
            model=SimpleNamespace(training=True),
            args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
            accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1),
            _metrics=defaultdict(lambda: defaultdict(list)),
        )
        empty = torch.zeros(ROWS, 0, dtype=torch.long)
        loss = GRPOTrainer._compute_loss(
            trainer,
            None,
            {
                "prompt_ids": empty,
                "prompt_mask": empty,
                "completion_ids": batch["mask"],
                "completion_mask": batch["mask"],
                "advantages": batch["sequence_advantages"],
                "old_per_token_logps": batch["old_logprobs"],
                "ref_per_token_logps": batch["reference_logprobs"],
            },
        )
        loss.backward()
        name = f"trl/{loss_type}/{level}"
        found |= {f"{name}/loss": loss.detach(), f"{name}/gradient": logprobs.grad}
    logits, ids = torch.stack([batch["values"], batch["logprobs"], batch["advantages"]], -1), batch["mask"]
    found["trl/logprobs"] = selective_log_softmax(logits, ids)
    found["trl/entropy"] = entropy_from_logits(logits)
    punish = get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=4)
    found["trl/overlong"] = torch.tensor(punish([list(range(length)) for length in range(1, 25)]))
    return found


def main() -> None:
    recorded = {}
    for seed in range(BATCHES):
        batch = inputs(seed)
        answers = ask_verl(batch) | ask_trl(batch)
        recorded |= {f"{seed}/{name}": tensor.contiguous().clone() for name, tensor in (batch | answers).items()}
    versions = {name: importlib.metadata.version(name) for name in ("verl", "trl", "torch", "transformers")}
    path = Path(__file__).with_name("expected.safetensors")
    save_file(recorded, path, metadata=versions | {"date": datetime.date.today().isoformat(), "limit": str(LIMIT)})
    print(f"{len(recorded)} tensors, {path.stat().st_size / 1024:.0f} KB in {path}")


if __name__ == "__main__":
    main()
