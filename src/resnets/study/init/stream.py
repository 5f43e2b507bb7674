"""A batch of inputs enters, streams and gradients at chosen units leave; no network is ever built.

The way forward keeps the streams at the ends of short segments; the way back makes each segment's
weights and activations again, so memory does not grow with what a network of 10,000 layers holds.
Networks of all depths share their first units: one way forward serves them all (but for families
whose law depends on the depth), and on the one way back each depth's gradient joins at its end.

No number leaves the range of floats: ReLU networks without norm are positively homogeneous and the
way back is linear, so after each segment streams and gradients are divided by a power of two, which
is exact, and the power is added up. Where ordinary float32 would have left its range is recorded.

Shapes: D draws of weights, N inputs, R members of a stack, G gradients of a stack; streams are
D N R C (H W), gradients D N G C (H W), powers of two D R and D G.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from resnets.study.init.families import FAMILIES, Member, Stack, stacks
from resnets.study.init.units import Matrices, Tape, backward, forward, group
from resnets.study.init.weights import Layer, draw

SEGMENT, GROWTH = 20, 3
"""units between renormalisations, and powers of two that one grows by at most: float32 has 127"""
PORTION = 2
"""units whose weights are made at once: those of more do not stay in the cache"""
LARGEST, SMALLEST = 128, -149
"""powers of two at which float32 becomes infinite, and below which it becomes 0"""


@dataclass(frozen=True)
class Chain:
    """What is propagated: layers, families, draws of weights, the depths, the units to stop at."""

    layer: Layer
    stacks: tuple[Stack, ...]
    depths: tuple[int, ...]
    units: tuple[int, ...]
    seed: int
    draws: tuple[int, ...]

    @classmethod
    def of(
        cls, layer: Layer, *, depths: Sequence[int], seed: int, draws: Sequence[int],
        units: Sequence[int] = (),
    ) -> Chain:  # fmt: skip
        """All ten families."""
        depths = tuple(depths)
        return cls(layer, stacks(FAMILIES, depths=depths), depths, tuple(units), seed, tuple(draws))

    @property
    def stops(self) -> list[int]:
        """Ends of segments: measured units, depths, and never more than SEGMENT apart."""
        deepest = max(self.depths)
        chosen = {*self.units, *self.depths, *range(0, deepest, SEGMENT), 0}
        return sorted(stop for stop in chosen if stop <= deepest)

    def weights(self, units: range) -> Iterator[Matrices]:
        """The weights of units (counted from 1) under each law, each draw's from one Gaussian."""
        laws = sorted({member.family.weights for stack in self.stacks for member in stack.members})
        for first in range(units.start, units.stop, PORTION):
            some = range(first, min(first + PORTION, units.stop))
            gaussian = draw(self.layer.kernel, seed=self.seed, draws=self.draws, units=some)
            made = {law: self.layer.make(gaussian, law).unbind() for law in laws}
            yield from ({law: made[law][place] for law in made} for place in range(len(some)))


@dataclass(frozen=True)
class Station:
    """The streams after a unit: those of stack i are `streams[i]` times 2 ^ `exponents[i]`."""

    unit: int
    stacks: tuple[Stack, ...]
    streams: list[Tensor]  # D N R C (H W)
    exponents: list[Tensor]  # D R


@dataclass(frozen=True)
class Return:
    """The gradients dL/dx before a unit, one for each network and depth, scaled alike."""

    unit: int
    rows: list[list[tuple[int, int]]]  # of each stack: (depth it began at, member)
    stacks: tuple[Stack, ...]
    gradients: list[Tensor]  # D N G C (H W)
    exponents: list[Tensor]  # D G

    def members(self, index: int) -> list[Member]:
        return [self.stacks[index].members[member] for _, member in self.rows[index]]


Key = tuple[str, int | None]
"""a network: its family, and its depth where the way there depends on it"""


@dataclass
class Range:
    """Where ordinary float32 is left: the first unit, and how, of each draw of each network."""

    left: dict[tuple[int, str, int | None], tuple[int, str]] = field(default_factory=dict)

    def watch(self, keys: list[Key], exponents: Tensor, trail: list[Tensor], units: range) -> None:
        """Look through the values after each unit of a segment."""
        if not self._is_near(keys, exponents):
            return
        height = torch.log2(torch.stack([_peaks(values) for values in trail])) + exponents
        over, under = height >= LARGEST, height < SMALLEST
        for place, index in torch.nonzero((over | under).any(0)).tolist():
            step = int(torch.nonzero((over | under)[:, place, index])[0])
            how = "overflow" if over[step, place, index] else "underflow"
            self.left.setdefault((place, *keys[index]), (units[step], how))

    def _is_near(self, keys: list[Key], exponents: Tensor) -> bool:
        """Whether a network may leave within the next segment."""
        reach = GROWTH * SEGMENT
        near = (exponents + reach >= LARGEST) | (exponents - reach < SMALLEST)
        return any((d, *keys[i]) not in self.left for d, i in torch.nonzero(near).tolist())


