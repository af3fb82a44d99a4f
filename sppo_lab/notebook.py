"""The little that every notebook needs: sizes for teaching or for a quick check, pictures with a description,
and tables."""

import base64
import io
import os
from collections.abc import Iterable
from html import escape
from typing import Any, TypeVar

from IPython.display import HTML
from matplotlib.figure import Figure

from sppo_lab.figures import DRAWING

Size = TypeVar("Size")


def size(teaching: Size, short: Size) -> Size:
    """``teaching``, or ``short`` where the environment variable SPPO_LAB_SHORT is set, as in automatic tests.

    It changes sizes only; what a notebook shows stays the same.
    """
    return short if os.environ.get("SPPO_LAB_SHORT") else teaching


def picture(figure: Figure, description: str) -> HTML:
    """The figure as a picture that a screen reader can describe."""
    return HTML(image_html(figure, description))


def image_html(figure: Figure, description: str, dpi: int = 100) -> str:
    """The figure as an HTML element, its pixels inside it and the description as its alternative text."""
    buffer = io.BytesIO()
    with DRAWING:
        figure.savefig(buffer, dpi=dpi, pil_kwargs={"compress_level": 1})  # a little larger, several times as fast
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{encoded}" style="max-width: 100%">'


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> HTML:
    """A plain table, every cell aligned to the left, fractions to four significant digits, a dash for None."""
    head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _cell(value: Any) -> str:
    text = "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td style='text-align:left'>{escape(text)}</td>"
