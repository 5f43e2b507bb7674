"""A dense layer, draws and depths enter, the gradient along a line of inputs leaves (M9).

The idea (Balduzzi 2017, arXiv 1702.08591): a network f of one number t, the place on a line through
the space of inputs, has a derivative g(t). In a shallow network neighbours' derivatives are alike,
as the steps of brown noise; in a deep plain one they are as white noise, and a step of gradient
descent says nothing about its neighbourhood. Measured by the autocorrelation of g, with both noises
beside.

Shapes: D draws, N places on the line, R members, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.study.init.geometry import key
from resnets.study.init.stream import Chain, Range, backward_stations, forward_stations
from resnets.study.init.weights import Dense

PLACES, END = 128, 2.0
"""on the line, from -END to END"""
LAGS = (1, 2, 3, 5, 8, 13, 21, 34, 55)
CONSTANT = 1e-5
"""a derivative that varies less than this, relative to its size, varies by rounding only"""

Row = dict[str, Any]
Array = NDArray[np.float64]


def autocorrelation(g: Array) -> Array | None:
    """The r_k = sum (g_t - m)(g_{t+k} - m) / sum (g_t - m)^2, m the mean over t: N -> N.

    None if g is constant.
    """
    centred = g - g.mean()
    if np.abs(centred).max() <= CONSTANT * np.abs(g).max():
        return None
    full = np.correlate(centred, centred, "full")[len(g) - 1 :]
    return np.asarray(full / full[0])


@torch.inference_mode()
def shattering(
    layer: Dense, *, depths: Sequence[int], seed: int, draws: Sequence[int]
) -> list[Row]:
    """Rows of `autocorrelation` (x is the lag in places), `decorrelation_lag` and `line_gradient`.

    With batch norm the places are one batch, and g is the derivative of f summed over them all, as
    in the paper. decorrelation_lag is the first lag of less than 1/2; line_gradient is g(t) of the
    first draw over its root mean square, x is t. The controls are the families white-noise and
    brown-noise.
    """
    chain = Chain.of(layer, depths=depths, seed=seed, draws=draws)
    ways, starts, readouts = [], [], []
    for draw in draws:
        both = torch.randn(2, layer.width, generator=key(seed, draw, "line"))
        way, start = torch.linalg.qr(both.T).Q.T * layer.width**0.5
        ways.append(way)
        starts.append(start)
        readouts.append(torch.randn(layer.width, generator=key(seed, draw, "readout")))
    places = torch.linspace(-END, END, PLACES)
    way = torch.stack(ways)
    inputs = torch.stack(starts)[:, None] + places[:, None] * way[:, None]  # D N C
    readout = torch.stack(readouts)[:, None].expand(-1, PLACES, -1) / layer.width**0.5
    stations = [station.bare() for station in forward_stations(chain, inputs, left=Range())]
    *_, at = backward_stations(chain, stations, readout, left=Range())
    rows: list[Row] = []
    for i, g in enumerate(at.gradients):
        along = torch.einsum("dngc,dc->dgn", g.double(), way.double()).numpy()
        for k, (member, (depth, _)) in enumerate(zip(at.members(i), at.rows[i], strict=True)):
            for d, draw in enumerate(draws):
                base = {"family": member.family.name, "depth": depth, "draw": draw}
                rows += [base | row for row in _rows(along[d, k], shown=d == 0)]
    rows += _controls(seed, draws)
    return [{"study": "init-dense", "width": layer.width, "seed": seed} | row for row in rows]


def _controls(seed: int, draws: Sequence[int]) -> Iterator[Row]:
    """White noise, and brown noise: its sum."""
    for draw in draws:
        white = np.random.default_rng([seed, draw]).standard_normal(PLACES)
        for name, noise in (("white-noise", white), ("brown-noise", white.cumsum())):
            base: Row = {"family": name, "draw": draw}
            yield from (base | row for row in _rows(noise, shown=draw == draws[0]))


def _rows(g: Array, *, shown: bool) -> Iterator[Row]:
    correlation = autocorrelation(g)
    if correlation is None:
        yield {"metric": "decorrelation_lag", "status": "the gradient is constant"}
        return
    for lag in LAGS:
        yield {"metric": "autocorrelation", "x": lag, "value": float(correlation[lag])}
    lag = int(np.argmax(correlation < 0.5))  # r sums to -1/2 over the lags from 1: one is below
    yield {"metric": "decorrelation_lag", "value": lag}
    if shown:
        size = float(np.sqrt(np.mean(g**2)))
        for t, value in zip(np.linspace(-END, END, len(g)).tolist(), g.tolist(), strict=True):
            yield {"metric": "line_gradient", "x": t, "value": value / size}
