"""The rollout inspector: any saved response of a run, its tokens coloured by what happened to them."""

from html import escape
from pathlib import Path

import ipywidgets as widgets

from sppo_lab.errors import LabError
from sppo_lab.figures import DRAWING
from sppo_lab.models import load_tokenizer
from sppo_lab.recorder import Recorder
from sppo_lab.token_views import Row, response_html, response_sentence, usable_views
from sppo_lab.widgets.controls import choice, number, on_change, raise_to, tagged, values_of
from sppo_lab.widgets.view import Frame, heading, problem


class Inspector(Frame):
    """Look at the responses that a run saved, finished or still going on; ``read`` takes in those of later steps."""

    def __init__(self, run: str | Path):
        self.recorder = Recorder.open(run)
        self.tokenizer = load_tokenizer(self.recorder.config.model)
        self.load()
        first = next(iter(self.rows.values()))
        self.controls = {
            "step": number("training step", min(self.rows), min(self.rows), max(self.rows), 1, "Of the run."),
            "place": number("response", 1, 1, len(first), 1, "Which of the responses saved at that step."),
            "view": choice("colour by", usable_views(first[0]), "advantage", "What the colours stand for."),
        }
        self.words, self.response = widgets.HTML(), widgets.HTML()
        self.again = widgets.Button(
            description="Read again", tooltip="take in the steps since", layout={"width": "8em"}
        )
        self.again.on_click(lambda _: self.read())
        self.again.add_class("lab-again")
        self.words.add_class("lab-words")
        self.response.add_class("lab-response")
        parts = [*self.controls.values(), self.again, self.words, self.response]
        box = widgets.VBox([heading("Rollout inspector"), *parts])
        self.box = tagged(box, "inspector", self.controls)
        on_change(self.controls, self.redraw)
        self.redraw()

    def load(self) -> None:
        """The saved responses, by step.  LabError where there are none."""
        found: dict[int, list[Row]] = {}  # by step
        for row in self.recorder.responses():
            found.setdefault(row["step"], []).append(row)
        if not found:
            raise LabError(f"{self.recorder.folder} holds no saved responses: train with save_responses above 0.")
        self.rows = found

    def read(self) -> None:
        """Read the run again and go to its latest step."""
        try:
            self.load()
        except Exception as error:  # an exception in a callback would be seen by nobody
            self.words.value, self.response.value = "", problem(error)
            return
        raise_to(self.controls["step"], max(self.rows))
        self.controls["step"].field.value = max(self.rows)

    def redraw(self) -> None:
        with DRAWING:
            chosen = values_of(self.controls)
            try:
                responses = self.rows[min(self.rows, key=lambda step: abs(step - chosen["step"]))]
                row = responses[min(chosen["place"], len(responses)) - 1]
                tokens = [self.tokenizer.decode([i], skip_special_tokens=True) for i in row["token_ids"]]
                self.words.value = escape(response_sentence(row, chosen["view"], self.recorder.config))
                self.response.value = response_html(row, tokens, chosen["view"], self.recorder.config)
            except Exception as error:  # an exception in a callback would be seen by nobody
                self.words.value, self.response.value = "", problem(error)

    def static(self) -> str:
        return f"<p>{self.words.value}</p>{self.response.value}"
