"""Controls with a name, a range and a sentence: usable by mouse, by keyboard and with a screen reader.

A slider has no accessible name in the browser, so each stands beside a labelled number field with the same value.
"""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import ipywidgets as widgets
import traitlets

LABEL_WIDTH = "11em"
ALONE = {"width": "25em", "margin": "2px calc(4em + 6px) 2px 2px"}  # of a field without slider: as wide as one with


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
    row = _row(field, slider)
    row.sentence = sentence
    return _explained(row, f"{sentence} From {low:g} to {high:g}.".strip())


def choice(label: str, options: Any, value: Any, sentence: str = "") -> widgets.HBox:
    """A labelled list to choose from; ``options`` as ipywidgets takes them."""
    field = widgets.Dropdown(
        options=options,
        value=value,
        description=label,
        style={"description_width": LABEL_WIDTH},
        layout=ALONE,
    )
    return _explained(_row(field), sentence)


def switch(label: str, value: bool, sentence: str = "") -> widgets.HBox:
    """A labelled checkbox."""
    field = widgets.Checkbox(value=value, description=label, style={"description_width": LABEL_WIDTH}, layout=ALONE)
    return _explained(_row(field), sentence)


def _row(field: widgets.Widget, *others: widgets.Widget) -> widgets.HBox:
    """The parts of a control side by side, with room for its sentence; the row knows its field."""
    note = widgets.HTML(layout={"flex": "1 1 20em", "margin": "2px 2px 2px 12px"})
    row = widgets.HBox([field, *others, note], layout={"flex_flow": "row wrap"})
    row.field, row.note = field, note
    return row


def _explained(row: widgets.HBox, sentence: str) -> widgets.HBox:
    """The row with its sentence: beside the field for everyone to read, and as the field's tooltip."""
    look = (
        "display: block; font-size: 0.92em; line-height: 1.3; padding-top: 6px; color: var(--jp-ui-font-color2, #555)"
    )
    row.note.value = f'<small style="{look}">{escape(sentence)}</small>'
    name = "tooltip" if hasattr(row.field, "tooltip") else "description_tooltip"  # ipywidgets 8 and 7
    setattr(row.field, name, sentence)
    return row


def raise_to(row: widgets.HBox, high: float) -> None:
    """Move the upper end of a number's range."""
    for part in row.children[:2]:
        part.max = high
    _explained(row, f"{row.sentence} From {row.field.min:g} to {high:g}.".strip())


def tagged(box: widgets.Box, title: str, controls: Mapping[str, widgets.HBox]) -> widgets.Box:
    """The box of a dashboard with CSS classes on itself and its controls: ``lab-clip-explorer``, ``lab-dual-clip``."""
    for name, row in {title: box, **controls}.items():
        row.add_class("lab-" + name.lower().replace("_", "-").replace(" ", "-"))
    return box


def value_of(row: widgets.HBox) -> Any:
    """What a control stands at."""
    return row.field.value


def values_of(controls: Mapping[str, widgets.HBox]) -> dict[str, Any]:
    return {name: value_of(row) for name, row in controls.items()}


def on_change(controls: Mapping[str, widgets.HBox], act: Callable[[], None]) -> None:
    """Call ``act`` whenever the value of one of the controls has changed."""
    for row in controls.values():
        row.field.observe(lambda change: act(), names="value")
