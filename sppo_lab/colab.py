"""What a public address adds to the notebooks: a Colab badge in each, and a set-up cell that installs from there.

The address is one field of pyproject.toml, ``repository`` under ``[tool.sppo-lab]``: OWNER/NAME on GitHub, or empty.
"""

import copy
import re
from pathlib import Path

from nbformat import NotebookNode

from sppo_lab.errors import LabError

FIELD = re.compile(r'^repository = "(.*)"$', re.MULTILINE)
OWNER_AND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")
BADGE = re.compile(r" ?\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
TABLE_LINK = re.compile(r"^\| \[[^\]]*\]\(notebooks/(?P<name>\d\d_\w+\.ipynb)\)", re.MULTILINE)
SET_UP = re.compile(
    r'\Atry:\n    import sppo_lab\n.*?^print\("sppo_lab", sppo_lab\.__version__\)$', re.MULTILINE | re.DOTALL
)

FROM_WHEEL = """\
try:
    import sppo_lab
except ModuleNotFoundError:
    raise SystemExit(
        "sppo_lab is not installed here. On your own computer: python3 run.py lab. On Colab: upload its wheel "
        "(folder sign at the left edge), run in a new cell\\n%pip install --no-deps sppo_lab-*.whl\\n"
        "%pip install math-verify\\nand run this cell again."
    ) from None
print("sppo_lab", sppo_lab.__version__)"""

FROM_REPOSITORY = """\
try:
    import sppo_lab
except ModuleNotFoundError:
    if "google.colab" not in str(get_ipython()):
        raise SystemExit("sppo_lab is not installed here: python3 run.py lab") from None
    # Only what Colab lacks: its own torch and ipywidgets have to stay as they are.
    %pip install --quiet --no-deps git+https://github.com/{repository}
    %pip install --quiet math-verify
    import sppo_lab
print("sppo_lab", sppo_lab.__version__)"""


def read_repository(root: Path) -> str:
    """OWNER/NAME as pyproject.toml in the checkout says; empty where it says nothing."""
    path = root / "pyproject.toml"
    found = FIELD.search(path.read_text(encoding="utf-8")) if path.exists() else None
    return found[1] if found else ""


def write_repository(root: Path, repository: str) -> None:
    """Keep OWNER/NAME in pyproject.toml; an empty name takes the address away.

    Raises LabError for a name of another form, and where pyproject.toml has no place for it.
    """
    if repository and not OWNER_AND_NAME.fullmatch(repository):
        raise LabError(f"--repo {repository!r} is not understood: write OWNER/NAME, as in github.com/OWNER/NAME.")
    path = root / "pyproject.toml"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not FIELD.search(text):
        raise LabError(f'{path} has no line repository = "" under [tool.sppo-lab]: publish works in a checkout.')
    path.write_text(FIELD.sub(f'repository = "{repository}"', text), encoding="utf-8")


def with_set_up(notebook: NotebookNode, repository: str) -> NotebookNode:
    """A copy whose set-up, up to the line that prints the version, is the one for this address."""
    notebook = copy.deepcopy(notebook)
    text = FROM_REPOSITORY.format(repository=repository) if repository else FROM_WHEEL
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = SET_UP.sub(lambda _: text, cell.source)
    return notebook


def with_badge(notebook: NotebookNode, name: str, repository: str) -> NotebookNode:
    """A copy with the badge of the notebook of that file name under its heading, or without any."""
    notebook = copy.deepcopy(notebook)
    if repository:
        heading, rest = notebook.cells[0].source.split("\n", 1)
        notebook.cells[0].source = f"{heading}\n\n{badge(name, repository)}\n{rest}"
    return notebook


def badge(name: str, repository: str) -> str:
    """Markdown of the picture that opens a notebook of the series on Colab."""
    target = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def with_table_badges(readme: str, repository: str) -> str:
    """The README with a badge behind each notebook of its table, or without any."""
    readme = BADGE.sub("", readme)
    if not repository:
        return readme
    return TABLE_LINK.sub(lambda found: f"{found[0]} {badge(found['name'], repository)}", readme)