def forward_stations(chain: Chain, inputs: Tensor, *, left: Range) -> Iterator[Station]:
    """The streams at every stop, from the inputs D N C (H W) on."""
    members = [len(stack.members) for stack in chain.stacks]
    streams = [_repeated(inputs, count) for count in members]
    exponents = [torch.zeros(len(inputs), count) for count in members]
    station = Station(0, chain.stacks, streams, exponents)
    yield station
    for stop in chain.stops[1:]:
        station, _ = _advance(chain, station, stop, left=left)
        yield station


def backward_stations(
    chain: Chain, stations: Sequence[Station], readout: Tensor, *, left: Range
) -> Iterator[Return]:
    """The gradients at every stop; at a network's end they are `readout`, D N C (H W)."""
    rows: list[list[tuple[int, int]]] = [[] for _ in chain.stacks]
    gradients = [_repeated(readout, 0) for _ in chain.stacks]
    exponents = [torch.zeros(len(readout), 0) for _ in chain.stacks]
    for start, end in zip(stations[-2::-1], stations[:0:-1], strict=True):
        if end.unit in chain.depths:
            for i, stack in enumerate(end.stacks):
                new = [k for k, member in enumerate(stack.members) if member.serves(end.unit)]
                rows[i] = rows[i] + [(end.unit, k) for k in new]
                gradients[i] = torch.cat([gradients[i], _repeated(readout, len(new))], dim=2)
                exponents[i] = F.pad(exponents[i], (0, len(new)))
        _, tapes = _advance(chain, start, end.unit, left=Range())
        at_end = Return(end.unit, rows, end.stacks, gradients, exponents)
        now = _retreat(chain, at_end, tapes, left=left)
        yield now
        gradients, exponents = now.gradients, now.exponents


Recorded = list[tuple[Matrices, list[Tape]]]


def _advance(chain: Chain, station: Station, last: int, *, left: Range) -> tuple[Station, Recorded]:
    """Through one segment: the station at its end, and each unit's weights and tapes."""
    stacks = tuple(stack.reaching(station.unit + 1) for stack in station.stacks)
    streams = [x[:, :, : len(s.members)] for x, s in zip(station.streams, stacks, strict=True)]
    exponents = [e[:, : len(s.members)] for e, s in zip(station.exponents, stacks, strict=True)]
    groups = [group(stack.norm, stack.members, layer=chain.layer) for stack in stacks]
    keys: list[list[Key]] = [[(m.family.name, m.depth) for m in stack.members] for stack in stacks]
    units = range(station.unit + 1, last + 1)
    recorded: Recorded = []
    trail = []
    for weights in chain.weights(units):
        streams, tapes = forward(groups, streams, weights, chain.layer)
        recorded.append((weights, tapes))
        trail.append(streams)
    # With batch norm the streams grow like the root of the depth at most, and must not be scaled.
    free = [i for i, stack in enumerate(stacks) if stack.norm == "none"]
    for i in free:
        left.watch(keys[i], exponents[i], [values[i] for values in trail], units)
    streams = list(streams)
    for i in free:
        streams[i], exponents[i] = renormalised(streams[i], exponents[i])
    return Station(last, stacks, streams, exponents), recorded


def _retreat(chain: Chain, end: Return, recorded: Recorded, *, left: Range) -> Return:
    """Back through one segment."""
    gradients, exponents = end.gradients, list(end.exponents)
    groups = [
        group(stack.norm, end.members(i), layer=chain.layer) for i, stack in enumerate(end.stacks)
    ]
    of = [[member for _, member in rows] for rows in end.rows]
    units = range(end.unit - 1, end.unit - 1 - len(recorded), -1)
    trail = []
    for weights, tapes in reversed(recorded):
        taped = [_of(tape, rows) for tape, rows in zip(tapes, of, strict=True)]
        gradients = backward(groups, gradients, taped, weights, chain.layer)
        trail.append(gradients)
    gradients = list(gradients)
    for i in range(len(groups)):
        keys: list[Key] = [
            (member.family.name, depth)
            for member, (depth, _) in zip(end.members(i), end.rows[i], strict=True)
        ]
        left.watch(keys, exponents[i], [values[i] for values in trail], units)
        gradients[i], exponents[i] = renormalised(gradients[i], exponents[i])
    return Return(units[-1], end.rows, end.stacks, gradients, exponents)


def _repeated(values: Tensor, count: int) -> Tensor:
    """The same for each of some members: D N C (H W) -> D N R C (H W)."""
    return values[:, :, None].expand(-1, -1, count, *values.shape[2:])


def _of(tape: Tape, rows: list[int]) -> Tape:
    """The members that gradients belong to; most of the way each member has one, in order."""
    if rows == list(range(tape.positive.shape[2])):
        return tape
    normal, scale, positive = (v[:, :, rows] for v in (tape.normal, tape.scale, tape.positive))
    return Tape(normal, scale, positive)


def _peaks(values: Tensor) -> Tensor:
    """The largest entry of each draw of each member: D N R C (H W) -> D R."""
    return values.abs().amax((1, *range(3, values.ndim)))


def renormalised(values: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """Divided by the power of two next to the largest entry; a member that is 0 stays 0."""
    powers = torch.frexp(_peaks(values)).exponent
    factors = torch.exp2(-powers.float())[:, None]
    shape = factors.shape + (1,) * (values.ndim - 3)
    return values * factors.view(shape), exponents + powers
