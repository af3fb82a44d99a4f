"""The files of an export, looked at without verl."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from sppo_lab.checkpoint import load_weights
from sppo_lab.cli import main
from sppo_lab.errors import LabError
from sppo_lab.export import verl_models
from sppo_lab.export.verl import CARRIED, export_verl
from sppo_lab.export.verl_models import longest_prompt
from sppo_lab.models import load_critic, load_policy
from sppo_lab.recorder import Recorder
from sppo_lab.rollout import encode_prompts
from sppo_lab.tasks.chain_sum import read_chain_sum


def trained(run):
    """Policy and critic of the run's checkpoint, and its prompts as ids and mask."""
    recorder = Recorder.open(run)
    policy = load_policy(recorder.config)
    critic = load_critic(recorder.config, policy)
    load_weights(recorder.checkpoint_of(), policy, critic)
    return (
        policy,
        critic,
        *encode_prompts(policy, [problem.prompt for problem in read_chain_sum(recorder.config.data)], 12),
    )


def test_the_data_has_verls_columns(export, problems):
    train = pd.read_parquet(export / "data" / "train.parquet")
    assert set(train) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    found = [(row.prompt[0]["content"], row.reward_model["ground_truth"]) for row in train.itertuples()]
    assert found == problems
    assert [row["index"] for row in train["extra_info"]] == list(range(len(problems)))
    assert set(train["data_source"]) == {"chain-sum"}


def test_the_test_problems_are_those_that_the_run_evaluates_on(export, problems):
    test = pd.read_parquet(export / "data" / "test.parquet")
    assert [row[0]["content"] for row in test["prompt"]] == [question for question, _ in problems[:2]]


@torch.no_grad()
def test_base_and_adapter_are_the_trained_policy(run, export):
    policy, _, ids, mask = trained(run)
    base = AutoModelForCausalLM.from_pretrained(export / "model")
    plain = base(input_ids=ids, attention_mask=mask).logits
    found = PeftModel.from_pretrained(base, export / "adapter")(input_ids=ids, attention_mask=mask).logits
    expected = policy.model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain)


@pytest.mark.parametrize("rank", [0, 4], ids=["whole", "lora"])
def test_the_critic_says_what_it_said(make_run, tmp_path, rank):
    run = make_run(critic_lora_rank=rank)
    export = export_verl(run, tmp_path / "out").parent
    _, critic, ids, mask = trained(run)
    model = AutoModelForTokenClassification.from_pretrained(export / "critic")
    assert model.config.architectures == ["LlamaForTokenClassification"] and model.config.num_labels == 1
    untrained = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    if rank:
        model = PeftModel.from_pretrained(model, export / "critic_adapter", is_trainable=True)
        named = [name for name, weight in model.named_parameters() if weight.requires_grad]
        assert all("lora_" in name or "score" in name for name in named)
        assert sum("score" in name for name in named) == 2
        assert not torch.allclose(untrained, critic.hidden(ids, mask))
    expected = critic.prompt_output(ids, mask)
    assert expected.abs().min() > 0
    torch.testing.assert_close(model.eval()(input_ids=ids, attention_mask=mask).logits[:, -1, 0], expected)


def test_a_run_without_a_critic_exports_none(make_run, tmp_path):
    script = export_verl(make_run(algorithm="rloo", group_size=2), tmp_path / "out")
    assert not (script.parent / "critic").exists()
    assert "VERL_USE_EXTERNAL_MODULES" not in script.read_text()


def test_through_the_chat_template_prompts_are_the_same_tokens(export, problems):
    tokenizer = AutoTokenizer.from_pretrained(export / "model")
    for question, _ in problems:
        turns = [{"role": "user", "content": question}]
        found = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert found == tokenizer(question)["input_ids"]


