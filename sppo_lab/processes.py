"""What the lab's own child processes need to know."""

import os
import sys
from pathlib import Path


def child_environment() -> dict[str, str]:
    """The environment in which another Python finds this very package, and whatever this one can import."""
    package = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([package, *map(str, filter(None, sys.path))])}
