"""The result of a run is an adapter like any other; nothing here uses the network."""

import json

import huggingface_hub
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sppo_lab.cli import main
from sppo_lab.measure import policy_of_run
from sppo_lab.models import model_path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    small = ["--steps=2", "--prompts-per-step=8", "--max-new-tokens=60", "--eval-prompts=4", "--eval-samples=2"]
    assert main(["train", f"--out={out}", "--lr=0.01", *small]) == 0
    return out


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("pushed") / "model"
    assert main(["push", f"--run={run}", "--repo=ann/chains", f"--dry-run={out}"]) == 0
    return out


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(40, 60)[None]).logits


def test_plain_peft_loads_and_merges_it(run, folder):
    ours = logits(policy_of_run(run)[0].model)
    base = AutoModelForCausalLM.from_pretrained(model_path("tiny"))
    before = logits(base)
    loaded = PeftModel.from_pretrained(base, folder)
    torch.testing.assert_close(logits(loaded), ours)
    assert (ours - before).abs().max() > 1e-3  # it has learnt something
    merged = loaded.merge_and_unload()
    assert not any("lora" in name for name, _ in merged.named_modules())
    torch.testing.assert_close(logits(merged), ours, atol=1e-4, rtol=1e-4)
    assert (
        AutoTokenizer.from_pretrained(folder).decode(AutoTokenizer.from_pretrained(folder)("7+5=").input_ids) == "7+5="
    )


def test_the_checkpoints_adapter_loads_as_it_lies(run):
    checkpoint = sorted((run / "checkpoints").iterdir())[-1]
    base = AutoModelForCausalLM.from_pretrained(model_path("tiny"))
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(base, checkpoint / "adapter")), logits(policy_of_run(run)[0].model)
    )


def test_the_card_has_results_settings_figure_and_no_path_of_this_computer(run, folder):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n") and "# chains" in card and "step 2" in card
    evaluation = json.loads((run / "evaluation-after.json").read_text())["report"]
    assert f"| after training | 4 | 2 | {evaluation['avg@2']:.3f} (" in card
    assert '"lr": 0.01' in card and (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    everything = card + (folder / "adapter_config.json").read_text()
    assert str(run.parent) not in everything and model_path("tiny") not in everything
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"


def test_a_push_uploads_that_folder(run, monkeypatch, capsys):
    calls = []

    class Api:
        def create_repo(self, repo, *, private, exist_ok):
            calls.append((repo, private))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls.append((repo_id, {path.name for path in folder_path.iterdir()}))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert main(["push", f"--run={run}", "--repo=ann/chains", "--private"]) == 0
    (first, (repo, files)) = calls
    assert first == ("ann/chains", True) and repo == "ann/chains"
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "figure.png", "tokenizer.json"} <= files
    assert capsys.readouterr().out.strip() == "https://huggingface.co/ann/chains"


def test_an_upload_that_fails_names_the_remedy(run, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("401 Unauthorized\nlong story")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    assert main(["push", f"--run={run}", "--repo=ann/chains"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "401 Unauthorized" in errors[0] and "hf auth login" in errors[0]


def test_mistakes(run, folder, capsys):
    for arguments, message in [
        ([f"--run={run}", "--repo=not a name"], "write OWNER/NAME"),
        ([f"--run={run}", "--repo=a/b", f"--dry-run={folder}"], "is not empty"),
        ([f"--run={run}", "--repo=a/b", "--step=7", f"--dry-run={folder}-new"], "no checkpoint of step 7"),
    ]:
        assert main(["push", *arguments]) == 2
        assert message in capsys.readouterr().err
