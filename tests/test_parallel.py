"""A run on several processes is the run on one, but for the order in which numbers are added up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sppo_lab import parallel
from sppo_lab.cli import main

pytestmark = pytest.mark.xdist_group("parallel")  # one launch for all of them
PROCESSES = 3
RUNS = {
    "sppo": ["--prompts-per-step", "5", "--mini-batches", "2", "--micro-batch-size", "2"],
    "ppo": ["--prompts-per-step", "6", "--kl-coef", "0.1"],
    "grpo": ["--prompts-per-step", "2", "--group-size", "3"],  # one process is left without prompts
}
SMALL = ["--max-new-tokens", "24", "--eval-prompts", "3", "--eval-samples", "2"]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def train(folder, algorithm, steps, *more):
    out = str(folder / algorithm)
    return ["train", "--out", out, "--algorithm", algorithm, "--steps", str(steps), *SMALL, *RUNS[algorithm], *more]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Each run with its first step in one process and two more in several; the directory, and what they printed."""
    folder = tmp_path_factory.mktemp("together")
    for algorithm in RUNS:
        assert main(train(folder, algorithm, 1)) == 0
    commands = [train(folder, algorithm, 3, "--resume") for algorithm in RUNS]
    commands.append(["study", "--out", str(folder / "study"), "--algorithms", "sppo"])
    script = [str(Path(__file__).parent / "parallel_runs.py"), json.dumps(commands)]
    done = subprocess.run(
        [*LAUNCH, "--num_processes", str(PROCESSES), *script],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def numbers(out):
    """Metrics of every step but the times, and what the evaluations counted."""
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in step.items() if "time" not in name} for step in steps]
    counted = {w: json.loads((out / f"evaluation-{w}.json").read_text())["solved"] for w in ("before", "after")}
    return kept, counted


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", RUNS)
def test_the_same_metrics_as_in_one_process(together, algorithm, tmp_path):
    assert main(train(tmp_path, algorithm, 3)) == 0
    (alone, counted), (several, counted_together) = numbers(tmp_path / algorithm), numbers(together[0] / algorithm)
    assert counted == counted_together
    assert [step["step"] for step in alone] == [step["step"] for step in several] == [1, 2, 3]
    for one, other in zip(alone, several, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)
    adapter = f"{algorithm}/checkpoints/step-000003/adapter/adapter_model.safetensors"
    first, second = load_file(tmp_path / adapter), load_file(together[0] / adapter)
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)
    assert any(tensor.abs().max() > 1e-4 for name, tensor in first.items() if "lora_B" in name)  # it did learn


@pytest.mark.slow
def test_there_are_several_and_one_of_them_speaks(together):
    done = together[1]
    assert done.stderr.count(f"the problems on {PROCESSES} processes") == done.stdout.count("and after:") == len(RUNS)
    assert done.stdout.count("[0, 0, 0, 2]") == PROCESSES
    assert done.stderr.count("start study without it") == PROCESSES and not (together[0] / "study").exists()


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_cover_every_row_once_in_order(count, size, monkeypatch):
    rows = []
    for index in range(size):
        monkeypatch.setattr(parallel, "place", lambda index=index: (index, size))
        rows += parallel.share(count)
    assert rows == list(range(count))
