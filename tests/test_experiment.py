"""Runs from beginning to end, and everything that may cut them short."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from sppo_lab.algorithms import ALGORITHMS
from sppo_lab.config import Config
from sppo_lab.errors import LabError, NonFiniteError
from sppo_lab.experiment import Experiment, evaluate_run
from sppo_lab.metrics import TIMING
from sppo_lab.models import trainable_parameters
from sppo_lab.recorder import Recorder

SMALL = {
    "steps": 6,
    "prompts_per_step": 4,
    "max_new_tokens": 16,
    "eval_prompts": 4,
    "eval_samples": 2,
    "checkpoint_every": 2,
    "save_responses": 2,
}


def untimed(folder) -> list[dict]:
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMING} for row in rows]


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.05)
    Path().resolve()  # Python runs a signal's handler before the next call of a function, not at once


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    experiment = Experiment(Config(**SMALL), folder)
    records = list(experiment)
    return folder, records, experiment.summary()


def test_a_run_leaves_everything_behind(whole):
    folder, records, summary = whole
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6]
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "config.json",
        "versions.json",
        "metrics.jsonl",
        "responses.jsonl",
        "evaluation-before.json",
        "evaluation-after.json",
        "summary.json",
        "checkpoints",
        "figure.png",
    }
    assert summary["steps"] == 6 and summary["rollouts"] == 24
    assert summary["response_tokens"] == sum(int(r.rollouts.lengths.sum()) for r in records)
    assert 0 <= summary["accuracy_before"] <= 1 and summary["peak_memory_mb"] > 50


def test_evaluating_changes_nothing_in_training(whole, tmp_path):
    folder, _, _ = whole
    other = Experiment(Config(**SMALL | {"eval_samples": 1, "eval_prompts": 1}), tmp_path / "other")
    list(other)
    assert untimed(tmp_path / "other") == untimed(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
@pytest.mark.parametrize("moment", ["evaluation-before.json", "metrics.jsonl", "step-000002", "step-000004"])
def test_kill_9_then_resume_gives_the_same_metrics(whole, tmp_path, moment):
    """Killed as soon as a certain file appears: before, between and after checkpoints."""
    folder, _, _ = whole
    out = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "sppo_lab", "train", f"--out={out}", *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ((out / moment).exists() or (out / "checkpoints" / moment).exists()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = len(untimed_or_less(out))
    assert killed_at < 6
    experiment = Experiment(None, out, resume=True)
    list(experiment)
    assert untimed(out) == untimed(folder)
    assert (out / "responses.jsonl").read_text() == (folder / "responses.jsonl").read_text()
    assert experiment.recorder.evaluation("after") == Recorder.open(folder).evaluation("after")


def untimed_or_less(folder) -> list[str]:
    path = Path(folder) / "metrics.jsonl"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_leaving_the_loop_saves_the_step_and_resuming_goes_on_from_there(whole, tmp_path):
    folder, _, _ = whole
    for record in Experiment(Config(**SMALL), tmp_path / "run"):
        if record.step == 3:
            break
    assert Recorder.open(tmp_path / "run").checkpoints()[-1].name == "step-000003"
    resumed = Experiment(None, tmp_path / "run", resume=True)
    assert resumed.trainer.step == 3
    list(resumed)
    assert untimed(tmp_path / "run") == untimed(folder)


def test_ctrl_c_finishes_the_step_and_saves_it(whole, tmp_path, capsys):
    folder, _, _ = whole
    experiment = Experiment(Config(**SMALL), tmp_path / "run")
    step = experiment.trainer.train_step

    def interrupted_step():
        if experiment.trainer.step == 2:
            press_ctrl_c()
        return step()

    experiment.trainer.train_step = interrupted_step
    with pytest.raises(KeyboardInterrupt):
        list(experiment)
    assert "Stopping after this step" in capsys.readouterr().err
    assert Recorder.open(tmp_path / "run").checkpoints()[-1].name == "step-000003"
    list(Experiment(None, tmp_path / "run", resume=True))
    assert untimed(tmp_path / "run") == untimed(folder)


def test_a_second_ctrl_c_stops_at_once_and_keeps_the_last_checkpoint(whole, tmp_path):
    experiment = Experiment(Config(**SMALL), tmp_path / "run")
    select = experiment.trainer.select

    def twice(rollouts):
        if experiment.trainer.step == 3:
            for _ in range(100):  # Python may lose some, in a destructor or by merging two into one
                press_ctrl_c()
                time.sleep(0.01)  # a signal may come through another thread, which must get its turn
        return select(rollouts)

    experiment.trainer.select = twice
    with pytest.raises(KeyboardInterrupt):
        list(experiment)
    assert Recorder.open(tmp_path / "run").checkpoints()[-1].name == "step-000002"
    list(Experiment(None, tmp_path / "run", resume=True))
    assert untimed(tmp_path / "run") == untimed(whole[0])


@pytest.mark.parametrize(
    ("algorithm", "critic"), [*((name, "model") for name in ALGORITHMS), ("sppo", "adapter"), ("ppo", "adapter")]
)
def test_every_algorithm_is_recorded_stopped_and_resumed(tmp_path, algorithm, critic):
    few = {"steps": 3, "prompts_per_step": 4, "checkpoint_every": 1}
    config = Config(**SMALL | few | {"algorithm": algorithm, "critic": critic})
    list(Experiment(config, tmp_path / "whole"))
    for record in Experiment(config, tmp_path / "stopped"):
        if record.step == 2:
            break
    resumed = Experiment(None, tmp_path / "stopped", resume=True)
    list(resumed)
    assert untimed(tmp_path / "stopped") == untimed(tmp_path / "whole")
    assert resumed.recorder.responses()[-1]["step"] == 3 and (tmp_path / "stopped" / "figure.png").exists()


def test_training_runs_in_a_thread(tmp_path):
    """Where signals never arrive, as in a dashboard's worker."""
    done = []
    config = Config(**SMALL | {"steps": 1})
    thread = threading.Thread(target=lambda: done.extend(Experiment(config, tmp_path / "run")))
    thread.start()
    thread.join()
    assert len(done) == 1


