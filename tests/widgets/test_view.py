import threading

import pytest
from matplotlib.figure import Figure

from sppo_lab.errors import LabError
from sppo_lab.widgets.controls import number
from sppo_lab.widgets.view import WIDGET_VIEW, Explorer


def drawn(p: float) -> Figure:
    if p > 0.9:
        raise LabError("too much")
    if p < 0.1:
        raise ZeroDivisionError("ours")
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, p])
    return figure


@pytest.fixture
def explorer() -> Explorer:
    control = number("solve rate p", 0.5, 0.0, 1.0, 0.01)
    return Explorer("An explorer", {"p": control}, drawn, lambda p: f"the solve rate is {p:.2f}")


def test_the_picture_follows_the_control_and_says_what_it_shows(explorer):
    before = explorer.picture.value
    explorer.controls["p"].field.value = 0.7
    assert explorer.picture.value != before
    assert 'alt="the solve rate is 0.70"' in explorer.picture.value and "0.70" in explorer.words.value


def test_an_error_is_shown_in_the_dashboard_and_goes_away(explorer):
    explorer.controls["p"].field.value = 0.95
    assert "too much" in explorer.picture.value and "Traceback" not in explorer.picture.value
    explorer.controls["p"].field.value = 0.05
    assert "Traceback" in explorer.picture.value and "ours" in explorer.picture.value
    explorer.controls["p"].field.value = 0.5
    assert "<img" in explorer.picture.value


def test_two_threads_draw_one_after_the_other():
    """A front end may call from several threads, and matplotlib mixes two pictures drawn at once."""
    together = threading.Barrier(2)
    met = []

    def draw(p: float) -> Figure:
        try:
            together.wait(0.3)
            met.append(True)
        except threading.BrokenBarrierError:  # nobody else came
            together.reset()
        return drawn(p)

    explorer = Explorer("Slow", {"p": number("p", 0.5, 0.0, 1.0, 0.01)}, draw, lambda p: f"{p:g}")
    threads = [threading.Thread(target=explorer.redraw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not met and "<img" in explorer.picture.value


def test_where_there_are_no_widgets_the_picture_is_shown(explorer):
    bundle = explorer._repr_mimebundle_()
    assert bundle[WIDGET_VIEW]["model_id"] == explorer.box.model_id
    assert "<img" in bundle["text/html"] and "the solve rate is 0.50" in bundle["text/html"]
