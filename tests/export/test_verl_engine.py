"""An export in the hands of verl, on a CPU.  docs/export_verl.md says how to make the environment that these need."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from record_verl import BATCHES, ask_verl, inputs

from sppo_lab.advantage import sequence_advantage
from sppo_lab.loss import bce_value_loss
from sppo_lab.models import load_policy
from sppo_lab.recorder import Recorder
from sppo_lab.rollout import encode_prompts
from sppo_lab.tasks.chain_sum import chain_sum_rewards

verl = pytest.importorskip("verl", reason="needs verl 0.9.1 in an environment of its own: see docs/export_verl.md")
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def composed(export, tmp_path_factory):
    """What verl's main makes of the launch script, as Hydra prints it; the python3 on the path is this one."""
    from omegaconf import OmegaConf

    bin_folder = tmp_path_factory.mktemp("bin")
    (bin_folder / "python3").write_text(f'#!{shutil.which("bash")}\nexec "{sys.executable}" "$@"\n')
    (bin_folder / "python3").chmod(0o755)
    environment = os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", str(export / "launch.sh"), "trainer.nnodes=2", "--cfg", "job", "--resolve"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return OmegaConf.create(result.stdout[result.stdout.index("actor_rollout_ref:") :])


def test_the_settings_pass_verls_validation(composed):
    """All but the check of the LoRA rank, which asks vLLM and is left out for another engine."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    assert composed.trainer.nnodes == 2  # after the name of the script, so it wins
    assert composed.algorithm.adv_estimator == "sppo" and need_critic(composed)
    assert composed.critic.ppo_mini_batch_size == 2 and composed.actor_rollout_ref.rollout.name == "vllm"
    assert composed.ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES.startswith("sppo_lab.")
    composed.actor_rollout_ref.rollout.name = "sglang"
    validate_config(composed, need_reference_policy(composed), need_critic(composed))


def test_the_configuration_objects_hold_what_was_said(composed, export):
    from verl.utils.config import omega_conf_to_dataclass

    critic = omega_conf_to_dataclass(composed.critic)
    assert critic.ppo_infer_max_token_len_per_gpu == 2 * (composed.data.max_prompt_length + 12)
    assert critic.model.path == f"{export}/critic" and critic.optim.clip_grad == 1.0
    policy = omega_conf_to_dataclass(composed.actor_rollout_ref.model)
    assert policy.lora_rank == 16 and policy.tokenizer.chat_template
    rollout = omega_conf_to_dataclass(composed.actor_rollout_ref.rollout)
    assert rollout.n == 1 and rollout.val_kwargs.n == 2 and rollout.response_length == 12


def test_verls_dataset_reads_the_labs_tokens(composed, run, export, problems):
    from verl.trainer.ppo.utils import create_rl_dataset
    from verl.utils import hf_tokenizer
    from verl.utils.tokenizer import normalize_token_ids

    tokenizer = hf_tokenizer(str(export / "model"))
    composed.data.filter_overlong_prompts = True
    dataset = create_rl_dataset(composed.data.train_files, composed.data, tokenizer, None)
    assert len(dataset) == len(problems)
    policy = load_policy(Recorder.open(run).config)
    for row, (question, answer) in zip((dataset[i] for i in range(len(dataset))), problems, strict=True):
        assert row["reward_model"]["ground_truth"] == answer
        found = tokenizer.apply_chat_template(row["raw_prompt"], add_generation_prompt=True, tokenize=True)
        assert normalize_token_ids(found) == encode_prompts(policy, [question], 12)[0][0].tolist()


def test_verl_scores_as_the_lab_does(composed, export):
    import numpy as np
    from tensordict import TensorDict
    from verl.protocol import DataProto
    from verl.trainer.ppo.reward import load_reward_manager
    from verl.utils import hf_tokenizer

    async def score(text: str) -> float:
        tokenizer = hf_tokenizer(str(export / "model"))
        manager = load_reward_manager(composed, tokenizer)
        ids = torch.tensor([tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]])
        columns = {"data_source": "chain-sum", "reward_model": {"ground_truth": "9"}, "extra_info": {}}
        data = DataProto(
            batch=TensorDict({"responses": ids, "attention_mask": torch.ones_like(ids)}, batch_size=1),
            non_tensor_batch={name: np.array([value], dtype=object) for name, value in columns.items()},
        )
        return (await manager.run_single(data))["reward_score"]

    texts = ["7+5=12;12-3=9#9", "#9", "#8", "9", "#9#", "# 9 "]
    assert [asyncio.run(score(text)) for text in texts] == chain_sum_rewards(texts, ["9"] * len(texts))


def test_the_plugin_registers_itself():
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn
    from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls

    from sppo_lab.export import verl_plugin

    assert get_adv_estimator_fn("sppo") is verl_plugin.sppo_advantage
    assert issubclass(get_trainer_cls("sppo"), PPOTrainerSync)


def test_the_trainer_is_synchronous_and_gives_the_critic_its_loss(composed):
    """verl's own constructor, on the exported settings; the workers are a stand-in."""
    from sppo_lab.export import verl_plugin

    trainer = verl_plugin.SPPOTrainer(composed)
    assert trainer.trainer_mode == "sync" and trainer.use_critic
    assert type(trainer.replay_buffer).__name__ == "ReplayBuffer"
    given = []
    trainer.critic_wg = SimpleNamespace(set_loss_fn=given.append)
    trainer.checkpoint_manager = SimpleNamespace(update_weights=lambda step: None)
    trainer.global_steps = 0
    trainer.on_init_end()
    assert given == [verl_plugin.prompt_critic_loss]


