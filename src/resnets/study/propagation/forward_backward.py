"""Propagate a batch of inputs forward and gradients backward; no network is ever held in memory.

The forward pass keeps the streams at the ends of short segments; the backward pass makes each
segment's weights and activations again. One pass serves networks of all depths. ReLU networks
without norm are positively homogeneous, so after each segment streams and gradients are divided by
a power of two, which is exact; where ordinary float32 would overflow or underflow is recorded.

Shapes: D draws of weights, N inputs, R members of a stack; streams and gradients are D N R C (H W),
powers of two D R.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from resnets.study.propagation.init_variants import Stack
from resnets.study.propagation.manual_gradients import Matrices, Tape, backward, forward
from resnets.study.propagation.weight_sampling import Layer, draw

# Blocks between renormalisations, and powers of two that one grows by at most: float32 has 127.
SEGMENT, GROWTH = 20, 3
# Blocks whose weights are made at once: those of more do not stay in the cache.
PORTION = 2
# Powers of two at which float32 becomes infinite, and below which it becomes 0.
LARGEST, SMALLEST = 128, -149

# A network: its family, and its depth where the forward pass depends on it.
Key = tuple[str, int | None]


@dataclass(frozen=True)
class NetworkSet:
    """What is propagated: layer, families, draws of weights, depths, and the measured blocks."""

    layer: Layer
    stacks: tuple[Stack, ...]
    depths: tuple[int, ...]
    blocks: tuple[int, ...]
    seed: int
    draws: tuple[int, ...]

    @property
    def stops(self) -> list[int]:
        """Ends of segments: measured blocks, depths, and never more than SEGMENT apart."""
        deepest = max(self.depths)
        chosen = {*self.blocks, *self.depths, *range(0, deepest, SEGMENT), 0}
        return sorted(stop for stop in chosen if stop <= deepest)

    def weights(self, blocks: range) -> Iterator[Matrices]:
        """Yield the weights of blocks (from 1) under each law, each draw's from one Gaussian."""
        laws = sorted({member.family.weights for stack in self.stacks for member in stack.members})
        for first in range(blocks.start, blocks.stop, PORTION):
            some = range(first, min(first + PORTION, blocks.stop))
            gaussian = draw(self.layer.kernel, seed=self.seed, draws=self.draws, blocks=some)
            made = {law: self.layer.make(gaussian, law).unbind() for law in laws}
            yield from ({law: made[law][place] for law in made} for place in range(len(some)))


@dataclass(frozen=True)
class Station:
    """What has reached a block: for stack i it is `values[i]` times 2 ^ `exponents[i]`.

    Forward these are the streams of the members. Backward they are gradients dL/dx, and a member is
    one network: a family and a depth.
    """

    block: int
    stacks: tuple[Stack, ...]
    values: list[Tensor]  # D N R C (H W)
    exponents: list[Tensor]  # D R


@dataclass
class Range:
    """Where ordinary float32 is left: the first block, and how, of each draw of each network."""

    left: dict[tuple[int, str, int | None], tuple[int, str]] = field(default_factory=dict)

    def watch(self, keys: list[Key], exponents: Tensor, trail: list[Tensor], blocks: range) -> None:
        """Look through the values after each block of a segment."""
        reach = GROWTH * SEGMENT
        near = (exponents + reach >= LARGEST) | (exponents - reach < SMALLEST)
        if all((d, *keys[i]) in self.left for d, i in torch.nonzero(near).tolist()):
            return
        height = torch.log2(torch.stack([_peaks(values) for values in trail])) + exponents
        over, under = height >= LARGEST, height < SMALLEST
        for place, index in torch.nonzero((over | under).any(0)).tolist():
            step = int(torch.nonzero((over | under)[:, place, index])[0])
            how = "overflow" if over[step, place, index] else "underflow"
            self.left.setdefault((place, *keys[index]), (blocks[step], how))


def forward_stations(networks: NetworkSet, inputs: Tensor, *, left: Range) -> Iterator[Station]:
    """Yield the streams at every stop, from the inputs D N C (H W) on."""
    members = [len(stack.members) for stack in networks.stacks]
    streams = [_repeated(inputs, count) for count in members]
    exponents = [torch.zeros(len(inputs), count) for count in members]
    station = Station(0, networks.stacks, streams, exponents)
    yield station
    for stop in networks.stops[1:]:
        station, _ = _advance(networks, station, stop, left=left)
        yield station


