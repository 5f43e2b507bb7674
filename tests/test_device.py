"""The device, its threads and its memory, and what is recorded about the machine."""

from __future__ import annotations

import json
import platform
import resource
from importlib.metadata import version

import pytest
import torch

from resnets.device import (
    choose_device,
    describe_environment,
    keep_freed_memory,
    restore_num_threads,
)
from resnets.errors import UserError
from some_ranks import loaded_server
from tiny_runs import CPU


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(UserError, match=r"unknown --device 'cdua'; did you mean 'cuda'\?"):
        choose_device("cdua")
    with pytest.raises(UserError, match="--device cpu:x"):
        choose_device("cpu:x")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="not available on this machine"):
            choose_device("cuda")


def test_a_run_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    with restore_num_threads():
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before


def page_faults() -> int:
    """How many pages are mapped for twenty tensors that are all freed again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.empty(6 << 20, dtype=torch.uint8).fill_(1) for _ in range(20)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def faults_before_and_after() -> tuple[int, int]:
    page_faults()
    before = page_faults()
    keep_freed_memory()
    page_faults()
    return before, page_faults()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")
def test_memory_that_is_freed_is_used_again() -> None:
    """In a process of its own: what another held before decides what is free."""
    with loaded_server().Pool(1) as pool:
        before, after = pool.apply(faults_before_and_after)
    each = (6 << 20) // resource.getpagesize()
    assert before > 10 * each, "without it most of the twenty are mapped again"
    assert after < 2 * each, "at most one of the twenty is mapped again"


def test_environment() -> None:
    found = describe_environment(CPU)
    assert found["versions"]["torch"] == version("torch")
    assert found["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found
