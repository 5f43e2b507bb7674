"""Propagate a batch of inputs forward and gradients backward; no network is ever held in memory.

The forward pass keeps the streams at the ends of short segments; the backward pass makes each
segment's weights and activations again. One pass serves networks of all depths. ReLU networks
without norm are positively homogeneous, so after each segment streams and gradients are divided by
a power of two, which is exact; where ordinary float32 would overflow or underflow is recorded.

Shapes: D draws of weights, N inputs, R members of a stack, G gradients of a stack; streams are
D N R C (H W), gradients D N G C (H W), powers of two D R and D G.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from resnets.study.propagation.init_variants import Member, Stack
from resnets.study.propagation.manual_gradients import Matrices, Tape, backward, forward, group
from resnets.study.propagation.weight_sampling import Layer, draw

# Blocks between renormalisations, and powers of two that one grows by at most: float32 has 127.
SEGMENT, GROWTH = 20, 3
# Blocks whose weights are made at once: those of more do not stay in the cache.
PORTION = 2
# Powers of two at which float32 becomes infinite, and below which it becomes 0.
LARGEST, SMALLEST = 128, -149


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
    """The streams after a block: those of stack i are `streams[i]` times 2 ^ `exponents[i]`."""

    block: int
    stacks: tuple[Stack, ...]
    streams: list[Tensor]  # D N R C (H W)
    exponents: list[Tensor]  # D R


@dataclass(frozen=True)
class Return:
    """The gradients dL/dx before a block, one for each network and depth, scaled alike."""

    block: int
    rows: list[list[tuple[int, int]]]  # of each stack: (depth of the network, member)
    stacks: tuple[Stack, ...]
    gradients: list[Tensor]  # D N G C (H W)
    exponents: list[Tensor]  # D G

    def members(self, index: int) -> list[Member]:
        return [self.stacks[index].members[member] for _, member in self.rows[index]]


# A network: its family, and its depth where the forward pass depends on it.
Key = tuple[str, int | None]


@dataclass
class Range:
    """Where ordinary float32 is left: the first block, and how, of each draw of each network."""

    left: dict[tuple[int, str, int | None], tuple[int, str]] = field(default_factory=dict)

    def watch(self, keys: list[Key], exponents: Tensor, trail: list[Tensor], blocks: range) -> None:
        """Look through the values after each block of a segment."""
        if not self._is_near(keys, exponents):
            return
        height = torch.log2(torch.stack([_peaks(values) for values in trail])) + exponents
        over, under = height >= LARGEST, height < SMALLEST
        for place, index in torch.nonzero((over | under).any(0)).tolist():
            step = int(torch.nonzero((over | under)[:, place, index])[0])
            how = "overflow" if over[step, place, index] else "underflow"
            self.left.setdefault((place, *keys[index]), (blocks[step], how))

    def _is_near(self, keys: list[Key], exponents: Tensor) -> bool:
        """Whether a network may leave within the next segment."""
        reach = GROWTH * SEGMENT
        near = (exponents + reach >= LARGEST) | (exponents - reach < SMALLEST)
        return any((d, *keys[i]) not in self.left for d, i in torch.nonzero(near).tolist())


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
) -> Iterator[Return]:
    """Yield the gradients at every stop; at a network's end they are `readout`, D N C (H W)."""
    rows: list[list[tuple[int, int]]] = [[] for _ in networks.stacks]
    gradients = [_repeated(readout, 0) for _ in networks.stacks]
    exponents = [torch.zeros(len(readout), 0) for _ in networks.stacks]
    for start, end in zip(stations[-2::-1], stations[:0:-1], strict=True):
        if end.block in networks.depths:
            for i, stack in enumerate(end.stacks):
                new = [k for k, member in enumerate(stack.members) if member.serves(end.block)]
                rows[i] = rows[i] + [(end.block, k) for k in new]
                gradients[i] = torch.cat([gradients[i], _repeated(readout, len(new))], dim=2)
                exponents[i] = F.pad(exponents[i], (0, len(new)))
        _, tapes = _advance(networks, start, end.block, left=Range())
        at_end = Return(end.block, rows, end.stacks, gradients, exponents)
        now = _retreat(networks, at_end, tapes, left=left)
        yield now
        gradients, exponents = now.gradients, now.exponents


Recorded = list[tuple[Matrices, list[Tape]]]


def _advance(
    networks: NetworkSet, station: Station, last: int, *, left: Range
) -> tuple[Station, Recorded]:
    """Go through one segment: the station at its end, and each block's weights and tapes."""
    stacks = tuple(stack.reaching(station.block + 1) for stack in station.stacks)
    streams = [x[:, :, : len(s.members)] for x, s in zip(station.streams, stacks, strict=True)]
    exponents = [e[:, : len(s.members)] for e, s in zip(station.exponents, stacks, strict=True)]
    groups = [group(stack.norm, stack.members, layer=networks.layer) for stack in stacks]
    keys: list[list[Key]] = [[(m.family.name, m.depth) for m in stack.members] for stack in stacks]
    blocks = range(station.block + 1, last + 1)
    recorded: Recorded = []
    trail = []
    for weights in networks.weights(blocks):
        streams, tapes = forward(groups, streams, weights, networks.layer)
        recorded.append((weights, tapes))
        trail.append(streams)
    # With batch norm the streams grow like the root of the depth at most, and must not be scaled.
    free = [i for i, stack in enumerate(stacks) if stack.norm == "none"]
    for i in free:
        left.watch(keys[i], exponents[i], [values[i] for values in trail], blocks)
    streams = list(streams)
    for i in free:
        streams[i], exponents[i] = renormalised(streams[i], exponents[i])
    return Station(last, stacks, streams, exponents), recorded


def _retreat(networks: NetworkSet, end: Return, recorded: Recorded, *, left: Range) -> Return:
    """Go back through one segment."""
    gradients, exponents = end.gradients, list(end.exponents)
    groups = [
        group(stack.norm, end.members(i), layer=networks.layer)
        for i, stack in enumerate(end.stacks)
    ]
    members = [[member for _, member in rows] for rows in end.rows]
    blocks = range(end.block - 1, end.block - 1 - len(recorded), -1)
    trail = []
    for weights, tapes in reversed(recorded):
        taped = [_of(tape, rows) for tape, rows in zip(tapes, members, strict=True)]
        gradients = backward(groups, gradients, taped, weights, networks.layer)
        trail.append(gradients)
    gradients = list(gradients)
    for i in range(len(groups)):
        keys: list[Key] = [
            (member.family.name, depth)
            for member, (depth, _) in zip(end.members(i), end.rows[i], strict=True)
        ]
        left.watch(keys, exponents[i], [values[i] for values in trail], blocks)
        gradients[i], exponents[i] = renormalised(gradients[i], exponents[i])
    return Return(blocks[-1], end.rows, end.stacks, gradients, exponents)


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


def renormalised(values: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """Divide by the power of two next to the largest entry; a member that is 0 stays 0."""
    powers = torch.frexp(_peaks(values)).exponent
    factors = torch.exp2(-powers.float())[:, None]
    shape = factors.shape + (1,) * (values.ndim - 3)
    return values * factors.view(shape), exponents + powers
