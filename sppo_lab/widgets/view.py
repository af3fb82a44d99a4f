"""A picture that is redrawn in place, and the frame that every dashboard shares."""

import traceback
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from sppo_lab.errors import LabError
from sppo_lab.figures import DRAWING
from sppo_lab.notebook import image_html
from sppo_lab.widgets.controls import on_change, tagged, values_of

DPI = 80  # of pictures that are redrawn
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class Frame:
    """What a dashboard shows: a front end with widgets shows ``box``, any other the static picture.

    The fallback is part of the same output, so that an executed notebook reads as well on a page without a kernel.
    """

    box: widgets.Widget

    def static(self) -> str:
        """HTML for where there are no widgets."""
        raise NotImplementedError

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return {WIDGET_VIEW: view, "text/html": self.static(), "text/plain": type(self).__name__}


class Explorer(Frame):
    """Controls above a picture that follows them.

    ``draw`` makes the figure from the values of the controls, by name; ``describe`` says in a sentence what it shows.
    What goes wrong is shown in the dashboard, in place of the picture.
    """

    def __init__(
        self,
        title: str,
        controls: Mapping[str, widgets.HBox],
        draw: Callable[..., Figure],
        describe: Callable[..., str],
    ):
        self.controls, self.draw, self.describe = dict(controls), draw, describe
        self.picture, self.words = widgets.HTML(), widgets.HTML()
        self.picture.add_class("lab-picture")
        self.words.add_class("lab-words")
        rows = widgets.VBox(list(self.controls.values()))
        self.box = tagged(widgets.VBox([heading(title), rows, self.words, self.picture]), title, self.controls)
        on_change(self.controls, self.redraw)
        self.redraw()

    def redraw(self) -> None:
        with DRAWING:
            values = values_of(self.controls)
            try:
                sentence = self.describe(**values)
                self.picture.value = image_html(self.draw(**values), sentence, DPI)
                self.words.value = escape(sentence)
            except Exception as error:  # an exception in a callback would be seen by nobody
                self.picture.value = problem(error)
                self.words.value = ""

    def static(self) -> str:
        return self.picture.value + f"<p>{self.words.value}</p>"


def heading(title: str) -> widgets.HTML:
    """The first line of a dashboard."""
    return widgets.HTML(f"<b>{escape(title)}</b>")


def problem(error: Exception) -> str:
    """An error as HTML: its message where it is the user's, where it came from as well where it is ours."""
    text = str(error) if isinstance(error, LabError) else traceback.format_exc()
    return f'<pre role="alert" style="color: #B00020; white-space: pre-wrap">{escape(text)}</pre>'
