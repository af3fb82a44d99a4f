"""A training run that can be paused, resumed and stopped, in a thread of its own or in the caller's.

The thread calls back and does nothing else; what the callbacks do is the dashboard's affair.
"""

import itertools
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.experiment import Experiment
from sppo_lab.trainer import StepRecord

State = Literal["ready", "loading", "training", "pausing", "paused", "stopping", "stopped", "done", "failed"]
ENDED: tuple[State, ...] = ("ready", "stopped", "done", "failed")  # nothing is under way


class Worker:
    """One run at a time, each in a directory of its own under ``folder``.

    ``on_state(state)`` hears of every change, ``on_step(record)`` of every step, ``on_progress(label, done, total)`` of
    the evaluations before and after.
    """

    def __init__(
        self,
        folder: str | Path,
        on_state: Callable[[State], None],
        on_step: Callable[[StepRecord], None],
        on_progress: Callable[[str, int, int], None],
    ):
        self.folder = Path(folder)
        self.on_state, self.on_step, self.on_progress = on_state, on_step, on_progress
        self.state: State = "ready"
        self.experiment: Experiment | None = None
        self.error: Exception | None = None
        self.thread: threading.Thread | None = None
        self.going, self.stopping = threading.Event(), threading.Event()
        self.changing = threading.RLock()  # one change of state at a time, with all that hears of it

    def start(self, config: Config | None) -> None:
        """Run in a thread: a new run of ``config``, or with None the one that was stopped.  Ignored while one runs."""
        if self.state in ENDED and self.thread is not None:
            self.thread.join()  # it may still be drawing the end of its run
        if not self.change("loading", ENDED):  # from here on a second click is ignored
            return
        self.thread = threading.Thread(target=self.train, args=(config,), daemon=True)
        self.thread.start()

    def pause(self) -> None:
        """Hold after the step under way.  Ignored where the run has ended meanwhile, as in the next two."""
        if self.change("pausing", ("training",)):
            self.going.clear()

    def go_on(self) -> None:
        """Continue a run that pauses."""
        if self.change("training", ("paused",)):
            self.going.set()

    def stop(self) -> None:
        """End after the step under way; everything is saved."""
        if self.change("stopping", ("training", "pausing", "paused")):
            self.stopping.set()
            self.going.set()

    def wait(self) -> None:
        """Return when the run has ended; an error in it is raised here."""
        if self.thread is not None:
            self.thread.join()
        if self.error is not None:
            raise self.error

    def change(self, state: State, only_from: Collection[State] | None = None) -> bool:
        """Go over to a state, from any other or only from some; whether it did."""
        with self.changing:
            if only_from is not None and self.state not in only_from:
                return False
            self.state = state
            self.on_state(state)
            return True

    def train(self, config: Config | None) -> None:
        """The whole run.  An interruption is Stop; whatever else goes wrong is kept in ``error``."""
        self.error = None
        self.stopping.clear()
        self.going.set()
        try:
            self.change("loading")
            self.experiment = self.opened(config)
            for record in self.experiment:
                self.on_step(record)
                if not self.going.is_set():
                    self.change("paused")
                    self.going.wait()
                if self.stopping.is_set():
                    break
            self.change("stopped" if self.stopping.is_set() else "done")
        except KeyboardInterrupt:
            self.change("stopped")
        except Exception as error:  # in a thread nobody else would see it
            self.error = error
            self.change("failed")

    def opened(self, config: Config | None) -> Experiment:
        """A new run in the next free directory, or the latest run again."""
        if config is not None:
            numbered = (self.folder / f"run-{number}" for number in itertools.count(1))
            return Experiment(config, next(path for path in numbered if not path.exists()), progress=self.bar)
        if self.experiment is None:
            raise LabError("there is no run to go on with: start one.")
        return Experiment(None, self.experiment.recorder.folder, resume=True, progress=self.bar)

    def bar(self, items: Any = None, total: int = 0, initial: int = 0, desc: str = "", **_: Any) -> "Bar":
        """What an Experiment takes for tqdm."""
        if desc == "training":
            self.change("training")
        return Bar(lambda done, of: self.on_progress(desc, done, of), items, total, initial)


class Bar:
    """The little of tqdm that an Experiment asks for, told to ``show(done, total)``."""

    def __init__(self, show: Callable[[int, int], None], items: Any, total: int, initial: int):
        self.show, self.items = show, items
        self.total = total if items is None else len(items)
        self.done = initial
        self.update(0)

    def update(self, count: int = 1) -> None:
        self.done += count
        self.show(self.done, self.total)

    def set_postfix(self, **_: Any) -> None:
        """The dashboard shows more than this."""

    def close(self) -> None:
        """Nothing is left open."""

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __iter__(self) -> Any:
        for item in self.items:
            yield item
            self.update()
