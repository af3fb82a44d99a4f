"""Notebook 03 in JupyterLab: the recorded critic by training step."""

import re

import pytest
from drive import Dashboard, expect

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]  # one server for all of them


@pytest.fixture(scope="module")
def critic(opened) -> Dashboard:
    return Dashboard(opened("03_value_head"), "lab-critic-view")


def test_the_steps_by_keyboard_and_by_name(critic):
    expect(critic.words).to_contain_text(
        re.compile(r"Step 200: mean V 0\.\d\d, mean pass rate 0\.\d\d, Pearson 0\.\d\d")
    )
    critic.redrawn(lambda: critic.choose("training step", "ArrowUp"))
    expect(critic.words).to_contain_text("Step 150: ")
    critic.redrawn(lambda: critic.field("training step").select_option("0"))
    expect(critic.words).to_contain_text(re.compile("Step 0: mean V 0.50, .* Pearson none, V is a constant"))
    critic.field("training step").select_option("100")
    expect(critic.words).to_contain_text("Step 100: ")


def test_the_bins_move_the_diagram(critic):
    critic.try_number("bins", "bins")


def test_every_view_is_drawn(critic):
    critic.redrawn(lambda: critic.choose("view"))
    expect(critic.field("view")).to_have_value("V against pass rate")
    critic.redrawn(lambda: critic.choose("view"))
    expect(critic.words).to_contain_text(re.compile(r"AUC from the first to the last tenth.*ppo-bce 0\.\d\d"))
    expect(critic.image).to_have_attribute("alt", critic.words.inner_text().strip())
    critic.redrawn(lambda: critic.field("view").select_option("reliability"))
    expect(critic.words).to_contain_text("Step 100")
