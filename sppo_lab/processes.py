"""Processes: the lab's own child processes, an interruption that waits for the end of a step, memory in use."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def child_environment() -> dict[str, str]:
    """The environment in which another Python finds this very package, and whatever this one can import."""
    package = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([package, *map(str, filter(None, sys.path))])}


@contextlib.contextmanager
def finishing() -> Iterator[list[int]]:
    """Hold Ctrl-C back until the block has ended; the list yielded is then not empty.  A second one goes through.

    Only the main thread receives signals; elsewhere this does nothing.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, before)
        print("\nStopping after this step; press Ctrl-C again to stop at once.", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)


def peak_memory_mb() -> float:
    """Largest memory in use so far, in MiB: of the GPU where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
