"""The device, its threads and its memory, and what is recorded about the machine."""

from __future__ import annotations

import json
import platform
import resource
from importlib.metadata import version

import pytest
import torch

from resnets.device import (
    MemoryBound,
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


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_batches_that_exceed_the_memory_are_computed_in_pieces(error: Exception) -> None:
    seen: list[int] = []

    def network(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(images) > 3:
            raise error
        return images.flatten(1) * 2

    images = torch.arange(22.0).reshape(11, 1, 2, 1)
    bound = MemoryBound(network)
    assert torch.equal(bound(images), images.flatten(1) * 2)
    assert seen == [11, 5, 2, 2, 2, 2, 2, 1]
    seen.clear()
    assert torch.equal(bound(images[:4]), images[:4].flatten(1) * 2)
    assert seen == [2, 2], "what was learned is kept"


def test_an_image_that_exceeds_the_memory_is_one_error() -> None:
    def network(images: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    with pytest.raises(UserError, match="out of memory with a single image of 5 x 4 pixels"):
        MemoryBound(network)(torch.zeros(8, 3, 4, 5))


def test_other_errors_of_a_network_stay() -> None:
    def network(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        MemoryBound(network)(torch.zeros(8, 3, 4, 5))
