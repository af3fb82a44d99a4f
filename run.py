"""Install the lab and start it.  Needs nothing but Python 3.11 or newer.

    python3 run.py lab      open the notebooks in JupyterLab
    python3 run.py demo     train the embedded model, in the terminal
    python3 run.py test     run the tests
    python3 run.py setup    install only

On Windows, type `py` for `python3`.  The first call installs everything into .venv beside this file, which
takes a few minutes and 3 GB; later calls start at once and need no network.  What follows a command is passed
on: `run.py lab --no-browser`, `run.py demo --help`, `run.py test -k loss`.  To start afresh, delete .venv.
"""

# Python 3.6 must be able to read this file, so that an old Python gets a message instead of a SyntaxError.

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
LOG = VENV / "install.log"
STAMP = VENV / "complete"  # holds the fingerprint of a finished installation
INSTALL_FORMAT = 1  # raise it when a change below makes installed environments out of date
EXTRAS = "lab,test"
GIGABYTES_NEEDED = 3
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# Each command is a module run by the environment's Python, in this folder.
COMMANDS = {
    "lab": ["jupyterlab", "notebooks/00_start_here.ipynb"],
    "demo": ["sppo_lab", "demo"],
    "test": ["pytest"],
    "setup": None,
}

# Why pip failed, judged by what it printed; the first pattern found wins.
REMEDIES = [
    (
        r"No space left on device|Errno 28",
        "The disk is full: free some space.  If only the folder for temporary files is small, "
        "set TMPDIR to a folder on a larger disk.",
    ),
    (
        r"Permission denied|Read-only file system",
        "A file could not be written: close programs that use .venv, or copy the checkout elsewhere.",
    ),
    (
        r"(?i)connection|timed out|ProxyError|SSLError|certificate",
        "The package index could not be reached: check the network (behind a proxy, set HTTPS_PROXY).",
    ),
    (
        r"No matching distribution",
        "A package has no build for Python {python} on {platform}: try another Python from 3.11 on; "
        "the lab also runs on Google Colab.",
    ),
]


class SetupError(Exception):
    """A failure that the user can mend; its text says how."""


def python_version() -> str:
    return "{}.{}".format(*sys.version_info[:2])


def check_python() -> None:
    if sys.version_info < (3, 11):
        raise SetupError(
            f"This is Python {python_version()}; the lab needs 3.11 or newer.\n"
            "Install one from https://www.python.org/downloads/ and call run.py with it, "
            "for example: python3.12 run.py lab"
        )