@pytest.mark.parametrize("seed", range(BATCHES))
@pytest.mark.parametrize("parts", [1, 3, 5])
def test_advantage_and_loss_equal_the_labs(seed, parts):
    batch = inputs(seed)
    found = ask_verl(batch, parts)
    ends = (batch["prompts"] + batch["responses"]).cumsum(0) - batch["responses"] - 1
    outputs = batch["outputs"].requires_grad_()
    advantage = sequence_advantage(batch["rewards"], torch.sigmoid(outputs[ends].detach()))
    loss = bce_value_loss(outputs[ends], batch["rewards"]).mean()
    loss.backward()
    for row, length in enumerate(batch["responses"].tolist()):
        expected = advantage[row].expand(length)
        torch.testing.assert_close(found["advantages"][row, :length], expected, atol=1e-6, rtol=0)
        assert not found["advantages"][row, length:].any()
    torch.testing.assert_close(found["loss"], loss.detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found["gradient"], outputs.grad, atol=1e-6, rtol=0)


def test_the_recorded_answers_are_still_verls():
    from safetensors.torch import load_file

    recorded = load_file(Path(__file__).with_name("expected.safetensors"))
    for name, tensor in ask_verl(inputs(0)).items():
        torch.testing.assert_close(tensor, recorded[f"0/{name}"], atol=1e-6, rtol=0)


def test_another_estimator_is_left_to_verl():
    import numpy as np
    from tensordict import TensorDict
    from verl.protocol import DataProto
    from verl.trainer.ppo.v1 import utils

    from sppo_lab.export import verl_plugin  # noqa: F401

    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    batch = TensorDict({"token_level_rewards": rewards, "response_mask": torch.ones(2, 2)}, batch_size=2)
    data = DataProto(batch=batch, non_tensor_batch={"uid": np.array(["a", "a"], dtype=object)})
    found = utils.compute_advantage(data, adv_estimator="rloo", config={}).batch["advantages"]
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))


def test_verl_trains_the_adapters_and_the_critics_head(make_run, tmp_path):
    """Through the function that puts an adapter on verl's models."""
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    from sppo_lab.export.verl import export_verl

    out = export_verl(make_run(critic_lora_rank=4), tmp_path / "out").parent
    for kind, folder, adapter in (
        (AutoModelForCausalLM, "model", "adapter"),
        (AutoModelForTokenClassification, "critic", "critic_adapter"),
    ):
        settings = SimpleNamespace(lora_adapter_path=str(out / adapter), use_shm=False)
        engine = SimpleNamespace(model_config=settings)
        adapted = FSDPEngine._build_lora_module(engine, kind.from_pretrained(out / folder))
        named = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
        assert any("lora_A" in name for name in named)
        assert all("lora_" in name or "score" in name for name in named)
        assert any("score" in name for name in named) == (folder == "critic")


def test_another_version_of_verl_is_refused():
    code = "import verl; verl.__version__ = '0.8.0'; import sppo_lab.export.verl_plugin"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0 and "pip install verl==0.9.1" in result.stderr
