"""Controls with a name, a range and a sentence: usable by mouse, by keyboard and with a screen reader.

A slider has no accessible name in the browser, so each stands beside a labelled number field with the same value.
"""

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
import traitlets

LABEL_WIDTH = "11em"


def number(label: str, value: float, low: float, high: float, step: float, sentence: str = "") -> widgets.HBox:
    """A labelled field and a slider for a number; whole numbers where ``step`` is one.  ``value_of`` reads it."""
    whole = isinstance(step, int)
    field_type = widgets.BoundedIntText if whole else widgets.BoundedFloatText
    slider_type = widgets.IntSlider if whole else widgets.FloatSlider
    field = field_type(
        value=value,
        min=low,
        max=high,
        step=step,
        description=label,
        style={"description_width": LABEL_WIDTH},
        layout={"width": "18em"},
    )
    slider = slider_type(
        value=value, min=low, max=high, step=step, readout=False, continuous_update=False, layout={"width": "11em"}
    )
    traitlets.link((field, "value"), (slider, "value"))
    return _named(widgets.HBox([field, slider]), field, f"{sentence} From {low:g} to {high:g}.".strip())


def choice(label: str, options: Any, value: Any, sentence: str = "") -> widgets.HBox:
    """A labelled list to choose from; ``options`` as ipywidgets takes them."""
    field = widgets.Dropdown(
        options=options,
        value=value,
        description=label,
        style={"description_width": LABEL_WIDTH},
        layout={"width": "22em"},
    )
    return _named(widgets.HBox([field]), field, sentence)


def switch(label: str, value: bool, sentence: str = "") -> widgets.HBox:
    """A labelled checkbox."""
    field = widgets.Checkbox(value=value, description=label, indent=False, layout={"width": "22em"})
    return _named(widgets.HBox([field]), field, sentence)


def _named(row: widgets.HBox, field: widgets.Widget, sentence: str) -> widgets.HBox:
    """The row, which knows its field; the sentence is shown when the mouse rests on it."""
    name = "tooltip" if hasattr(field, "tooltip") else "description_tooltip"  # ipywidgets 8 and 7
    setattr(field, name, sentence)
    row.field = field
    return row


def value_of(row: widgets.HBox) -> Any:
    """What a control stands at."""
    return row.field.value


def values_of(controls: Mapping[str, widgets.HBox]) -> dict[str, Any]:
    return {name: value_of(row) for name, row in controls.items()}


def on_change(controls: Mapping[str, widgets.HBox], act: Callable[[], None]) -> None:
    """Call ``act`` whenever the value of one of the controls has changed."""
    for row in controls.values():
        row.field.observe(lambda change: act(), names="value")