def fingerprint() -> str:
    """All that an installation depends on; the folder counts because an environment cannot be moved."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parts = [
        INSTALL_FORMAT,
        str(ROOT),
        python_version(),
        EXTRAS,
        [project.get("build-system"), project["project"], project.get("tool", {}).get("hatch")],
        (ROOT / "constraints.txt").read_text(encoding="utf-8"),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def is_installed() -> bool:
    return PYTHON.exists() and STAMP.is_file() and STAMP.read_text() == fingerprint()


def install() -> None:
    """Make .venv anew.  The stamp comes last, so that an interrupted installation never counts."""
    started = time.monotonic()
    print(f"Installing into {VENV}; this takes a few minutes.", flush=True)
    make_environment()
    pip("The lab and its packages", "--editable", f".[{EXTRAS}]", *install_cpu_torch())
    STAMP.write_text(fingerprint())
    print(f"Installed in {time.monotonic() - started:.0f} s.", flush=True)


def make_environment() -> None:
    """An empty virtual environment with pip."""
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise SetupError(
            "This Python cannot make virtual environments.\n"
            "On Debian or Ubuntu: sudo apt install python3-venv.  Then run the same command again."
        )
    try:
        VENV.mkdir(exist_ok=True)
        if STAMP.exists():
            STAMP.unlink()
        free = shutil.disk_usage(str(VENV)).free / 1e9
    except OSError as error:
        raise SetupError(
            f"Cannot write to {VENV}: {error.strerror}.\n"
            "Copy the checkout to a folder of your own and call run.py there."
        ) from error
    if free < GIGABYTES_NEEDED:
        raise SetupError(
            f"The disk of {ROOT} has {free:.1f} GB free; the lab needs {GIGABYTES_NEEDED} GB.\n"
            "Free some space and run the same command again."
        )
    # Called with the environment's own Python, run.py must not build upon what it is about to delete.
    base_python = getattr(sys, "_base_executable", None) or sys.executable
    made = subprocess.run(
        [base_python, "-m", "venv", "--clear", str(VENV)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if made.returncode:
        output = made.stdout.decode(errors="replace").strip()
        raise SetupError(
            f"Python could not make the virtual environment:\n{output}\n"
            f"Close programs that use {VENV}, delete that folder and run the same command again."
        )


def install_cpu_torch() -> list:
    """On Linux without an NVIDIA driver, install PyTorch's CPU build: the default one brings gigabytes of CUDA.

    Returns the requirement that keeps it, or none where the default build serves.
    """
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        return []
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    torch = re.search(r"^torch==[\d.]+", constraints, re.MULTILINE).group() + "+cpu"
    quick = ["--index-url", TORCH_CPU_INDEX, "--retries", "0", "--timeout", "10"]
    try:
        # Without its dependencies, because that index has few versions of them.
        pip("PyTorch, CPU build", "--no-deps", *quick, torch)
    except SetupError:
        print("  not found; PyTorch's default build may download CUDA, several GB", flush=True)
        return []
    return [torch]


def pip(title: str, *arguments: str) -> None:
    """``pip install``, its output in the log, with a sign of life in the terminal."""
    print(f"- {title}", flush=True)
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--constraint", "constraints.txt", *arguments]
    with LOG.open("ab") as log:
        start = log.tell()
        process = subprocess.Popen(command, cwd=str(ROOT), stdout=log, stderr=subprocess.STDOUT)
        try:
            status = wait(process)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if status:
        raise SetupError(explain_failure(LOG.read_bytes()[start:].decode(errors="replace")))


def wait(process: subprocess.Popen) -> int:
    """The exit status; until then the elapsed time: in place on a terminal, else a line now and then."""
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns - 1
    started = time.monotonic()
    while True:
        try:
            status = process.wait(timeout=1 if is_terminal else 20)
            break
        except subprocess.TimeoutExpired:
            line = f"  {time.monotonic() - started:4.0f} s  {latest_activity()}"[:width]
            print("\r" + line.ljust(width) if is_terminal else line, end="" if is_terminal else "\n", flush=True)
    if is_terminal:
        print("\r" + " " * width, end="\r", flush=True)
    return status


def latest_activity() -> str:
    """pip's last line of progress, such as ``Downloading torch-…``; how many packages while it unpacks them."""
    tail = LOG.read_bytes()[-20000:].decode("ascii", errors="ignore")
    steps = re.findall(r"^\s*((?:Collecting|Downloading|Building|Preparing|Installing) .*)", tail, re.MULTILINE)
    line = steps[-1].strip() if steps else ""
    _, unpacking, names = line.partition("Installing collected packages: ")
    if not unpacking:
        return line
    wanted = {same_name(name) for name in names.split(", ")}
    try:
        there = {same_name(path.name.split("-")[0]) for path in VENV.glob("**/site-packages/*.dist-info")}
    except OSError:  # pip removes and renames folders meanwhile
        return "Unpacking"
    return f"Unpacking: {len(wanted & there)} of {len(wanted)} packages"


def same_name(package: str) -> str:
    """A package's name in one spelling: ``typing_extensions`` and ``typing-extensions`` are the same."""
    return re.sub(r"[-_.]+", "-", package).lower()


def explain_failure(output: str) -> str:
    """What pip said, where the rest is, and what to do."""
    lines = [line for line in output.splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"\s*(ERROR|error)\b", line)] or lines
    remedy = next((text for pattern, text in REMEDIES if re.search(pattern, output)), "Read the log for the cause.")
    remedy = remedy.format(python=python_version(), platform=f"{platform.system()} {platform.machine()}")
    excerpt = "\n  ".join(said[-4:])
    return f"The installation failed:\n  {excerpt}\nThe full log is {LOG}\n{remedy}  Then run the same command again."


def hand_over(command: list) -> int:
    """Become the command: on POSIX its signals and exit status are then its own."""
    sys.stdout.flush()
    os.chdir(str(ROOT))
    if os.name == "posix":
        os.execv(command[0], command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command
    return subprocess.call(command)


def main(arguments: list) -> int:
    command, extra = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if command in ("help", "-h", "--help"):
        print(__doc__.strip())
        return 0
    if command not in COMMANDS:
        raise SetupError(
            f"There is no command '{command}'.  The commands are {', '.join(COMMANDS)}; "
            "`python3 run.py help` explains them."
        )
    check_python()
    if not is_installed():
        install()
    if COMMANDS[command] is None:
        activate = r".venv\Scripts\activate" if os.name == "nt" else "source .venv/bin/activate"
        print(f"Ready.  Next: python3 run.py lab, or for the command line: {activate}")
        return 0
    return hand_over([str(PYTHON), "-m", *COMMANDS[command], *extra])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\nStopped.  The next call begins the installation again.")
        sys.exit(130)