def backward_stations(
    networks: NetworkSet, stations: Sequence[Station], readout: Tensor, *, left: Range
) -> Iterator[Station]:
    """Yield the gradients at every stop; at a network's end they are `readout`, D N C (H W)."""
    stacks = tuple(Stack(stack.norm, ()) for stack in networks.stacks)
    gradients = [_repeated(readout, 0) for _ in stacks]
    exponents = [torch.zeros(len(readout), 0) for _ in stacks]
    for start, end in zip(stations[-2::-1], stations[:0:-1], strict=True):
        if end.block in networks.depths:
            new = [stack.ending(end.block) for stack in end.stacks]
            stacks = tuple(Stack(s.norm, s.members + m) for s, m in zip(stacks, new, strict=True))
            ends = [_repeated(readout, len(members)) for members in new]
            gradients = [torch.cat(both, dim=2) for both in zip(gradients, ends, strict=True)]
            exponents = [F.pad(e, (0, len(m))) for e, m in zip(exponents, new, strict=True)]
        _, recorded = _advance(networks, start, end.block, left=Range())
        pairs = zip(stacks, end.stacks, strict=True)
        places = [[passed.place(member) for member in s.members] for s, passed in pairs]
        trail = [gradients]
        for weights, tapes in reversed(recorded):
            own = [_of(tape, rows) for tape, rows in zip(tapes, places, strict=True)]
            trail.append(backward(stacks, trail[-1], own, weights, networks.layer))
        blocks = range(end.block - 1, start.block - 1, -1)
        station = _settled(stacks, exponents, trail[1:], blocks, left=left, free=range(len(stacks)))
        yield station
        gradients, exponents = station.values, station.exponents


def _advance(
    networks: NetworkSet, station: Station, last: int, *, left: Range
) -> tuple[Station, list[tuple[Matrices, list[Tape]]]]:
    """Go through one segment: the station at its end, and each block's weights and tapes."""
    stacks = tuple(stack.reaching(station.block + 1) for stack in station.stacks)
    streams = [x[:, :, : len(s.members)] for x, s in zip(station.values, stacks, strict=True)]
    exponents = [e[:, : len(s.members)] for e, s in zip(station.exponents, stacks, strict=True)]
    blocks = range(station.block + 1, last + 1)
    recorded, trail = [], []
    for weights in networks.weights(blocks):
        streams, tapes = forward(stacks, streams, weights, networks.layer)
        recorded.append((weights, tapes))
        trail.append(streams)
    # With batch norm the streams grow like the root of the depth at most, and must not be scaled.
    free = [i for i, stack in enumerate(stacks) if stack.norm == "none"]
    return _settled(stacks, exponents, trail, blocks, left=left, free=free), recorded


def _settled(
    stacks: tuple[Stack, ...],
    exponents: list[Tensor],
    trail: list[list[Tensor]],
    blocks: range,
    *,
    left: Range,
    free: Sequence[int],
) -> Station:
    """Watch the values after each block of a segment, and renormalise the last of `free` stacks."""
    values, exponents = list(trail[-1]), list(exponents)
    for i in free:
        keys = [(member.family.name, member.depth) for member in stacks[i].members]
        left.watch(keys, exponents[i], [passed[i] for passed in trail], blocks)
        # Divide by the power of two next to the largest entry; a member that is 0 stays 0.
        powers = torch.frexp(_peaks(values[i])).exponent
        factors = torch.exp2(-powers.float())[:, None]
        values[i] = values[i] * factors.view(factors.shape + (1,) * (values[i].ndim - 3))
        exponents[i] = exponents[i] + powers
    return Station(blocks[-1], stacks, values, exponents)


def _repeated(values: Tensor, count: int) -> Tensor:
    """Repeat the same values for some members: D N C (H W) -> D N R C (H W)."""
    return values[:, :, None].expand(-1, -1, count, *values.shape[2:])


def _of(tape: Tape, rows: list[int]) -> Tape:
    """Select the members that gradients belong to; mostly each member has one, in order."""
    if rows == list(range(tape.positive.shape[2])):
        return tape
    return Tape(*(values[:, :, rows] for values in (tape.normal, tape.scale, tape.positive)))


def _peaks(values: Tensor) -> Tensor:
    """The largest entry of each draw of each member: D N R C (H W) -> D R."""
    return values.abs().amax((1, *range(3, values.ndim)))
