"""run.py, with stand-ins for pip and venv: nothing is downloaded, and an environment is made in no time."""

import ast
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "run.py"

PYPROJECT = """
[project]
name = "sppo-lab"
version = "0.1.0"
"""

# It shows its arguments, then does what the variable FAKE_PIP asks for.
FAKE_PIP = """
import os, sys, time
print("pip", *sys.argv[1:], flush=True)
wish = os.environ["FAKE_PIP"]
if wish == "hang":
    time.sleep(600)
if wish.startswith("ERROR") or (wish == "no CPU index" and "--index-url" in sys.argv):
    sys.exit(wish)
"""

# An environment needs no real pip here, and putting one in takes seconds.
FAKE_VENV = """
import subprocess, sys
sys.exit(subprocess.call([sys.executable, "-I", "-m", "venv", "--without-pip", *sys.argv[1:]]))
"""

# The lab's command line: it shows its arguments and ends with status 7.
FAKE_LAB = """
import sys
print("lab", *sys.argv[1:])
sys.exit(7)
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout that holds only what run.py needs."""
    folder = tmp_path / "check out"
    contents = {
        "pyproject.toml": PYPROJECT,
        "constraints.txt": "torch==2.13.0\n",
        "sppo_lab/__main__.py": FAKE_LAB,
        # Packages in full, by their __init__.py, go before the real ones.
        "../fake/pip/__init__.py": "",
        "../fake/pip/__main__.py": FAKE_PIP,
        "../fake/venv/__init__.py": "",
        "../fake/venv/__main__.py": FAKE_VENV,
    }
    for name, text in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copy(RUN, folder)
    return folder


