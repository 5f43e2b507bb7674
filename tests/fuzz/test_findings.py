"""Findings of the fuzzer stay mended, and random changes of good files raise only UserError."""

import random
import time
from pathlib import Path

import pytest
from fuzz_targets import FINDINGS, TARGETS

MUTATIONS = 150
SECONDS = 2.0


@pytest.mark.parametrize("path", sorted(FINDINGS.glob("*")), ids=lambda path: path.name)
def test_a_finding_is_one_line(path: Path) -> None:
    name = next(name for name in TARGETS if path.name.startswith(f"{name}-"))
    begin = time.process_time()
    TARGETS[name](path.read_bytes())
    assert time.process_time() - begin < SECONDS


@pytest.mark.parametrize("name", TARGETS)
def test_random_changes_raise_nothing_else(name: str) -> None:
    target, draws = TARGETS[name], random.Random(0)
    seeds = target.seeds()
    accepted = [target(mutated(draws.choice(seeds), draws)) for _ in range(MUTATIONS)]
    assert all(map(target, seeds)) and not all(accepted)


def mutated(content: bytes, draws: random.Random) -> bytes:
    """Return the content with some bytes changed, removed, or doubled."""
    changed = bytearray(content)
    for _ in range(draws.randint(1, 4)):
        place = draws.randrange(len(changed) + 1)
        match draws.randrange(4):
            case 0:
                changed[place : place + 1] = draws.randbytes(1)
            case 1:
                del changed[place : place + draws.randint(1, 20)]
            case 2:
                changed[place:place] = changed[place : place + draws.randint(1, 20)]
            case _:
                numbers = (b"0", b"-1", b"9" * 25, b"1e400", b"null", b"[]", b"{}", b'"', b"NaN")
                changed[place : place + draws.randint(0, 4)] = draws.choice(numbers)
    return bytes(changed)
