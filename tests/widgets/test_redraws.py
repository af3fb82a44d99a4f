"""Many redraws of every dashboard leave one figure behind and no growing memory.

``REDRAWS=500 pytest tests/widgets/test_redraws.py`` makes as many as you like; the suite makes fewer, to save minutes.
"""

import gc
import os
import tracemalloc
from collections.abc import Callable

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure

from sppo_lab.assets import recorded
from sppo_lab.config import Config
from sppo_lab.experiment import Experiment
from sppo_lab.lens import read_lens
from sppo_lab.study_tables import read_study
from sppo_lab.widgets import explorers
from sppo_lab.widgets.inspector import Inspector
from sppo_lab.widgets.training import Training

REDRAWS = int(os.environ.get("REDRAWS", "60"))
WATCHED = 40  # of them, the last ones, with an eye on memory, which slows them down
SLACK = 2**20  # bytes; less than half of what as many pictures take, and a fraction of as many figures


def turning(dashboard, name: str, values: list) -> Callable[[int], str]:
    """Redraw by a control; what is shown after it."""
    field = dashboard.controls[name].field
    shown = dashboard.response if isinstance(dashboard, Inspector) else dashboard.picture

    def redraw(i: int) -> str:
        field.value = values[i % len(values)]
        return shown.value

    return redraw


def clip(folder) -> Callable[[int], str]:
    ratios = torch.linspace(0.5, 1.5, 40)
    return turning(explorers.clip_explorer(ratios, ratios - 1), "epsilon", [0.1, 0.2, 0.3])


def variance(folder) -> Callable[[int], str]:
    measured = read_study(recorded("equal_rollouts"))[1]
    return turning(explorers.variance_explorer(measured), "error", [0.1, 0.2, 0.3])


def critic(folder) -> Callable[[int], str]:
    return turning(explorers.critic_view(read_lens(recorded("lens"))), "bins", [5, 8, 10])


def inspector(folder) -> Callable[[int], str]:
    small = {"prompts_per_step": 8, "max_new_tokens": 8, "eval_prompts": 4, "eval_samples": 1}
    list(Experiment(Config(steps=1, **small), folder / "run"))
    return turning(Inspector(folder / "run"), "view", ["advantage", "ratio", "entropy"])


def training(folder) -> Callable[[int], str]:
    dashboard = Training(folder=folder)
    columns = ["reward", "completions/mean_length", "advantage/variance"]
    for name in ("run-1", "run-2"):
        dashboard.runs[name] = [{"step": step} | dict.fromkeys(columns, step / 40) for step in range(1, 41)]

    def redraw(i: int) -> str:
        dashboard.runs["run-2"][-1]["reward"] = [0.1, 0.2, 0.3][i % 3]
        dashboard.draw()
        return dashboard.picture.value

    return redraw


DASHBOARDS = [clip, variance, critic, inspector, training]


def figures() -> int:
    gc.collect()
    return sum(type(item) is Figure for item in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("make", DASHBOARDS, ids=lambda make: make.__name__)
def test_redraws_leave_one_figure_and_no_memory(make, tmp_path):
    before = figures()
    redraw = make(tmp_path)
    seen = {redraw(i) for i in range(12)}
    assert len(seen) == 3 and not any("Traceback" in html for html in seen)
    for i in range(REDRAWS - WATCHED):
        redraw(i)
    gc.collect()
    tracemalloc.start()
    for i in range(WATCHED):
        redraw(i)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < SLACK
    assert figures() <= before + 1 and not plt.get_fignums()
