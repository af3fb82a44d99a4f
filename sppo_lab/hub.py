"""The Hugging Face hub: asked once whether it answers, before its libraries ask it again and again."""

import contextlib
from collections.abc import Iterator
from typing import Literal
from unittest.mock import patch

from sppo_lab.errors import LabError

TIMEOUT = 10.0  # seconds for the hub's answer
LOCAL = {
    "model": "give the directory of a model that was fetched elsewhere (hf download NAME --local-dir DIR)",
    "dataset": "give the problems as a local file (train --data FILE, evaluate --benchmarks NAME=FILE; .jsonl, .json, "
    ".csv or .parquet)",
}


@contextlib.contextmanager
def hub_access(name: str, kind: Literal["model", "dataset"]) -> Iterator[None]:
    """Within the block the hub's libraries work offline, from their cache, if the hub does not answer now.

    Left to themselves they try half a minute for every file.  Raises LabError if the hub has no such repository, if
    it is gated, or if the hub does not answer and the cache does not hold it.
    """
    from huggingface_hub.errors import GatedRepoError

    if is_reachable(name, kind):
        try:
            yield
        except Exception as error:
            if any(isinstance(cause, GatedRepoError) for cause in _causes(error)):
                raise LabError(_gated(name, kind)) from error
            raise
        return
    import datasets
    import huggingface_hub

    with (
        patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        patch.object(datasets.config, "HF_HUB_OFFLINE", True),
    ):
        try:
            yield
        except Exception as error:
            raise LabError(
                f"the Hugging Face hub does not answer, and its cache here does not hold the {kind} {name!r}. Check "
                f"the connection, or {LOCAL[kind]}."
            ) from error


def is_reachable(name: str, kind: Literal["model", "dataset"]) -> bool:
    """Whether the hub answers and has the repository; LabError if it answers that you may not read one of that name."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT)
    except GatedRepoError as error:
        raise LabError(_gated(name, kind)) from error
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise LabError(
            f"the hub has no {kind} {name!r} that you may read; a private one needs: hf auth login"
        ) from error
    except Exception:  # no network, a proxy, offline mode: each library below has classes of its own
        return False
    return True


def _gated(name: str, kind: str) -> str:
    address = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    return (
        f"the {kind} {name!r} is gated: accept its terms at {address} with your account, then log in here with: "
        "hf auth login"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
