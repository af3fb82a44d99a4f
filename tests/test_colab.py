"""The notebooks on Colab: one address, in every place or in none."""

import re
import shutil
import tomllib
from pathlib import Path

import nbformat
import pytest

from sppo_lab.cli import main
from sppo_lab.colab import FROM_REPOSITORY, FROM_WHEEL, badge, read_repository, with_table_badges
from sppo_lab.errors import LabError
from sppo_lab.publish import publish

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """The parts of the repository that publish reads and writes."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return tmp_path


def contents(checkout) -> dict[str, str]:
    return {
        path.relative_to(checkout).as_posix(): path.read_text(encoding="utf-8")
        for path in checkout.rglob("*")
        if path.is_file()
    }


def first_code_cells(checkout) -> set[str]:
    """The set-up of every notebook, up to the line that prints the version."""
    found = set()
    for path in (checkout / "notebooks").rglob("*.ipynb"):
        source = nbformat.read(path, as_version=4).cells[1].source
        head, line, _ = source.partition('print("sppo_lab", sppo_lab.__version__)')
        found.add(head + line)
    return found


def test_the_repository_is_named_in_one_place_and_every_notebook_agrees_with_it():
    repository = read_repository(ROOT)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["sppo-lab"]["repository"] == repository
    expected = FROM_REPOSITORY.format(repository=repository) if repository else FROM_WHEEL
    assert first_code_cells(ROOT) == {expected}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table_badges(readme, repository) == readme


def test_an_address_goes_everywhere_another_replaces_it_and_none_takes_it_away(checkout):
    publish(checkout / "notebooks", "")
    before = contents(checkout)
    assert "colab.research" not in "".join(before.values())

    publish(checkout / "notebooks", "first/lab")
    names = sorted(path.name for path in (checkout / "notebooks").glob("*.ipynb"))
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    for name in names:
        first = nbformat.read(checkout / "notebooks" / name, as_version=4).cells[0].source
        assert first.count(badge(name, "first/lab")) == 1 and first.startswith("# ")
        assert readme.count(badge(name, "first/lab")) == 1
    assert first_code_cells(checkout) == {FROM_REPOSITORY.format(repository="first/lab")}

    published = contents(checkout)
    publish(checkout / "notebooks")
    assert contents(checkout) == published

    publish(checkout / "notebooks", "second/lab-2")
    after = "".join(contents(checkout).values())
    assert "first/lab" not in after and "second/lab-2" in after

    publish(checkout / "notebooks", "")
    assert contents(checkout) == before


def test_a_set_up_of_another_kind_is_brought_into_line(checkout):
    path = checkout / "notebooks" / "masters" / "00_start_here.ipynb"
    master = nbformat.read(path, as_version=4)
    print_line = 'print("sppo_lab", sppo_lab.__version__)'
    master.cells[1].source = f"try:\n    import sppo_lab\nexcept ModuleNotFoundError:\n    raise\n{print_line}\n\nx = 1"
    nbformat.write(master, path)
    publish(checkout / "notebooks")
    assert nbformat.read(path, as_version=4).cells[1].source.endswith("\n\nx = 1")
    assert len(first_code_cells(checkout)) == 1


@pytest.mark.parametrize("repository", ["lab", "https://github.com/me/lab", "me/lab/tree", 'me/"', "me/"])
def test_what_is_no_repository_is_refused_before_anything_is_written(checkout, repository):
    before = contents(checkout)
    with pytest.raises(LabError, match="OWNER/NAME"):
        publish(checkout / "notebooks", repository)
    assert contents(checkout) == before


def test_a_folder_without_a_place_for_the_address_gets_a_message(checkout):
    (checkout / "pyproject.toml").unlink()
    with pytest.raises(LabError, match="checkout"):
        publish(checkout / "notebooks", "me/lab")


def test_the_command_takes_the_address(checkout, capsys):
    assert main(["publish", f"--notebooks={checkout / 'notebooks'}", "--repo=me/lab"]) == 0
    assert "README.md" in capsys.readouterr().out
    assert read_repository(checkout) == "me/lab"


@pytest.mark.parametrize("text", [FROM_WHEEL, FROM_REPOSITORY])
def test_colab_keeps_its_own_torch_and_widgets(text):
    installs = re.findall(r"%pip install (?:--quiet )?(.*?)(?:\\n|\n|$)", text, re.MULTILINE)
    assert len(installs) == 2 and installs[0].startswith("--no-deps ") and installs[1] == "math-verify"
    assert "--upgrade" not in text
