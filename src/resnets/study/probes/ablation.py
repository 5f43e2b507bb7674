"""A trained network loses units, and is asked again.

Enters: a chain, images, targets. Leaves: rows with error and loss after each lesion. The idea
(Veit 2016, arXiv 1605.06431, section 4): if a residual network is a sum over many paths, taking one
unit out removes half of them and the rest go on; a plain network has one path only. A unit is
removed by setting its branch to zero; a plain unit by the identity, where its input and output
have one shape. Each lesion is asked twice: with the statistics that the batch norms learned, and
(`..._recalibrated`) with those of the images at hand, since a lesion shifts what later norms see.

Shapes: N images, C H W; x_l is what leaves unit l of n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from resnets.study.probes.activation_stats import finite
from resnets.study.probes.residual_chain import (
    Chain,
    Map,
    Unit,
    batch_statistics,
    no_grad_stream,
    score,
    through,
)
from resnets.study.tables import Row

DRAWS = 5
"""random sets of units for each number removed"""


def intact(chain: Chain, images: Tensor, targets: Tensor) -> list[Row]:
    """Error and loss of the whole network, with both kinds of statistics."""
    with torch.no_grad():
        return list(_asked_twice("intact", chain, chain.units, images, targets, {}))


def remove_each(chain: Chain, images: Tensor, targets: Tensor) -> list[Row]:
    """Error and loss without unit l, for l = 1 to n (Veit 2016, figure 3).

    Only what follows the unit is computed again: n/2 passes instead of n.
    """
    rows: list[Row] = []
    for recalibrated in (False, True):
        with batch_statistics(chain.network, wanted=recalibrated):
            xs = no_grad_stream(chain, images)
            for number, unit in enumerate(chain.units, 1):
                place: Row = {"unit": number}
                if not _removable(unit, xs[number - 1], xs[number]):
                    rows += _unasked("removed", recalibrated, place)
                    continue
                with torch.no_grad():
                    x = through(chain.units[number:], unit.removed(xs[number - 1]))
                    rows += _scored("removed", recalibrated, chain.head(x), targets, place)
    return rows


def remove_several(chain: Chain, images: Tensor, targets: Tensor, *, seed: int) -> list[Row]:
    """Error and loss without k random units, k = 1, 2, 4, ... (Veit 2016, figure 5a); x is k."""
    removable = _removable_places(chain, images)
    generator = torch.Generator().manual_seed(seed)
    rows: list[Row] = []
    for count in _doubling(len(removable)):
        for draw in range(DRAWS):
            order = torch.randperm(len(removable), generator=generator).tolist()
            gone = {removable[place] for place in order[:count]}
            place: Row = {"x": float(count), "draw": draw}
            rows += without(chain, gone, images, targets, metric="removed_several", place=place)
    return rows


def without(
    chain: Chain, gone: set[int], images: Tensor, targets: Tensor, *, metric: str, place: Row
) -> list[Row]:
    """Error and loss without the units at the places `gone`, counted from 0."""
    maps = [unit.removed if i in gone else unit for i, unit in enumerate(chain.units)]
    with torch.no_grad():
        return list(_asked_twice(metric, chain, maps, images, targets, place))


def _removable(unit: Unit, before: Tensor, after: Tensor) -> bool:
    """A shortcut carries on whatever it is; the identity only what keeps its shape."""
    return unit.shortcut is not None or before.shape == after.shape


def _removable_places(chain: Chain, images: Tensor) -> list[int]:
    xs = no_grad_stream(chain, images[:1])
    ends = zip(chain.units, xs, xs[1:], strict=False)
    return [place for place, (unit, a, b) in enumerate(ends) if _removable(unit, a, b)]


def _doubling(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def _asked_twice(
    metric: str, chain: Chain, maps: Sequence[Map], images: Tensor, targets: Tensor, place: Row
) -> Iterator[Row]:
    for recalibrated in (False, True):
        with batch_statistics(chain.network, wanted=recalibrated):
            logits = chain.head(through(maps, chain.stem(images)))
        yield from _scored(metric, recalibrated, logits, targets, place)


def _scored(
    metric: str, recalibrated: bool, logits: Tensor, targets: Tensor, place: Row
) -> Iterator[Row]:
    for name, value in score(logits, targets).items():
        yield {"metric": _name(metric, name, recalibrated), **place, **finite(value)}


def _unasked(metric: str, recalibrated: bool, place: Row) -> Iterator[Row]:
    for name in ("error", "loss"):
        yield {"metric": _name(metric, name, recalibrated), "status": "shapes differ", **place}


def _name(metric: str, what: str, recalibrated: bool) -> str:
    return f"{metric}_{what}_recalibrated" if recalibrated else f"{metric}_{what}"
