import re
import time
from types import SimpleNamespace

import pytest
import torch

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.tasks import Problem
from sppo_lab.trainer import StepRecord
from sppo_lab.widgets.training import Training, command_line, responses_table

SMALL = {"prompts_per_step": 8, "max_new_tokens": 8, "eval_prompts": 4, "eval_samples": 1}


@pytest.fixture
def training(tmp_path) -> Training:
    return Training(Config(steps=6, **SMALL), tmp_path)


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to this"
        time.sleep(0.01)


def pressable(training: Training) -> set[str]:
    return {name for name, button in training.buttons.items() if not button.disabled}


def steps_of(training: Training) -> list[int]:
    return [int(metrics["step"]) for metrics in list(training.runs.values())[-1]]


def test_start_trains_to_the_end_and_shows_it(training):
    assert pressable(training) == {"Start"}
    training.buttons["Start"].click()
    training.wait()
    assert training.worker.state == "done" and pressable(training) == {"Start"}
    assert steps_of(training) == [1, 2, 3, 4, 5, 6]
    assert "<img" in training.picture.value and "reward" in training.picture.value
    assert "<table>" in training.responses.value and "run-1" in training.status.value
    assert re.search(r"accuracy on test problems 0\.\d+ before and 0\.\d+ after training", training.status.value)
    assert training.worker.experiment.recorder.evaluation("after") is not None


def test_the_table_of_responses_has_the_right_answers():
    problems = [Problem("7+5-3=", "9"), Problem("a<b?", "<yes>")]
    rollouts = SimpleNamespace(rewards=torch.tensor([1.0, 0.0]), texts=["12#9", "no"])
    table = responses_table(StepRecord(1, {}, problems, rollouts, torch.ones(2, 1), torch.ones(2, 1)))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", table)
    assert cells == ["1", "7+5-3=", "9", "12#9", "0", "a&lt;b?", "&lt;yes&gt;", "no"]


def test_pause_holds_and_resume_goes_on(training):
    training.buttons["Start"].click()
    until(lambda: training.runs)
    training.buttons["Pause"].click()
    until(lambda: pressable(training) == {"Resume", "Stop"})
    assert training.worker.state == "paused"
    held = len(steps_of(training))
    time.sleep(0.5)
    assert len(steps_of(training)) == held < 6
    training.buttons["Resume"].click()
    training.wait()
    assert training.worker.state == "done" and steps_of(training) == [1, 2, 3, 4, 5, 6]


def test_stop_saves_and_resume_goes_on_from_the_disk(training):
    training.buttons["Start"].click()
    until(lambda: training.runs)
    training.buttons["Stop"].click()
    training.wait()
    assert training.worker.state == "stopped" and pressable(training) == {"Start", "Resume"}
    done = len(steps_of(training))
    assert 0 < done < 6
    training.buttons["Resume"].click()
    training.wait()
    assert training.worker.state == "done" and steps_of(training) == [1, 2, 3, 4, 5, 6]
    assert len(training.worker.experiment.recorder.metrics()) == 6


def test_stop_while_it_pauses(training):
    training.start()
    until(lambda: training.runs)
    training.worker.pause()
    until(lambda: training.worker.state == "paused")
    training.worker.stop()
    training.wait()
    assert training.worker.state == "stopped"


def test_two_runs_lie_over_each_other(training):
    training.run()
    training.controls["lr"].field.value = 8e-4
    training.run()
    assert list(training.runs) == ["run-1", "run-2"]
    assert "run-1 and run-2" in training.picture.value
    training.overlay.value = False
    assert "run-1" not in training.picture.value and "run-2" in training.picture.value
    assert training.worker.experiment.config.lr == 8e-4


def test_an_error_is_shown_and_raised_by_wait(training):
    training.config = training.config.replace(model="nowhere/at-all")
    training.start()
    with pytest.raises(LabError):
        training.wait()
    assert "nowhere" in training.status.value and pressable(training) == {"Start"}


def test_settings_that_are_refused_are_said_in_the_dashboard(training):
    training.controls["lr"].field.options = [-1.0, 1e-4]
    training.controls["lr"].field.value = -1.0
    training.buttons["Start"].click()
    assert "lr = -1" in training.status.value and training.worker.state == "ready"
    assert "lr = -1" in training.command.value


def test_a_picture_that_fails_is_said_and_does_not_end_the_training(training, monkeypatch):
    def fail(shown):
        raise ZeroDivisionError("in the middle of a redraw")

    monkeypatch.setattr(training.curves, "show", fail)
    training.start()
    training.wait()
    assert training.worker.state == "done" and "in the middle of a redraw" in training.picture.value


def test_without_widgets_every_part_is_a_line_of_its_own(training):
    assert "<div>Training dashboard: ready</div><div>These settings from a terminal" in training.static()


def test_an_interruption_in_the_cell_is_stop(training, monkeypatch):
    def interrupt(record):
        if record.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.worker, "on_step", interrupt)
    training.run()
    assert training.worker.state == "stopped"
    assert len(training.worker.experiment.recorder.metrics()) == 3


def test_the_settings_as_a_command_line(training):
    training.controls["lr"].field.value = 8e-4
    training.controls["algorithm"].field.value = "grpo"
    line = training.command.value
    assert "--algorithm grpo" in line and "--lr 0.0008" in line and "--epsilon" not in line
    assert command_line(Config()) == "python -m sppo_lab train --out runs/mine"
