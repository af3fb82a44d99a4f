"""The pages for people: their links lead somewhere, and they name what is there."""

import re
from pathlib import Path

import pytest
import yaml

from sppo_lab import __version__

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_within_the_repository_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path), link


def test_the_teaching_guide_has_a_lesson_for_every_notebook():
    plans = re.findall(r"^### (\d\d) ", (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert plans == sorted(plans)
    assert {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")} <= set(plans)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["references"][0]["url"].endswith("2604.08865")
