"""What goes wrong is said in the dashboard itself: a front end shows nobody an exception in a callback."""

import pytest
from drive import Dashboard, expect
from server import write_notebook

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]  # one server for all of them

EXPLORER = """from matplotlib.figure import Figure
from sppo_lab.errors import LabError
from sppo_lab.widgets.controls import number
from sppo_lab.widgets.view import Explorer

def draw(p):
    if p > 0.9:
        raise LabError("p is too high to be drawn")
    if p < 0.1:
        raise ZeroDivisionError("in the middle of a redraw")
    figure = Figure(figsize=(4, 2))
    figure.subplots().plot([0, p])
    return figure

Explorer("Failing explorer", {"p": number("p", 0.5, 0.0, 1.0, 0.01)}, draw, lambda p: f"p is {p:g}.")"""
TRAINING = """from sppo_lab.config import Config
from sppo_lab.widgets.training import Training

refused = Config(algorithm="grpo", group_size=1, prompts_per_step=8, eval_samples=1, eval_prompts=4)
Training(refused, "runs/refused")"""
INSPECTOR = """import shutil
from sppo_lab.experiment import Experiment
from sppo_lab.widgets.inspector import Inspector

small = Config(steps=1, prompts_per_step=8, max_new_tokens=8, eval_samples=1, eval_prompts=4)
list(Experiment(small, "runs/lost", overwrite=True))
inspector = Inspector("runs/lost")
shutil.rmtree("runs/lost")
inspector"""
NOWHERE = """from sppo_lab.widgets.inspector import Inspector

Inspector("runs/nowhere")"""


@pytest.fixture(scope="module")
def page(opened, lab_folder):
    write_notebook(lab_folder, "errors", EXPLORER, TRAINING, INSPECTOR)
    return opened("errors")


def alert(dashboard: Dashboard, part: str):
    return dashboard.box.locator(f".lab-{part} [role=alert]")


def test_an_exception_in_a_redraw_takes_the_place_of_the_picture(page):
    explorer = Dashboard(page, "lab-failing-explorer")
    explorer.type("p", "0.95")
    expect(alert(explorer, "picture")).to_have_text("p is too high to be drawn")
    explorer.type("p", "0.05")
    expect(alert(explorer, "picture")).to_contain_text("ZeroDivisionError: in the middle of a redraw")
    explorer.type("p", "0.6")
    expect(explorer.image).to_have_attribute("alt", "p is 0.6.")
    expect(alert(explorer, "picture")).to_have_count(0)


def test_a_number_out_of_range_becomes_the_nearest_that_is_allowed(page):
    training = Dashboard(page, "lab-training")
    for typed, taken in (("5000", "1000"), ("-3", "1"), ("7", "7")):
        training.type("steps", typed)
        expect(training.field("steps")).to_have_value(taken)
        expect(training.box.locator(".lab-command")).to_contain_text(f"--steps {taken}")


def test_settings_that_do_not_go_together_are_said_in_the_status(page):
    training = Dashboard(page, "lab-training")
    start = training.box.get_by_role("button", name="Start")
    start.click()
    expect(alert(training, "status")).to_contain_text("group_size = 1, but grpo compares")
    expect(start).to_be_enabled()
    training.field("algorithm").select_option("sppo")
    training.type("steps", "1")
    start.click()
    expect(training.box.locator(".lab-status")).to_contain_text("done, saved in", timeout=120_000)
    expect(alert(training, "status")).to_have_count(0)


def test_a_run_that_is_gone_is_said_in_the_inspector(page):
    inspector = Dashboard(page, "lab-inspector")
    expect(inspector.words).to_contain_text("Step 1:")
    inspector.box.locator(".lab-again").click()
    expect(alert(inspector, "response")).to_contain_text("runs/lost holds no saved responses")


def test_an_inspector_of_a_run_that_never_was_is_one_line_in_the_cell(opened, lab_folder):
    write_notebook(lab_folder, "nowhere", NOWHERE)
    with pytest.raises(AssertionError, match="LabError: runs/nowhere is not a run directory"):
        opened("nowhere")
