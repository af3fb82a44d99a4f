import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sppo_lab.errors import LabError
from sppo_lab.pages import build_pages
from sppo_lab.widgets.view import WIDGET_VIEW

FIRST = """# 90 A page

After this notebook you can

- say what a page *is*, and
  that <b> is text;
- go on."""
CODE = """import sys
from sppo_lab.notebook import table
print("half way", file=sys.stderr)
table(["what"], [("printed by a cell",)])"""
WIDGET = f"""from IPython.display import display
view = {{"version_major": 2, "version_minor": 0, "model_id": "x"}}
display({{"{WIDGET_VIEW}": view, "text/html": "<i>stand-in</i>"}}, raw=True)
display({{"{WIDGET_VIEW}": view, "text/plain": "training:   0%|"}}, raw=True)"""


def series(folder, *codes: str):
    for number, code in enumerate(codes):
        link = new_markdown_cell(f"Next: [91](9{number + 1}_page.ipynb), $V(s_p)$")
        notebook = new_notebook(cells=[new_markdown_cell(FIRST), link, new_code_cell(code)])
        nbformat.write(notebook, folder / f"9{number}_page.ipynb")
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = series(tmp_path_factory.mktemp("notebooks"), CODE, WIDGET)
    written = build_pages(folder, folder / "pages")
    return {path.name: path.read_text(encoding="utf-8") for path in written}


def test_there_is_a_page_for_each_notebook_and_an_index(pages):
    assert list(pages) == ["90_page.html", "91_page.html", "index.html"]
    assert all(f'href="{name}"' in pages["index.html"] for name in list(pages)[:2])
    assert "say what a page <em>is</em>, and that &lt;b&gt; is text;" in pages["index.html"]
    assert 'href="index.html"' in pages["90_page.html"]
    assert len(re.findall(r"Run here in \d+\.\d minutes", pages["index.html"])) == 2


def test_a_page_holds_what_the_cells_put_out(pages):
    assert "printed by a cell</td>" in pages["90_page.html"]
    assert "<pre>half way" not in pages["90_page.html"]


def test_a_link_to_a_notebook_leads_to_its_page(pages):
    assert 'href="91_page.html"' in pages["90_page.html"] and ".ipynb" not in pages["90_page.html"]


def test_widgets_give_way_to_what_stands_in_for_them_and_progress_bars_to_nothing(pages):
    assert "<i>stand-in</i>" in pages["91_page.html"] and '"model_id": "x"' not in pages["91_page.html"]
    assert "<pre>training:" not in pages["91_page.html"]


def test_only_mathjax_comes_from_elsewhere(pages):
    for text in pages.values():
        fetched = re.findall(r'(?:src|href)="(https?://[^"]+)"', text) + re.findall(
            r"import [^;]*(https?:[^\"']+)", text
        )
        assert all("mathjax" in address.lower() for address in fetched), fetched


def test_a_cell_that_fails_is_named_with_its_notebook(tmp_path):
    with pytest.raises(LabError, match=r"90_page\.ipynb failed: ZeroDivisionError"):
        build_pages(series(tmp_path, "1 / 0"), tmp_path / "pages")
