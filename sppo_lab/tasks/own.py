"""A task of the user's own: a Python file that defines ``task``.  docs/own_task.md shows one."""

import runpy
from pathlib import Path

from sppo_lab.errors import LabError
from sppo_lab.tasks.base import Problem, Task, TaskKind


def read_own_task(path: str | Path) -> Task:
    """Run the file and return its ``task``.  Raises LabError if there is none, or the file fails."""
    path = Path(path)
    if not path.is_file():
        raise LabError(f"{path}: there is no such file. Paths are taken from {Path.cwd()}.")
    try:
        task = runpy.run_path(str(path)).get("task")
    except Exception as error:
        line = _last_line(error, path)
        raise LabError(
            f"{path}{line} failed: {type(error).__name__}: {error}. Run it with Python to mend it."
        ) from error
    if not isinstance(task, Task):
        raise LabError(
            f"{path} defines no task. Expected: task = Task(name, train, test, rewards); see docs/own_task.md."
        )
    if not task.train or not task.test:
        raise LabError(
            f"{path}: the task has {len(task.train)} training and {len(task.test)} test problems; give some."
        )
    return task


def own_kind(path: str | Path) -> TaskKind:
    """The file's task as a kind of task.  The whole response is judged, whatever part of it its rewards look at."""
    task = read_own_task(path)

    def read(data: str | None = None, split: str = "train") -> list[Problem]:
        if data:
            raise LabError(f"the problems of {path} are in that file: leave {data} out, and read it there.")
        return task.train if split == "train" else task.test

    return TaskKind(read, task.rewards, str.strip, f"the whole response, by the rewards of {path}", task.step_mark)


def _last_line(error: Exception, path: Path) -> str:
    """Where in the file the error arose, as ``, line 3``; empty if it did not run at all."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f", line {lines[-1]}" if lines else ""
