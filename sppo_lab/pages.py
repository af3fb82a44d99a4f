"""The series as web pages: every notebook run once, its pictures inside the page, and an index.

The pages need no kernel and no network, but for formulas: MathJax typesets them and comes from its public address.
Without a network they are shown as they were typed.  Where a notebook has widgets, the page has their pictures.
"""

import copy
import html
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from tqdm import tqdm

from sppo_lab import __version__
from sppo_lab.errors import LabError
from sppo_lab.widgets.view import WIDGET_VIEW

NOTEBOOK_LINK = re.compile(r"\]\((\d\d_\w+)\.ipynb")

# JupyterLab's page without the scripts that only widgets and diagrams need, with a line that leads back.
PAGE = """\
{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_css %}
<style>
main { max-width: 66rem; margin: 0 auto; padding: 1rem; }
.jp-InputArea-editor { overflow-x: auto; }
.jp-RenderedHTMLCommon table { display: block; overflow-x: auto; }
.jp-RenderedText pre { white-space: pre-wrap; overflow-wrap: anywhere; }
nav { font: 1rem sans-serif; padding: 0 0 1rem 4.5rem; }
</style>
{% endblock %}
{% block body_header %}{{ super() }}<nav><a href="index.html">All notebooks</a></nav>{% endblock %}
"""

INDEX = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1.0">
<title>sppo-lab: the notebooks</title>
<style>
body {{ font: 1rem/1.5 sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #212121; }}
h2 {{ margin-bottom: 0; font-size: 1.2rem; }}
p {{ margin: 0.5rem 0; }}
</style>
</head>
<body>
<main>
<h1>sppo-lab: the notebooks, run</h1>
<p>Each page is a student's copy with what it printed and drew, by sppo_lab {version}. Exercises are open, and the
notebook went on with the package's own piece. To change something, open the notebook itself.</p>
<p>Pages can be read without a network, except that formulas then stand as they were typed.</p>
{entries}
</main>
</body>
</html>
"""


def build_pages(folder: Path, out: Path) -> list[Path]:
    """Run the notebooks in ``folder``, each in an empty directory, and write NN_name.html and index.html into ``out``.

    It takes as long as Run All in each of them.  Raises LabError with the notebook's name where a cell fails.
    """
    notebooks = {path: nbformat.read(path, as_version=4) for path in sorted(folder.glob("[0-9]*.ipynb"))}
    out.mkdir(parents=True, exist_ok=True)
    written, seconds = [], {}
    cells = sum(cell.cell_type == "code" for notebook in notebooks.values() for cell in notebook.cells)
    with tqdm(total=cells, unit=" cells") as progress:
        for path, notebook in notebooks.items():
            progress.set_description(path.stem)
            page, started = out / f"{path.stem}.html", time.monotonic()
            page.write_text(as_page(executed(notebook, path.name, progress.update), path.stem), encoding="utf-8")
            seconds[path] = time.monotonic() - started
            written.append(page)
    index = out / "index.html"
    index.write_text(index_page(notebooks, seconds), encoding="utf-8")
    return [*written, index]


def executed(notebook: NotebookNode, name: str, advance: Callable[[], object] = lambda: None) -> NotebookNode:
    """A copy after Run All in an empty directory; ``advance`` is called after each code cell."""
    notebook = copy.deepcopy(notebook)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=None,
            startup_timeout=300,  # seconds; a kernel is slow to start on a busy machine
            coalesce_streams=True,
            store_widget_state=False,
            resources={"metadata": {"path": folder}},
            on_cell_complete=lambda **_: advance(),
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise LabError(f"a cell of {name} failed: {error.ename}: {error.evalue}. Run it in JupyterLab.") from error
    return notebook


def as_page(notebook: NotebookNode, title: str) -> str:
    """An executed notebook as HTML: links lead to the other pages, widgets give way to their pictures.

    Progress bars are left out, which say nothing once a cell has ended.
    """
    notebook = copy.deepcopy(notebook)
    notebook.metadata["title"] = title
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = NOTEBOOK_LINK.sub(r"](\1.html", cell.source)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET_VIEW, None)
    exporter = HTMLExporter(template_file="page.html.j2", extra_loaders=[DictLoader({"page.html.j2": PAGE})])
    return exporter.from_notebook_node(notebook)[0]


def is_progress(output: NotebookNode) -> bool:
    """Whether an output is a progress bar: on stderr, or a widget that has no picture of itself."""
    data = output.get("data", {})
    return output.get("name") == "stderr" or (WIDGET_VIEW in data and "text/html" not in data)


def index_page(notebooks: dict[Path, NotebookNode], seconds: dict[Path, float]) -> str:
    """A list of the notebooks, each with its heading, what its first cell promises, and the seconds it took."""
    entries = [_entry(path.stem, notebook.cells[0].source, seconds[path]) for path, notebook in notebooks.items()]
    return INDEX.format(version=__version__, entries="\n".join(entries))


def _entry(name: str, first: str, seconds: float) -> str:
    heading = first.split("\n", 1)[0].removeprefix("# ")
    points = re.findall(r"^- (.*(?:\n  .*)*)", first, re.MULTILINE)
    items = "".join(f"<li>{_emphasised(html.escape(' '.join(point.split())))}</li>" for point in points)
    link, took = f'<a href="{name}.html">{html.escape(heading)}</a>', f"<p>Run here in {seconds / 60:.1f} minutes.</p>"
    return f"<h2>{link}</h2>\n<p>After it you can</p>\n<ul>{items}</ul>\n{took}"


def _emphasised(text: str) -> str:
    """Words between single stars in italics, the only markup that a first cell's points use."""
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)