def test_a_template_that_would_change_the_prompt_is_refused(run, monkeypatch):
    policy = load_policy(Recorder.open(run).config)
    assert longest_prompt(policy, ["7+5-3=", "1+1="], 12) == 6
    policy.tokenizer.chat_template = None
    monkeypatch.setattr(verl_models, "PLAIN_TEMPLATE", "1" + verl_models.PLAIN_TEMPLATE)
    with pytest.raises(LabError, match=r"the prompt '7\+5-3=' would be other tokens"):
        longest_prompt(policy, ["7+5-3="], 12)


def carried(export: Path, code: str) -> subprocess.CompletedProcess:
    """Run code that finds the lab only in the export."""
    environment = os.environ | {"PYTHONPATH": str(export / "lab")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=export, env=environment, capture_output=True, text=True, check=False
    )


def test_the_export_judges_without_the_lab(export):
    code = (
        "import sys, json, sppo_lab; from sppo_lab.export.verl_reward import compute_score as score; "
        "found = [score('chain-sum', '7+5=12;12-3=9#9', '9'), score('chain-sum', '#8', '9'), "
        "score('gsm8k', r'so \\boxed{\\frac{1}{2}}', '0.5', {'num_turns': 2}), score('gsm8k', '#### 3', '0.5')]; "
        "print(json.dumps([sppo_lab.__file__, found, 'torch' in sys.modules]))"
    )
    result = carried(export, code)
    assert result.returncode == 0, result.stderr
    where, scores, torch_loaded = json.loads(result.stdout)
    assert Path(where).is_relative_to(export)
    assert scores == [1.0, 0.0, 1.0, 0.0] and not torch_loaded


def test_the_carried_files_suffice_for_the_plugin(export):
    result = carried(export, "import sppo_lab.advantage, sppo_lab.loss; print(sppo_lab.loss.__file__)")
    assert result.returncode == 0 and str(export) in result.stdout
    assert "from sppo_lab.advantage" in (export / "lab/sppo_lab/export/verl_plugin.py").read_text()
    assert sorted(CARRIED) == sorted(
        path.relative_to(export / "lab/sppo_lab").as_posix() for path in (export / "lab").rglob("*.py")
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="the launch script is for bash")
def test_the_script_starts_verl_with_every_setting(export, tmp_path):
    """With a python3 that only says how it was called."""
    fake = tmp_path / "python3"
    fake.write_text(
        f'#!{sys.executable}\nimport os, sys, json\nprint(json.dumps([sys.argv, os.environ["PYTHONPATH"]]))\n'
    )
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", str(export / "launch.sh"), "trainer.nnodes=2"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (_, *words), path = json.loads(result.stdout)
    assert words[:2] == ["-m", "verl.trainer.main_ppo"] and words[-1] == "trainer.nnodes=2"
    assert f"critic.model.path='{export}/critic'" in words
    assert path.startswith(f"{export}/lab")
    assert not any("$" in word for word in words)


def test_the_command(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", "verl", f"--run={run}", f"--out={out}", "--step=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "script": str(out / "launch.sh")}
    assert "step 1" in (out / "README.md").read_text()


def test_what_the_command_refuses(run, make_run, tmp_path, capsys):
    (tmp_path / "taken").write_text("x")
    for arguments, message in (
        ([f"--run={tmp_path}", f"--out={tmp_path / 'out'}"], "is not a run directory"),
        ([f"--run={run}", f"--out={tmp_path}"], "is not empty: choose another directory"),
        ([f"--run={run}", f"--out={tmp_path / 'out'}", "--step=7"], "no checkpoint of step 7"),
        ([f"--run={make_run(algorithm='remax')}", f"--out={tmp_path / 'out'}"], "samples no greedy response"),
    ):
        assert main(["export", "verl", *arguments]) == 2
        printed = capsys.readouterr().err
        assert message in printed and "Traceback" not in printed
    assert not (tmp_path / "out").exists()


def test_fewer_problems_than_a_step_needs_are_refused(make_run, tmp_path):
    with pytest.raises(LabError, match="there are only 6"):
        export_verl(make_run(prompts_per_step=8), tmp_path / "out")
