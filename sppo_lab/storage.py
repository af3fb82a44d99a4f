"""Small files that appear complete or not at all, and rows that survive a kill in mid-write."""

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sppo_lab.errors import LabError

PARTIAL = ".partial"  # ending of a file that is still being written


def write_text(path: Path, text: str) -> None:
    """Write beside the target, put it on the disk, then rename: nobody ever sees half a file."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    os.replace(partial, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; LabError if it does not hold one."""
    return _object(path.read_text(encoding="utf-8"), str(path))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, _lines(rows))


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines(rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """One object per line; none where there is no file.  A last line without its end, left by a kill, is dropped.

    Raises LabError with the number of any other line that is not an object.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [_object(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def sync(path: Path) -> None:
    """Ask the system to put a file on the disk; an absent one is passed over."""
    if path.exists():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


@contextlib.contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Turn what a full disk or a read-only directory raises into a LabError with the remedy."""
    remedies = {
        errno.ENOSPC: "the disk is full: free some space, then go on with --resume",
        errno.EDQUOT: "your disk quota is used up: free some space, then go on with --resume",
        errno.EROFS: "the disk is read-only: choose another directory with --out",
        errno.EACCES: "you may not write there: choose another directory with --out",
        errno.EPERM: "you may not write there: choose another directory with --out",
        errno.ENOENT: "the directory cannot be made: choose another one with --out",
        errno.ENOTDIR: "a part of the path is a file: choose another directory with --out",
        errno.EEXIST: "there is a file of that name: choose another directory with --out",
    }
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if "No space left" in str(error):
            number = errno.ENOSPC
        if number not in remedies:
            raise
        raise LabError(f"cannot write to {folder}: {remedies[number]}.") from error


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LabError(f"{where} is damaged: the run cannot be read. Start again with --overwrite.")
    return found
