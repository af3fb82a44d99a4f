"""Going on when the memory does not suffice: the same work, fewer responses at a time."""

import warnings
from collections.abc import Callable
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from sppo_lab.errors import LabError

Result = TypeVar("Result")


def within_memory(size: int, attempt: Callable[[int], Result], setting: str) -> tuple[Result, int]:
    """``attempt(size)``, and again with half the size for as long as the memory does not suffice.

    Returns what it gives, and the size that went through.  An attempt must start its work anew.  ``setting`` is the
    field of Config that bounds the size, for the warning.  Raises LabError where one at a time is too much.
    """
    while True:
        try:
            return attempt(size), size
        except Exception as error:
            if not should_reduce_batch_size(error):
                raise
            if size == 1:
                raise LabError(
                    "out of memory with one response at a time: lower max_new_tokens, set gradient_checkpointing, let "
                    "the critic share the policy's base (critic = adapter), or take a smaller model."
                ) from error
        clear_device_cache(garbage_collection=True)  # outside of the handler, which keeps the failed tensors alive
        warnings.warn(f"out of memory: going on with {setting} = {size // 2} instead of {size}.", stacklevel=2)
        size //= 2
