"""Notebook 05 in JupyterLab: training with buttons, and the inspector over a run."""

import re

import pytest
from drive import Dashboard, Locator, expect

LONG = 120_000  # ms, for what takes steps of training

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]  # one server for all of them


@pytest.fixture(scope="module")
def page(opened):
    return opened("05_train_lora_with_sppo")


@pytest.fixture(scope="module")
def training(page) -> Dashboard:
    return Dashboard(page, "lab-training")


@pytest.fixture(scope="module")
def inspector(page) -> Dashboard:
    return Dashboard(page, "lab-inspector")


def status(training: Dashboard) -> Locator:
    return training.box.locator(".lab-status")


def step_of(training: Dashboard) -> int:
    """The step that the status names."""
    expect(status(training)).to_have_text(re.compile(r"^\s*step \d+ of"), timeout=LONG)
    return int(re.search(r"step (\d+)", status(training).inner_text())[1])


def pressable(training: Dashboard, *names: str) -> None:
    """Wait until these buttons can be pressed, and no others."""
    for name in ("Start", "Pause", "Resume", "Stop"):
        button = training.box.get_by_role("button", name=name)
        expect(button).to_be_enabled(timeout=LONG) if name in names else expect(button).to_be_disabled(timeout=LONG)


def press(training: Dashboard, name: str, key: str | None = None) -> None:
    """A button, by mouse or by a key."""
    button = training.box.get_by_role("button", name=name)
    button.press(key) if key else button.click()


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("seed", "seed"),
        ("steps", "steps"),
        ("prompts per step", "prompts-per-step"),
        ("epsilon", "epsilon"),
        ("epochs", "epochs"),
        ("mini batches", "mini-batches"),
        ("temperature", "temperature"),
    ],
)
def test_every_number_is_in_the_command_line(training, label, name):
    training.try_number(label, name, redraws=False)
    command = training.box.locator(".lab-command")
    expect(command).to_contain_text(f"--{name} {training.value(label):g}")


@pytest.mark.parametrize(
    ("label", "option"), [("algorithm", "algorithm"), ("learning rate", "lr"), ("critic's rate", "critic-lr")]
)
def test_every_list_is_in_the_command_line(training, label, option):
    before = training.field(label).input_value()
    command = training.box.locator(".lab-command")
    training.choose(label)
    now = training.field(label).input_value()
    assert now != before
    expect(command).to_contain_text(f"--{option} {now}")
    training.field(label).select_option(before)
    expect(command).not_to_contain_text(f"--{option} {now}")


def test_start_pause_resume_stop_resume(training):
    settings = {"prompts per step": 8, "mini batches": 2, "epochs": 1, "steps": 400, "seed": 1, "temperature": 1}
    for label, value in settings.items():
        training.type(label, str(value))
    pressable(training, "Start")
    press(training, "Start")
    pressable(training, "Pause", "Stop")
    training.image.wait_for(timeout=LONG)
    expect(training.image).to_have_attribute("alt", re.compile(r"Curves of run-1; latest: reward 0\.\d\d"))
    expect(status(training)).to_contain_text(re.compile(r"s of training, about \d+ s left, \d+ MiB"))
    expect(training.box.locator(".lab-responses table tbody tr")).to_have_count(5)

    press(training, "Pause", "Enter")
    pressable(training, "Resume", "Stop")
    held = training.image.get_attribute("src")
    training.page.wait_for_timeout(1500)
    expect(training.image).to_have_attribute("src", held)
    training.redrawn(lambda: press(training, "Resume", "Space"))
    pressable(training, "Pause", "Stop")

    reached = step_of(training)
    press(training, "Stop")
    pressable(training, "Start", "Resume")
    expect(status(training)).to_contain_text("run-1")
    press(training, "Resume")
    pressable(training, "Pause", "Stop")
    expect(status(training)).to_have_text(re.compile(r"step \d+ of 400"), timeout=LONG)
    assert step_of(training) > reached
    press(training, "Stop")
    pressable(training, "Start", "Resume")


def test_a_second_run_lies_over_the_first(training):
    training.type("steps", "2")
    press(training, "Start", "Enter")
    pressable(training, "Start")
    expect(status(training)).to_contain_text("run-2")
    expect(training.image).to_have_attribute("alt", re.compile("run-1 and run-2"))
    overlay = training.field("draw the run before it as well")
    training.redrawn(lambda: overlay.press("Space"))
    expect(training.image).to_have_attribute("alt", re.compile("Curves of run-2;"))
    training.redrawn(lambda: overlay.click())


def test_the_inspector_goes_through_steps_responses_and_views(inspector):
    first = inspector.words.inner_text()
    assert first.strip().startswith("Step 1:")
    inspector.try_number("training step", "step", redraws=False)
    expect(inspector.words).not_to_contain_text("Step 1:")
    inspector.try_number("response", "place", redraws=False)
    boxes = inspector.box.locator(".lab-token")
    seen = set()
    for view in ("advantage", "ratio", "clip", "log-prob", "entropy", "value"):
        inspector.field("colour by").select_option(view)
        expect(inspector.words).to_contain_text(f"{view}:")
        expect(boxes.first).to_have_attribute("aria-label", re.compile(f"{view} "))
        seen.add(tuple(box.get_attribute("style") for box in boxes.all()))
    assert len(seen) > 2
    inspector.choose("colour by", "ArrowUp")
    expect(inspector.words).to_contain_text("entropy:")


def test_a_tokens_number_is_there_for_mouse_and_keyboard(inspector):
    box = inspector.box.locator(".lab-token").first
    wanted = f'"{box.get_attribute("data-number")}"'
    after = "box => getComputedStyle(box, '::after').content"
    inspector.page.mouse.move(0, 0)
    assert box.evaluate(after) != wanted
    box.hover()
    assert box.evaluate(after) in (wanted, "attr(data-number)")
    inspector.page.mouse.move(0, 0)
    inspector.box.locator(".lab-again").focus()
    inspector.page.keyboard.press("Tab")
    assert box.evaluate("box => box === document.activeElement")
    assert box.evaluate(after) in (wanted, "attr(data-number)")


def test_reading_again_goes_to_the_latest_step(inspector):
    highest = float(inspector.field("training step").get_attribute("max"))
    inspector.type("training step", "1")
    expect(inspector.words).to_contain_text("Step 1:")
    inspector.box.locator(".lab-again").press("Enter")
    expect(inspector.words).to_contain_text(f"Step {highest:g}:")
