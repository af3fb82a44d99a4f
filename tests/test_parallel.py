"""A run on several processes is the run on one, but for the order in which numbers are added up."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from sppo_lab import parallel
from sppo_lab.cli import main

SMALL = ["--max-new-tokens", "24", "--eval-prompts", "3", "--eval-samples", "2"]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def launch(processes, *arguments):
    """Run a command of the lab on several processes."""
    command = [*LAUNCH, "--num_processes", str(processes), "-m", "sppo_lab", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def train(processes, out, *settings):
    """What several processes print; one is this very process."""
    arguments = ["train", "--out", str(out), *SMALL, *map(str, settings)]
    if processes == 1:
        assert main(arguments) == 0
        return None
    done = launch(processes, *arguments)
    assert done.returncode == 0, done.stderr
    assert f"on {processes} processes" in done.stderr
    return done


def numbers(out):
    """Metrics of every step but the times, and what the evaluations counted."""
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in step.items() if "time" not in name} for step in steps]
    counted = {w: json.loads((out / f"evaluation-{w}.json").read_text())["solved"] for w in ("before", "after")}
    return kept, counted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (2, ["--algorithm", "sppo", "--prompts-per-step", 5, "--mini-batches", 2, "--micro-batch-size", 2]),
        (2, ["--algorithm", "ppo", "--prompts-per-step", 6, "--kl-coef", 0.1]),
        (3, ["--algorithm", "grpo", "--prompts-per-step", 2, "--group-size", 3]),  # one process is left without prompts
    ],
    ids=["sppo", "ppo", "grpo"],
)
def test_the_same_metrics_as_in_one_process(processes, settings, tmp_path):
    train(1, tmp_path / "one", "--steps", 3, *settings)
    train(processes, tmp_path / "several", "--steps", 3, *settings)
    (alone, counted), (together, counted_together) = numbers(tmp_path / "one"), numbers(tmp_path / "several")
    assert counted == counted_together
    assert len(alone) == len(together) == 3
    for one, several in zip(alone, together, strict=True):
        assert several == pytest.approx(one, rel=1e-3, abs=1e-5)
    adapter = "checkpoints/step-000003/adapter/adapter_model.safetensors"
    first, second = load_file(tmp_path / "one" / adapter), load_file(tmp_path / "several" / adapter)
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)
    assert any(tensor.abs().max() > 1e-4 for name, tensor in first.items() if "lora_B" in name)  # it did learn


@pytest.mark.slow
def test_a_run_goes_on_in_several_processes_and_one_of_them_speaks(tmp_path):
    out = tmp_path / "run"
    train(1, out, "--steps", 1, "--prompts-per-step", 4)
    done = train(2, out, "--steps", 2, "--prompts-per-step", 4, "--resume")
    assert [step["step"] for step in numbers(out)[0]] == [1, 2]
    assert done.stdout.count("and after:") == 1
    assert done.stderr.count("Loading the libraries") == 1


@pytest.mark.slow
def test_mistakes_are_said(tmp_path):
    refused = launch(2, "study", "--out", tmp_path, "--algorithms", "sppo", "--seeds", "0")
    assert refused.returncode != 0 and "start study without it" in refused.stderr
    (tmp_path / "notes").write_text("mine")
    taken = launch(2, "train", "--out", tmp_path, *SMALL)
    assert taken.returncode != 0 and "holds something other than a run" in taken.stderr


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_cover_every_row_once_in_order(count, size, monkeypatch):
    rows = []
    for index in range(size):
        monkeypatch.setattr(parallel, "place", lambda index=index: (index, size))
        rows += parallel.share(count)
    assert rows == list(range(count))
