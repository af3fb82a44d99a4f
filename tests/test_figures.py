import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sppo_lab.config import Config
from sppo_lab.evaluate import Evaluation
from sppo_lab.figures import comparison_figure, run_figure, smooth


class Run:
    """What run_figure reads of a recorder."""

    def __init__(self, algorithm="sppo", steps=30, evaluated=True, updated=True):
        self.config = Config(algorithm=algorithm)
        rng = np.random.default_rng(0)
        names = ["reward", "reward_std", "completions/mean_length", "advantage/variance"]
        names += ["entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"] if updated else []
        self.table = pd.DataFrame({"step": np.arange(1, steps + 1)} | {name: rng.random(steps) for name in names})
        values = rng.random(20).tolist() if algorithm == "sppo" else None
        self.found = Evaluation(8, rng.integers(0, 9, 20).tolist(), [1] * 20, 9.0, 0.0, values) if evaluated else None

    def metrics(self):
        return self.table

    def evaluation(self, when):
        return self.found


def titles(figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def test_a_run_has_six_panels_and_the_data_is_in_them():
    run = Run()
    figure = run_figure(run)
    assert len(figure.axes) == 6 and all(titles(figure))
    drawn = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, run.table["reward"])
    assert "Pearson" in titles(figure)[2] and len(figure.axes[2].lines[-1].get_xdata()) == 20


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"algorithm": "reinforce"}, "this algorithm has no critic"),
        ({"evaluated": False}, "not evaluated yet"),
        ({"updated": False}, "the policy has not been updated yet"),
        ({"steps": 0}, "no step has been recorded yet"),
    ],
)
def test_what_is_missing_is_said(options, note):
    figure = run_figure(Run(**options))
    assert note in [text.get_text() for ax in figure.axes for text in ax.texts]


def test_no_text_is_cut_at_the_edge():
    figure = run_figure(Run())
    FigureCanvasAgg(figure).draw()
    width, height = figure.canvas.get_width_height()
    for ax in figure.axes:
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()


def test_runs_are_compared_panel_by_panel():
    figure = comparison_figure({"a": Run().table, "b": Run(steps=9).table}, ["reward", "entropy"])
    assert titles(figure) == ["reward", "entropy"] and len(figure.axes[0].lines) == 4
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b"]


def test_smoothing_keeps_a_constant_and_the_length():
    assert smooth(pd.Series([2.0] * 40)).tolist() == [2.0] * 40
