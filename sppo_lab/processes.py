"""Processes: the lab's own child processes, an interruption that waits for the end of a step, memory in use."""

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

Given, Result = TypeVar("Given"), TypeVar("Result")


def child_environment() -> dict[str, str]:
    """The environment in which another Python finds this very package, and whatever this one can import."""
    package = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([package, *map(str, filter(None, sys.path))])}


def launched() -> tuple[int, int]:
    """This process's number, from 0, and how many there are, as ``accelerate launch`` says; without it (0, 1)."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


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


def in_own_process(function: Callable[[Given], Result], given: Given, preload: Sequence[str] = ()) -> Result:
    """``function(given)`` in a process of its own, so that its peak memory is that of nothing else.

    ``preload`` are modules that a fork server imports once and for all.  Windows has none, and a forked process cannot
    use a GPU that its server has touched, as bitsandbytes does when it is imported.
    """
    from concurrent.futures import ProcessPoolExecutor  # not needed by whoever only judges or asks for help
    from multiprocessing import get_all_start_methods, get_context

    import torch

    forks = preload and "forkserver" in get_all_start_methods() and not torch.cuda.is_available()
    context = get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(list(preload))
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(function, given).result()


def peak_memory_mb() -> float:
    """Largest memory in use so far, in MiB: of the GPU where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")  # of Linux, whose getrusage counts the memory of the program that started this
    if status.exists() and (peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(peak[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
