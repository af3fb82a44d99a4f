"""Notebook 06 in JupyterLab: the variance explorer with the points of a recorded study."""

import pytest
from drive import Dashboard, expect

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]  # one server for all of them


@pytest.fixture(scope="module")
def variance(opened) -> Dashboard:
    return Dashboard(opened("06_advantage_variance_vs_grpo"), "lab-variance-explorer")


def test_it_shows_a_picture_and_says_what_is_in_it(variance):
    expect(variance.image).to_have_attribute("alt", variance.words.inner_text().strip())
    expect(variance.words).to_contain_text("At p = 0.4 a group of 8")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("solve rate p", "solve-rate"),
        ("spread", "spread"),
        ("group size G", "group-size"),
        ("critic's error", "error"),
        ("rollouts", "rollouts"),
        ("tokens T", "length"),
    ],
)
def test_every_number_moves_the_picture(variance, label, name):
    variance.try_number(label, name)


def test_the_sentence_follows_the_numbers(variance):
    variance.type("solve rate p", "0.5")
    variance.type("group size G", "2")
    expect(variance.words).to_contain_text("At p = 0.5 a group of 2 has no signal in 50.0% of the cases")
    variance.type("critic's error", "0")
    expect(variance.words).to_contain_text("of E[A^2] = 0.250 the critic's error is 0%")
    expect(variance.image).to_have_attribute("alt", variance.words.inner_text().strip())
