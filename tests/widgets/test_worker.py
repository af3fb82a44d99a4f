"""The worker's states when a click and the run's own thread come at the same moment; no model is trained here."""

import threading
from types import SimpleNamespace

import pytest

from sppo_lab.widgets.worker import Worker

LONG = 30  # seconds, for what happens at once


class Told:
    """Hears of the states of a worker; at one of them its thread waits in the middle of telling."""

    def __init__(self, folder, steps: int = 3, hold_at: str = ""):
        self.states, self.steps, self.opened, self.hold_at = [], [], 0, hold_at
        self.reached, self.release = threading.Event(), threading.Event()
        self.at_step: dict[int, object] = {}  # what is done at a step, in the thread of the run
        self.worker = Worker(folder, self.state, self.step, lambda label, done, total: None)
        self.left = iter(range(1, steps + 1))
        self.worker.opened = self.open

    def open(self, config):
        self.opened += 1
        self.worker.change("training")
        return (SimpleNamespace(step=step) for step in self.left)

    def state(self, state):
        self.states.append(state)
        if state == self.hold_at:
            self.hold_at = ""
            self.reached.set()
            assert self.release.wait(LONG)

    def step(self, record):
        self.steps.append(record.step)
        self.at_step.get(record.step, lambda: None)()


def test_resume_right_after_it_says_stopped_waits_for_the_end_of_that_run(tmp_path):
    told = Told(tmp_path, hold_at="stopped")
    told.at_step[1] = told.worker.stop
    told.worker.start(None)
    assert told.reached.wait(LONG) and told.worker.state == "stopped"  # and its thread is still drawing
    first = told.worker.thread
    click = threading.Thread(target=told.worker.start, args=(None,))
    click.start()
    click.join(0.2)
    assert click.is_alive() and told.opened == 1 and told.worker.thread is first
    told.release.set()
    click.join(LONG)
    told.worker.wait()
    assert told.opened == 2 and told.steps == [1, 2, 3]
    assert [state for state in told.states if state != "loading"] == [
        "training",
        "stopping",
        "stopped",
        "training",
        "done",
    ]
    assert told.worker.state == "done" and told.worker.error is None


@pytest.mark.parametrize("click", ["pause", "stop", "go_on"])
def test_a_click_that_comes_after_the_end_changes_nothing(tmp_path, click):
    told = Told(tmp_path)
    told.worker.start(None)
    told.worker.wait()
    heard = list(told.states)
    getattr(told.worker, click)()
    assert told.worker.state == "done" and told.states == heard


def test_the_pause_is_told_before_it_holds(tmp_path):
    told = Told(tmp_path, hold_at="paused")
    told.at_step[1] = told.worker.pause
    told.worker.start(None)
    assert told.reached.wait(LONG)
    told.release.set()
    told.worker.go_on()
    told.worker.wait()
    assert [state for state in told.states if state != "loading"] == [
        "training",
        "pausing",
        "paused",
        "training",
        "done",
    ]


def test_a_second_start_is_ignored_while_a_run_goes_on(tmp_path):
    told, ignored = Told(tmp_path, hold_at="loading"), threading.Event()
    told.at_step[1] = lambda: ignored.wait(LONG)
    first = threading.Thread(target=told.worker.start, args=(None,))
    first.start()
    assert told.reached.wait(LONG)
    second = threading.Thread(target=told.worker.start, args=(None,))
    second.start()
    told.release.set()
    first.join(LONG)
    second.join(LONG)
    ignored.set()
    told.worker.wait()
    assert told.opened == 1 and told.steps == [1, 2, 3]
