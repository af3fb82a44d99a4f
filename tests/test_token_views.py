import re

import pytest

from sppo_lab.config import Config
from sppo_lab.token_views import VIEWS, clipped, response_html, response_sentence, shade, usable_views

ROW = {
    "step": 3,
    "prompt": "1<2=",
    "reward": 1.0,
    "value": 0.25,
    "advantage": 0.75,
    "truncated": False,
    "token_ids": [1, 2, 3],
    "logprobs": [-0.5, -2.0, -0.1],
    "ratios": [1.3, 0.7, 1.0],
    "entropies": [0.2, 0.4, 0.0],
    "token_advantages": [0.75, 0.75, -0.75],
}


def test_every_view_has_a_number_per_token():
    for name in usable_views(ROW):
        assert len(VIEWS[name].numbers(ROW, Config())) == 3
    assert VIEWS["value"].numbers(ROW, Config()) == [0.25] * 3
    assert VIEWS["value"].numbers(ROW | {"token_values": [0.1, 0.2, 0.3]}, Config()) == [0.1, 0.2, 0.3]
    assert "value" not in usable_views(ROW | {"value": None})


def test_the_clip_goes_by_ratio_and_sign():
    assert clipped(ROW, Config(epsilon=0.2)) == [1.0, 0.0, 0.0]
    assert clipped(ROW | {"token_advantages": [-0.75] * 3}, Config(epsilon=0.2)) == [0.0, -1.0, 0.0]
    assert clipped(ROW, Config(epsilon=0.2, epsilon_high=0.5)) == [0.0, 0.0, 0.0]


def test_the_strongest_colour_is_furthest_from_the_middle():
    colors = shade([1.3, 0.7, 1.0, 1.15], 1.0)
    assert [float(re.search(r"([\d.]+)\)$", color)[1]) for color in colors] == pytest.approx([0.6, 0.6, 0.0, 0.3])
    assert colors[0].startswith("rgba(0, 114") and colors[1].startswith("rgba(213")
    assert shade([2.0, 2.0], None) == ["rgba(230, 159, 0, 0.00)"] * 2


def test_a_token_is_shown_with_its_number_and_a_name_for_screen_readers():
    page = response_html(ROW, ["7", "\n", ""], "ratio", Config())
    assert page.count('tabindex="0"') == 3 and 'data-number="1.300"' in page
    assert "1&lt;2=" in page and "↵" in page and "⏎ end" in page
    assert 'aria-label="7, ratio 1.300"' in page


def test_the_sentence_says_what_is_seen():
    sentence = response_sentence(ROW, "log-prob", Config())
    assert "Step 3: R = 1, V(s_p) = 0.25, mean A = +0.75, 3 tokens." in sentence
    assert "from -2.000 to -0.100" in sentence
    assert "cut at the limit" in response_sentence(ROW | {"truncated": True}, "ratio", Config())
