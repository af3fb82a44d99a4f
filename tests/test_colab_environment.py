"""The dashboards on the versions that Colab has: ipywidgets of the major before, and the IPython that goes with it.

The packages are put in front of this environment's own, so that nothing but them is installed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSIONS = {
    "ipywidgets": "7.7.1",
    "ipython": "7.34.0",
    "ipykernel": "6.17.1",
    "jupyter_client": "7.4.9",
    "pyzmq": "26.2.1",
    "tornado": "6.5.7",
    "matplotlib": "3.10.0",
}
# What these need and their successors no longer do.
OLD_NEEDS = ["backcall", "decorator", "entrypoints", "ipython-genutils", "nest-asyncio", "pickleshare", "setuptools"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("colab")]  # installed once


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Environment variables under which this Python imports Colab's versions."""
    folder = tmp_path_factory.mktemp("colab")
    wanted = [f"{name}=={version}" for name, version in VERSIONS.items()] + OLD_NEEDS
    options = ["--no-deps", "--target", str(folder), "--retries", "1", "--timeout", "20", "--quiet"]
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options, *wanted]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if "from versions: none" in installed.stderr:
        pytest.skip("the package registry cannot be reached")
    assert installed.returncode == 0, installed.stderr
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def in_colab(environment: dict[str, str], *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace"
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    return result.stdout


def test_these_are_the_versions(environment):
    code = "from importlib.metadata import version; import IPython, ipywidgets, sys; print(*map(version, sys.argv[1:]))"
    assert in_colab(environment, "-c", code, *VERSIONS).split() == list(VERSIONS.values())


def test_the_widgets_work(environment):
    chosen = ["tests/widgets", "--ignore=tests/widgets/test_redraws.py"]
    assert "passed" in in_colab(environment, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *chosen)


@pytest.mark.parametrize("number", ["04", "05", "06"])
def test_a_notebook_with_dashboards_runs(environment, number):
    chosen = ["-k", f"test_it_runs and {number}_", "tests/notebooks"]
    said = in_colab(environment, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *chosen)
    assert "1 passed" in said
