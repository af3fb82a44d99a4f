"""The training dashboard: settings, Start, Pause, Resume, Stop, live curves, the latest responses.

The run goes on in a thread that sets traits and nothing else, which works in JupyterLab and VS Code.  Where updates
from a thread do not arrive, as on Colab, ``run`` trains in the cell; interrupting it is Stop.
"""

import time
from html import escape
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from sppo_lab.algorithms import ALGORITHMS
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.experiment import Experiment
from sppo_lab.figures import DRAWING, Comparison
from sppo_lab.notebook import image_html
from sppo_lab.processes import peak_memory_mb
from sppo_lab.trainer import StepRecord
from sppo_lab.widgets.controls import choice, number, on_change, tagged, values_of
from sppo_lab.widgets.view import DPI, Frame, heading, problem
from sppo_lab.widgets.worker import ENDED, State, Worker

CURVES = ["reward", "completions/mean_length", "advantage/variance"]
PERIOD = 0.4  # seconds between two pictures, at least
RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 2e-3, 5e-3)
BUTTONS = {
    "Start": "begin a new run with these settings",
    "Pause": "hold after the step under way",
    "Resume": "go on where the run was paused or stopped",
    "Stop": "end after the step under way, and save",
}
USABLE: dict[State, tuple[str, ...]] = {  # which buttons can be pressed; none while something is on its way
    "ready": ("Start",),
    "training": ("Pause", "Stop"),
    "paused": ("Resume", "Stop"),
    "stopped": ("Start", "Resume"),
    "done": ("Start",),
    "failed": ("Start",),
}


class Training(Frame):
    """Train with buttons.  ``run()`` trains in the cell instead, ``wait()`` returns when the run has ended.

    Each run has a directory of its own under ``folder``; nothing that was trained is lost by Pause or Stop.
    """

    def __init__(self, config: Config | None = None, folder: str | Path = "runs/dashboard"):
        self.config = config or Config(steps=60, eval_samples=4, eval_prompts=100)
        self.controls = training_controls(self.config)
        self.worker = Worker(folder, self.show_state, self.show_step, self.show_progress)
        self.runs: dict[str, list[dict[str, float]]] = {}  # directory's name to metrics, the latest run last
        self.algorithms: dict[str, str] = {}  # directory's name to the row of the table
        self.curves = Comparison(CURVES)
        self.drawn = 0.0  # when the last picture was made
        self.build()
        self.show_state("ready")
        self.show_command()

    def build(self) -> None:
        self.buttons = {}
        for name, sentence in BUTTONS.items():
            button = widgets.Button(description=name, tooltip=sentence, layout={"width": "7em"})
            button.add_class(f"lab-{name.lower()}")
            self.buttons[name] = button
        self.buttons["Start"].on_click(lambda _: self.start())
        self.buttons["Pause"].on_click(lambda _: self.worker.pause())
        self.buttons["Resume"].on_click(lambda _: self.resume())
        self.buttons["Stop"].on_click(lambda _: self.worker.stop())
        self.overlay = widgets.Checkbox(value=True, description="draw the run before it as well", indent=False)
        self.progress = widgets.IntProgress(layout={"width": "12em"})
        self.status, self.picture, self.responses, self.command = (widgets.HTML() for _ in range(4))
        bar = widgets.HBox([*self.buttons.values(), self.progress])
        shown = {
            "overlay": self.overlay,
            "status": self.status,
            "picture": self.picture,
            "responses": self.responses,
            "command": self.command,
        }
        box = widgets.VBox([heading("Training"), *self.controls.values(), bar, *shown.values()])
        self.box = tagged(box, "training", self.controls | shown)
        on_change(self.controls, self.show_command)
        self.overlay.observe(lambda change: self.draw(), names="value")

    # What can be done with it.

    def start(self) -> None:
        """Begin a new run in a thread; settings that are refused are said in the status."""
        try:
            config = self.chosen()
        except LabError as error:  # in a button's callback nobody else would see it
            self.status.value = problem(error)
        else:
            self.worker.start(config)

    def resume(self) -> None:
        """Go on with the run that pauses, or from disk with the one that was stopped."""
        if self.worker.state == "paused":
            self.worker.go_on()
        else:
            self.worker.start(None)

    def run(self, resume: bool = False) -> None:
        """Train in the cell.  Interrupting it (■) is Stop: everything is saved, ``run(resume=True)`` goes on."""
        if self.worker.state not in ENDED:
            raise LabError("a run is under way: stop it first.")
        self.worker.train(None if resume else self.chosen())
        self.worker.wait()

    def wait(self) -> None:
        """Return when the run has ended; an error in it is raised here."""
        self.worker.wait()

    def chosen(self) -> Config:
        """The configuration that the controls stand at."""
        return self.config.replace(**values_of(self.controls))

    # What it shows.

    def show_state(self, state: State) -> None:
        experiment = self.worker.experiment if state in ("stopped", "done") else None
        self.status.value = escape(ending(state, experiment)) if experiment else state
        if state == "paused":
            self.status.value = f"paused after step {int(list(self.runs.values())[-1][-1]['step'])}"
        if state == "failed":
            self.status.value = problem(self.worker.error)
        if state in ("paused", "stopped", "done"):
            self.draw()
        for name, button in self.buttons.items():  # last of all: who can press one sees where the run stands
            button.disabled = name not in USABLE.get(state, ())

    def show_progress(self, label: str, done: int, total: int) -> None:
        self.progress.max, self.progress.value = total, done
        if label != "training":
            self.status.value = f"{escape(label)}: {done} of {total}"

    def show_step(self, record: StepRecord) -> None:
        """Keep a step, and draw unless the last picture is very new."""
        recorder = self.worker.experiment.recorder
        history = self.runs.setdefault(recorder.folder.name, [])
        self.algorithms[recorder.folder.name] = recorder.config.algorithm
        history.append(record.metrics)
        total = recorder.config.steps
        seconds = sum(metrics["step_time"] for metrics in history)
        left = seconds / len(history) * (total - record.step)
        self.status.value = (
            f"step {record.step} of {total}, {seconds:.0f} s of training, about {left:.0f} s left, "
            f"{peak_memory_mb():.0f} MiB at most"
        )
        if time.monotonic() - self.drawn > PERIOD:
            self.responses.value = responses_table(record)
            self.draw()

    def draw(self) -> None:
        """The curves of the latest run, over those of the one before it if asked."""
        with DRAWING:
            names = list(self.runs)[-2 if self.overlay.value else -1 :]
            shown = {
                ", ".join(filter(None, (name, self.algorithms.get(name)))): pd.DataFrame(self.runs[name])
                for name in names
            }
            try:
                if shown:
                    self.picture.value = image_html(self.curves.show(shown), self.sentence(names), DPI)
            except Exception as error:  # a picture that fails must not end the training
                self.picture.value = problem(error)
            self.drawn = time.monotonic()

    def sentence(self, names: list[str]) -> str:
        """What the picture of these runs shows, with the latest numbers."""
        latest = list(self.runs.values())[-1][-1]
        words = ", ".join(f"{name} {latest[name]:.2f}" for name in CURVES)
        return f"Curves of {' and '.join(names)}; latest: {words}"

    def show_command(self) -> None:
        try:
            line = command_line(self.chosen())
        except LabError as error:  # two settings that do not go together
            self.command.value = problem(error)
        else:
            self.command.value = f"These settings from a terminal: <code>{escape(line)}</code>"

    def static(self) -> str:
        status = f"Training dashboard: {self.status.value}"
        parts = (status, self.picture.value, self.responses.value, self.command.value)
        return "".join(f"<div>{part}</div>" for part in parts if part)


