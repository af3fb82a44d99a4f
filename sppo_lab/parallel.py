"""One run on several processes: each samples, judges and differentiates its share of a batch, and all hold the sum.

``accelerate launch -m sppo_lab train ...`` starts the processes.  Every one of them holds the whole model, draws the
same random numbers and takes the same steps; what differs is which rows it works on.  In a process that is alone every
function here returns what it was given.
"""

import functools
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import torch
import torch.distributed
from accelerate import PartialState
from torch import Tensor

from sppo_lab.processes import launched
from sppo_lab.tasks.base import RewardFunction

Item = TypeVar("Item")
Given = ParamSpec("Given")


@functools.cache
def place() -> tuple[int, int]:
    """This process's number, from 0, and how many there are; joins the others when it is first asked."""
    if launched()[1] == 1:
        return 0, 1
    state = PartialState(cpu=not torch.cuda.is_available())
    return state.process_index, state.num_processes


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return place()[0] == 0


def main_only(function: Callable[Given, None]) -> Callable[Given, None]:
    """The function does its work in the main process, and nothing in the others."""

    @functools.wraps(function)
    def guarded(*args: Given.args, **options: Given.kwargs) -> None:
        if is_main():
            function(*args, **options)

    return guarded


def local_device(kind: str) -> torch.device:
    """The device of this process: the GPU of its number on this machine, where ``kind`` is cuda."""
    return torch.device(kind) if place()[1] == 1 or kind != "cuda" else PartialState().device


def share(count: int) -> range:
    """Which of ``count`` rows are this process's."""
    index, size = place()
    return range(index * count // size, (index + 1) * count // size)


def gather(items: list[Item]) -> list[Item]:
    """The items of all processes, in the order of their shares."""
    size = place()[1]
    if size == 1:
        return items
    found: list[list[Item]] = [[] for _ in range(size)]
    torch.distributed.all_gather_object(found, items)
    return [item for part in found for item in part]


def add_up(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if place()[1] > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def add_up_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Each gradient becomes the sum over all processes; one that had no rows adds nothing."""
    if place()[1] > 1:
        for weight in parameters:
            weight.grad = add_up(torch.zeros_like(weight) if weight.grad is None else weight.grad)


def add_up_numbers(numbers: dict[str, float]) -> dict[str, float]:
    """The sum of each over all processes; a process without rows may have none."""
    summed: dict[str, float] = {}
    for part in gather([numbers]):
        for name, number in part.items():
            summed[name] = summed.get(name, 0.0) + number
    return summed


def judge(rewards: RewardFunction, responses: list[str], answers: list[str]) -> list[float]:
    """The reward of each response; every process judges its share, so that all hold the same verdicts."""
    mine = share(len(responses))
    return gather(rewards([responses[i] for i in mine], [answers[i] for i in mine]))


def anywhere(flag: bool) -> bool:
    """Whether the flag is up in any process."""
    return any(gather([flag]))


def wait() -> None:
    """Go on once every process has come here."""
    gather([None])
