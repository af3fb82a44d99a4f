"""The declared requirements agree with each other, and the wheel works on its own."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

# What a Google Colab notebook finds installed (August 2026).
COLAB_PYTHON = "3.13"
COLAB = {
    "torch": "2.11.0",
    "transformers": "5.15.0",
    "peft": "0.20.0",
    "datasets": "4.0.0",
    "numpy": "2.1.0",
    "matplotlib": "3.10.0",
    "ipywidgets": "7.7.1",
    "ipykernel": "6.17.1",
}


def ranges(lines):
    """``{"torch": SpecifierSet(">=2.6")}`` from requirement lines."""
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in requirements}


def environment():
    """python's version and pip's lines in environment.yml."""
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (python,) = [entry for entry in listed if isinstance(entry, str) and entry.startswith("python=")]
    (pip,) = [entry["pip"] for entry in listed if isinstance(entry, dict)]
    return python.partition("=")[2], pip


def constraints():
    """``{"torch": "2.13.0"}`` from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line.partition("#")[0].strip()) for line in lines]
    assert all(pin or line.startswith("#") for pin, line in zip(pins, lines, strict=True))
    return {canonicalize_name(pin[1]): pin[2] for pin in pins if pin}


def test_conda_installs_what_pyproject_asks_for():
    python, pip = environment()
    packages = [line for line in pip if not line.startswith("-")]
    assert ranges(packages) == ranges(PROJECT["dependencies"] + EXTRAS["lab"])
    assert "-e ." in pip
    assert python in SpecifierSet(PROJECT["requires-python"])


def test_every_direct_dependency_is_pinned_within_its_range():
    pins = constraints()
    for lines in [PROJECT["dependencies"], *EXTRAS.values()]:
        for name, allowed in ranges(lines).items():
            assert name in pins
            assert pins[name] in allowed, f"{name}=={pins[name]} against {allowed}"


def test_colab_needs_no_other_version_of_what_it_has():
    allowed = ranges(PROJECT["dependencies"] + EXTRAS["lab"])
    for name, version in COLAB.items():
        assert version in allowed[name], f"{name} {version} against {allowed[name]}"
    assert COLAB_PYTHON in SpecifierSet(PROJECT["requires-python"])


def test_colab_lacks_only_what_the_set_up_cell_installs():
    listed_elsewhere = {
        "scipy",
        "pandas",
        "tqdm",
        "safetensors",
        "psutil",
        "accelerate",
    }  # on Colab too, in versions that no range excludes
    assert set(ranges(PROJECT["dependencies"])) - set(COLAB) - listed_elsewhere == {"math-verify"}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist and the wheel built from it, without the network."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(build, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def files_under(folder, prefix):
    """``{name in the wheel: content}`` for the files of a folder of the checkout."""
    paths = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {f"{prefix}/{path.relative_to(ROOT / folder).as_posix()}": path.read_bytes() for path in paths}


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(distributions):
    expected = files_under("sppo_lab", "sppo_lab")
    for name in ("chain_sum", "models", "studies"):
        embedded = files_under(f"data/{name}", f"sppo_lab/data/{name}")
        assert embedded, f"data/{name} is empty"
        expected |= embedded
    with zipfile.ZipFile(distributions[1]) as wheel:
        found = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    assert sorted(found) == sorted(expected)
    assert found == expected


def test_the_sdist_leaves_out_what_only_the_checkout_needs(distributions):
    with tarfile.open(distributions[0]) as sdist:
        top = {Path(name).parts[1] for name in sdist.getnames()}
    assert {"sppo_lab", "data", "pyproject.toml", "README.md", "LICENSE"} <= top
    assert not top & {"tests", "notebooks", "docs"}


@pytest.mark.slow
def test_the_installed_wheel_trains_without_the_checkout(distributions, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    # PYTHONPATH comes before the test environment's packages, so it hides an editable installation.
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}

    def python(*arguments):
        result = subprocess.run([sys.executable, *arguments], cwd=work, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.splitlines()[-1]

    python("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(distributions[1]))
    assert Path(python("-c", "import sppo_lab; print(sppo_lab.__file__)")).is_relative_to(site)
    short = ["--steps", "2", "--eval-samples", "1", "--eval-prompts", "16"]
    outcome = json.loads(python("-m", "sppo_lab", "demo", *short, "--out", "demo", "--json"))
    assert 0 <= outcome["accuracy_before"] <= 1
    assert 0 <= outcome["accuracy_after"] <= 1
    assert any((work / "demo").iterdir())