def ending(state: State, experiment: Experiment) -> str:
    """Where a run that has ended lies, and the accuracy before and after it as far as it was measured."""
    summary = experiment.summary()
    found = [
        f"{summary[f'accuracy_{when}']:.3f} {when}"
        for when in ("before", "after")
        if summary[f"accuracy_{when}"] is not None
    ]
    accuracy = f"; accuracy on test problems {' and '.join(found)} training" if found else ""
    return f"{state}, saved in {experiment.recorder.folder}{accuracy}"


def training_controls(config: Config) -> dict[str, widgets.HBox]:
    """A control for each setting that a lesson changes, with the sentence of Config."""
    helps = {name: field.metadata["help"] for name, field in Config.__dataclass_fields__.items()}
    sentence = {name: f"{text[0].upper()}{text[1:]}." for name, text in helps.items()}

    def rate(name: str, label: str) -> widgets.HBox:
        known = sorted({*RATES, getattr(config, name)})
        return choice(label, [(f"{rate:g}", rate) for rate in known], getattr(config, name), sentence[name])

    def setting(name: str, low: float, high: float, step: float) -> widgets.HBox:
        return number(name.replace("_", " "), getattr(config, name), low, high, step, sentence[name])

    return {
        "algorithm": choice("algorithm", list(ALGORITHMS), config.algorithm, "Row of the table of algorithms."),
        "seed": setting("seed", 0, 99, 1),
        "steps": setting("steps", 1, 1000, 1),
        "prompts_per_step": setting("prompts_per_step", 8, 256, 8),
        "lr": rate("lr", "learning rate"),
        "critic_lr": rate("critic_lr", "critic's rate"),
        "epsilon": setting("epsilon", 0.01, 1.0, 0.01),
        "epochs": setting("epochs", 1, 8, 1),
        "mini_batches": setting("mini_batches", 1, 8, 1),
        "temperature": setting("temperature", 0.1, 2.0, 0.1),
    }


def responses_table(record: StepRecord, count: int = 5) -> str:
    """Reward, prompt, right answer and response of the first ``count`` as an HTML table."""
    widths = {"R": 1, "prompt": 12, "answer": 4, "response": 12}  # at least, in em
    style = "text-align: left; vertical-align: top; overflow-wrap: anywhere; white-space: pre-wrap"
    head = "".join(f"<th scope='col' style='text-align: left'>{name}</th>" for name in widths)
    rows = zip(record.rollouts.rewards.tolist(), record.problems, record.rollouts.texts, strict=True)
    body = ""
    for reward, asked, text in list(rows)[:count]:
        cells = zip(widths.values(), (f"{reward:.0f}", asked.prompt, asked.answer, text), strict=True)
        filled = (f"<td style='{style}; min-width: {width}em'>{escape(cell)}</td>" for width, cell in cells)
        body += f"<tr>{''.join(filled)}</tr>"
    caption = "<caption style='text-align: left'>Latest responses</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def command_line(config: Config) -> str:
    """``python -m sppo_lab train`` with the settings that differ from the defaults."""
    return " ".join(["python -m sppo_lab train", *config.options(), "--out runs/mine"])