@pytest.fixture
def run(checkout):
    """The checkout's run.py as a module."""
    spec = importlib.util.spec_from_file_location("run", checkout / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(checkout, *arguments, pip="", path=""):
    """run.py in its own process group, so that a Ctrl-C can be sent to it alone."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout.parent / "fake"),
        "FAKE_PIP": pip,
        "PATH": str(path),
    }
    return subprocess.Popen(
        [sys.executable, str(checkout / "run.py"), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def call(checkout, *arguments, **options):
    """Exit status and output of run.py."""
    process = start(checkout, *arguments, **options)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def installs(checkout, **options):
    """Whether ``run.py setup`` succeeds, and whether it had to install."""
    status, output = call(checkout, "setup", **options)
    assert status == 0, output
    return "Installing" in output


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_old_python_can_read_the_file():
    ast.parse(RUN.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_an_old_python_is_told_which_one_to_get(run, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 8, 10, "final", 0))
    with pytest.raises(run.SetupError, match=r"3\.8.*needs 3\.11"):
        run.main(["lab"])


def test_a_missing_venv_module_names_the_debian_package(run, monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(run.SetupError, match="sudo apt install python3-venv"):
        run.main(["lab"])


def test_a_full_disk_is_noticed_before_the_download(run, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**10, 10**10, 10**8)
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(run.SetupError, match=r"0\.1 GB free"):
        run.main(["lab"])


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"]])
def test_help_lists_the_commands_and_installs_nothing(checkout, arguments):
    status, output = call(checkout, *arguments)
    assert status == 0
    for command in ("lab", "demo", "test", "setup"):
        assert f"run.py {command}" in output
    assert not (checkout / ".venv").exists()


def test_an_unknown_command_is_answered_with_the_known_ones(checkout):
    status, output = call(checkout, "labs")
    assert status == 1
    assert "'labs'" in output
    assert "lab, demo, test, setup" in output
    assert not (checkout / ".venv").exists()


def test_an_installation_is_kept_until_something_it_depends_on_changes(checkout):
    assert installs(checkout)
    assert not installs(checkout)

    replace(checkout / "pyproject.toml", 'version = "0.1.0"', 'version = "0.1.0"\n[tool.ruff]\nline-length = 1')
    assert not installs(checkout), "a linter's setting is no reason to install again"
    replace(checkout / "pyproject.toml", '"0.1.0"', '"0.2.0"')
    assert installs(checkout)
    replace(checkout / "constraints.txt", "2.13.0", "2.13.1")
    assert installs(checkout)

    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert installs(moved), "an environment does not survive a move"


def test_a_command_gets_its_arguments_and_gives_its_exit_status(checkout):
    status, output = call(checkout, "demo", "--steps", "3", "--help")
    assert status == 7
    assert "lab demo --steps 3 --help" in output


def test_a_failed_installation_explains_itself_and_does_not_count(checkout):
    error = "ERROR: Could not install packages due to an OSError: connection refused"
    status, output = call(checkout, "demo", pip=error)
    assert status == 1
    assert "Traceback" not in output
    assert error in output
    assert "check the network" in output
    assert error in (checkout / ".venv" / "install.log").read_text()
    assert installs(checkout)


def test_an_environment_without_its_python_is_made_anew(checkout):
    assert installs(checkout)
    for name in ("bin", "Scripts"):
        shutil.rmtree(checkout / ".venv" / name, ignore_errors=True)
    assert installs(checkout)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent the POSIX way")
def test_an_interrupted_installation_does_not_count(checkout):
    process = start(checkout, "setup", pip="hang")
    log, deadline = checkout / ".venv" / "install.log", time.monotonic() + 60
    while not (log.exists() and "pip install" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while process.poll() is None:  # an interruption may be lost, in a destructor or between two instructions
        assert time.monotonic() < deadline + 60
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped." in output
    assert "Traceback" not in output
    assert installs(checkout)


def test_a_place_that_cannot_be_written_is_named(checkout):
    (checkout / ".venv").write_text("a file where the folder should be")
    status, output = call(checkout, "setup")
    assert status == 1
    assert f"Cannot write to {checkout / '.venv'}" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("OSError: [Errno 30] Read-only file system: '/x'", "could not be written"),
        ("WARNING: Retrying after connection broken\nERROR: No matching distribution found for torch", "network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "has no build for Python 3."),
        ("something nobody has seen before", "Read the log"),
    ],
)
def test_each_failure_of_pip_has_a_remedy(run, said, remedy):
    explanation = run.explain_failure(f"Collecting torch\n{said}\n")
    assert said.splitlines()[-1] in explanation
    assert remedy in explanation
    assert "install.log" in explanation


def test_unpacking_counts_the_packages_that_are_there(run, monkeypatch):
    packages = run.VENV / "lib" / "python3.11" / "site-packages"
    for name in ("typing_extensions-4.1.dist-info", "torch-2.13.0.dist-info", "pip-25.dist-info"):
        (packages / name).mkdir(parents=True)
    run.LOG.write_text("Collecting torch\n  Downloading torch-2.13.0.whl (1 MB)\n")
    assert run.latest_activity() == "Downloading torch-2.13.0.whl (1 MB)"
    with run.LOG.open("a") as log:
        log.write("Installing collected packages: typing-extensions, torch, ruamel.yaml\n")
    assert run.latest_activity() == "Unpacking: 2 of 3 packages"

    def vanished(path, pattern):
        raise FileNotFoundError(path)

    monkeypatch.setattr(run.Path, "glob", vanished)  # pip renames folders while they are counted
    assert run.latest_activity() == "Unpacking"


def install_log(checkout, **options):
    assert installs(checkout, **options)
    return (checkout / ".venv" / "install.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the default build of PyTorch is small")
class TestPyTorchOnLinux:
    def test_without_a_driver_the_cpu_build_comes_first_and_stays(self, checkout):
        first, second = install_log(checkout).splitlines()
        assert "--index-url https://download.pytorch.org/whl/cpu" in first
        assert first.endswith(" torch==2.13.0+cpu")
        assert "--index-url" not in second
        assert second.endswith(" --editable .[lab,test] torch==2.13.0+cpu")

    def test_with_a_driver_the_default_build_is_taken(self, checkout, tmp_path):
        driver = tmp_path / "bin" / "nvidia-smi"
        driver.parent.mkdir()
        driver.touch(mode=0o755)
        (only,) = install_log(checkout, path=driver.parent).splitlines()
        assert only.endswith(" --editable .[lab,test]")

    def test_when_the_cpu_index_fails_the_default_index_serves(self, checkout):
        last = install_log(checkout, pip="no CPU index").splitlines()[-1]
        assert last.endswith(" --editable .[lab,test]")
