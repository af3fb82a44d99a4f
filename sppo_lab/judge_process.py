"""A judge in a process of its own, because a response may hold a text that takes endless work to judge.

The parent holds a ``JudgeProcess``; it is started on first use, kept, and replaced when a question makes it hang or
crash.  The child runs ``serve``.  One JSON line ``[*question, seconds]`` goes in, ``1`` or ``0`` comes out.
"""

import atexit
import contextlib
import faulthandler
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from sppo_lab.errors import LabError
from sppo_lab.processes import child_environment

MEMORY_LIMIT = 2 * 1024**3  # bytes of address space; sympy alone takes about a tenth of it


class JudgeProcess:
    """The judging process: started when first asked, restarted when it has ended.

    ``module`` is what it runs, ``what`` it judges and ``remedy`` is said if it does not start.
    """

    def __init__(self, module: str, what: str, remedy: str) -> None:
        self.module, self.what, self.remedy = module, what, remedy
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()  # one question at a time, whichever thread asks
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.leave_to_parent)

    def ask(self, *question: str, timeout: float) -> bool:
        """The answer to the question.  False if the process did not live to give one within ``timeout`` seconds."""
        with self._lock:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._start()
                with contextlib.suppress(OSError):  # it has just died: the reply below is empty
                    print(json.dumps([*question, timeout]), file=self._process.stdin, flush=True)
                reply = self._process.stdout.readline()
            except BaseException:  # Ctrl-C: the reply still to come would be taken for the next one's
                self.close()
                raise
            if not reply:  # out of time, memory or stack; its pipes close a moment before poll() can tell
                self.close()
            return reply == "1\n"

    def _start(self) -> None:
        self.close()
        self._process = subprocess.Popen(
            # A module by name, so that the user's own script or notebook is not run again.
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            env=child_environment(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        greeting = self._process.stdout.readline().strip()
        if greeting != "ready":
            self.close()
            raise LabError(
                f"the judge of {self.what} did not start: {greeting or 'it ended without a word'}. {self.remedy}"
            )

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(OSError):  # a question that was never taken
                process.stdin.close()

    def leave_to_parent(self) -> None:
        """Forget the process after a fork: it answers the parent alone, and ends when its input closes."""
        process, self._process, self._lock = self._process, None, threading.Lock()
        if process is not None:
            process.stdin.close()


def serve(judge: Callable[..., bool], library: str) -> None:
    """In the child: answer questions from standard input until it closes, which it does when the parent ends.

    ``library`` is what ``judge`` needs; it is imported first, and the greeting says whether it is there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    replies, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not forge a reply
    logging.disable(logging.CRITICAL)
    limit_memory()
    try:
        importlib.import_module(library)
    except ImportError as error:
        print(error, file=replies, flush=True)
        return
    print("ready", file=replies, flush=True)
    with open(os.devnull, "w") as nowhere:
        for line in sys.stdin:
            *question, seconds = json.loads(line)
            # This watchdog is a C thread.  It ends the process whatever the interpreter is doing, even after
            # the parent has died.
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
            try:
                right = judge(*question)
            except Exception:  # a text that the library or the stack cannot take is no right answer
                right = False
            faulthandler.cancel_dump_traceback_later()
            print(int(right), file=replies, flush=True)


def limit_memory() -> None:
    """Refuse more than MEMORY_LIMIT to this process, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit, macOS may refuse
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
