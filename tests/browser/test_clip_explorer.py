"""Notebook 04 in JupyterLab: the clip explorer over a batch's tokens."""

import pytest
from drive import Dashboard, expect

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]  # one server for all of them


@pytest.fixture(scope="module")
def clip(opened) -> Dashboard:
    return Dashboard(opened("04_advantage_and_loss"), "lab-clip-explorer")


def test_it_shows_a_picture_and_says_what_is_in_it(clip):
    expect(clip.image).to_have_attribute("alt", clip.words.inner_text().strip())
    expect(clip.words).to_contain_text("not pushed beyond ratio 1.2")


@pytest.mark.parametrize(("label", "name"), [("epsilon", "epsilon"), ("epsilon high", "epsilon-high")])
def test_a_bound_moves_the_picture_and_the_sentence(clip, label, name):
    clip.try_number(label, name)
    expect(clip.words).to_contain_text(f"{1 + clip.value('epsilon high'):g}")
    expect(clip.words).to_contain_text(f"below {1 - clip.value('epsilon'):g}")


def test_the_dual_clip_counts_only_while_it_is_on(clip):
    clip.redrawn(lambda: clip.type("dual clip at", "5"), changed=False)
    clip.redrawn(lambda: clip.field("dual clip").press("Space"))
    expect(clip.words).to_contain_text("or above 5")
    clip.try_number("dual clip at", "dual-clip")
    expect(clip.words).to_contain_text(f"or above {clip.value('dual clip at'):g}")
    clip.redrawn(lambda: clip.field("dual clip").click())
    expect(clip.words).not_to_contain_text("or above")


def test_a_number_out_of_range_becomes_the_nearest(clip):
    clip.type("epsilon", "7")
    expect(clip.field("epsilon")).to_have_value("0.9")
    expect(clip.words).to_contain_text("below 0.1")
