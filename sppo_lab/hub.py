"""The Hugging Face hub: asked once whether it answers, before its libraries ask it again and again."""

import contextlib
from collections.abc import Iterator
from typing import Literal
from unittest.mock import patch

from sppo_lab.errors import LabError

TIMEOUT = 10.0  # seconds for the hub's answer


@contextlib.contextmanager
def hub_access(name: str, kind: Literal["model", "dataset"]) -> Iterator[None]:
    """Within the block the hub's libraries work offline, from their cache, if the hub does not answer now.

    Left to themselves they try half a minute for every file.  Raises LabError if the hub has no such repository.
    """
    if is_reachable(name, kind):
        yield
        return
    import datasets
    import huggingface_hub

    with (
        patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        patch.object(datasets.config, "HF_HUB_OFFLINE", True),
    ):
        yield


def is_reachable(name: str, kind: Literal["model", "dataset"]) -> bool:
    """Whether the hub answers and has the repository; LabError if it answers that it has none of that name."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT)
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise LabError(
            f"the hub has no {kind} {name!r} that you may read; a private one needs: hf auth login"
        ) from error
    except Exception:  # no network, a proxy, offline mode: each library below has classes of its own
        return False
    return True
