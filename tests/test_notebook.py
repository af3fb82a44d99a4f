import threading

from matplotlib.figure import Figure

from sppo_lab.errors import LabError
from sppo_lab.figures import DRAWING
from sppo_lab.notebook import picture, size, table


def test_sizes_shrink_only_where_asked(monkeypatch):
    monkeypatch.delenv("SPPO_LAB_SHORT", raising=False)
    assert size(60, 4) == 60
    monkeypatch.setenv("SPPO_LAB_SHORT", "1")
    assert size(60, 4) == 4


def test_a_picture_has_a_description():
    html = picture(Figure(figsize=(1, 1)), 'the "loss" < 1').data
    assert 'alt="the &quot;loss&quot; &lt; 1"' in html and "data:image/png;base64," in html


def test_a_cells_picture_waits_for_a_dashboard_that_draws():
    thread = threading.Thread(target=picture, args=(Figure(figsize=(1, 1)), "a figure"), daemon=True)
    with DRAWING:
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()


def test_a_table_shows_text_as_text():
    html = table(["a", "b"], [("<b>", 0.12345), ("7+5=", 3)]).data
    assert "&lt;b&gt;" in html and ">0.1235<" in html and ">3<" in html and "<b>" not in html


def test_jupyter_shows_a_mistake_without_a_traceback():
    assert LabError("lr is too high")._render_traceback_() == ["LabError: lr is too high"]
