"""The process in which reasoning-gym's scorers judge; the protocol is in ``judge_process.py``.

Some of them evaluate an answer as Python or as a formula, so an answer may hang or crash the process that scores it.
"""

import base64
import json
import pickle
from functools import lru_cache
from typing import Any

from sppo_lab.judge_process import serve

FULL_MARKS = 1.0 - 1e-6


@lru_cache(maxsize=8)
def scorer(name: str, settings: str) -> Any:
    """The scorer of a task with these settings (JSON)."""
    from reasoning_gym import create_dataset

    return create_dataset(name, **json.loads(settings)).score_answer


def judge(name: str, settings: str, entry: str, answer: str) -> bool:
    """Whether the scorer gives the answer full marks; ``entry`` is the problem, pickled by the parent."""
    return scorer(name, settings)(answer, pickle.loads(base64.b64decode(entry))) >= FULL_MARKS


if __name__ == "__main__":
    serve(judge, "reasoning_gym")