def test_more_steps_may_be_asked_for_when_resuming_and_nothing_else(whole, tmp_path):
    out = tmp_path / "run"
    list(Experiment(Config(**SMALL | {"steps": 4}), out))
    list(Experiment(Config(**SMALL), out, resume=True))
    assert untimed(out) == untimed(whole[0])
    with pytest.raises(LabError, match=r"other settings: lr = 0.01 \(the run has"):
        Experiment(Config(**SMALL, lr=0.01), out, resume=True)
    with pytest.raises(LabError, match=r"other settings: steps = 2 \(the run has 6\)"):
        Experiment(Config(**SMALL | {"steps": 2}), out, resume=True)


def test_an_existing_run_is_refused_without_resume_or_overwrite(whole):
    with pytest.raises(LabError, match=r"already holds a run. Continue it with --resume, replace it with --overwrite"):
        Experiment(Config(**SMALL), whole[0])
    with pytest.raises(LabError, match="give one of them"):
        Experiment(Config(**SMALL), whole[0], resume=True, overwrite=True)


def test_nan_stops_the_run_saves_the_evidence_and_spares_the_checkpoint(tmp_path):
    experiment = Experiment(Config(**SMALL), tmp_path / "run")
    with pytest.raises(NonFiniteError, match=r"step 4: .* The evidence is in .*failure"):
        for record in experiment:
            if record.step == 3:
                with torch.no_grad():
                    next(iter(trainable_parameters(experiment.trainer.policy.model).values())).fill_(float("nan"))
    assert {path.name for path in (tmp_path / "run" / "failure").iterdir()} == {"adapter", "state.pt", "message.txt"}
    evidence = torch.load(tmp_path / "run" / "failure" / "state.pt", weights_only=True)
    assert evidence["trainer"]["step"] == 3 and len(evidence["rollouts"]["texts"]) == 4
    list(Experiment(None, tmp_path / "run", resume=True))  # goes on from the checkpoint before


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full: free some space"), (errno.EROFS, "the disk is read-only")],
)
def test_a_disk_that_cannot_be_written_gets_a_message(tmp_path, monkeypatch, number, message):
    experiment = Experiment(Config(**SMALL), tmp_path / "run")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(experiment.recorder, "write_step", refuse)
    with pytest.raises(LabError, match=message):
        list(experiment)
    monkeypatch.undo()
    list(Experiment(None, tmp_path / "run", resume=True))  # nothing is lost


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_checkpoint_on_a_full_disk_gets_a_message(tmp_path, monkeypatch):
    experiment = Experiment(Config(**SMALL), tmp_path / "run")

    def to_full_disk(path, content):
        Path("/dev/full").write_bytes(b"0" * 10)

    monkeypatch.setattr("sppo_lab.checkpoint.write_tensors", to_full_disk)
    with pytest.raises(LabError, match="the disk is full"):
        list(experiment)


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(LabError, match=r"a part of the path is a file|something other than a run"):
        Experiment(Config(**SMALL), tmp_path / "file" / "run")


def test_evaluating_a_finished_run_repeats_its_last_evaluation(whole):
    folder, _, _ = whole
    assert evaluate_run(folder, samples=2) == Recorder.open(folder).evaluation("after")
    assert len(evaluate_run(folder, samples=1, prompts=3, step=4).solved) == 3
    with pytest.raises(LabError, match=r"no checkpoint of step 1; those there are: 4, 6"):
        evaluate_run(folder, samples=1, step=1)
