from pathlib import Path

import pytest

from sppo_lab.metrics import METRICS, TIMING, markdown_table


def test_every_explanation_is_one_line():
    assert all(text and "\n" not in text and "|" not in text.replace("|A|", "") for text in METRICS.values())
    assert set(TIMING) <= set(METRICS)


@pytest.mark.parametrize("name", ["README.md"])
def test_the_documents_hold_the_same_table(name):
    assert markdown_table() in (Path(__file__).parents[1] / name).read_text(encoding="utf-8")
