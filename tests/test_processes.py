"""What a process of one's own reports, and what it does not inherit."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from sppo_lab.processes import in_own_process, peak_memory_mb


def peak_after(megabytes: int) -> float:
    """Peak memory, in MiB, after as much was written."""
    torch.ones(megabytes * 2**18)
    return peak_memory_mb()


@pytest.mark.skipif(torch.cuda.is_available() or not Path("/proc").exists(), reason="the memory of a Linux process")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it():
    held = torch.ones(2**28)  # 1 GiB
    small, large = (in_own_process(peak_after, megabytes) for megabytes in (1, 400))
    assert 100 < small < held.nbytes / 2**20
    assert 350 < large - small < 450
    assert peak_memory_mb() > held.nbytes / 2**20


def kind_of_process(_: None) -> str:
    return type(multiprocessing.current_process()).__name__


@pytest.mark.parametrize(("gpu", "expected"), [(False, "ForkServerProcess"), (True, "SpawnProcess")])
def test_where_there_is_a_gpu_no_process_is_forked(monkeypatch, gpu, expected):
    """A fork server that imports bitsandbytes has touched the GPU, and its forks cannot use it any more."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert in_own_process(kind_of_process, None, preload=["sppo_lab.errors"]) == expected
