"""Networks at initialisation: against autograd, against float32 as it is, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from resnets.cli.main import main
from resnets.errors import UserError
from resnets.study.executors import on_this_machine
from resnets.study.propagation import signal_propagation, sweep, theory
from resnets.study.propagation.forward_backward import (
    NetworkSet,
    Range,
    Station,
    backward_stations,
    forward_stations,
)
from resnets.study.propagation.init_variants import FAMILIES, Family, stacks
from resnets.study.propagation.manual_gradients import EPS
from resnets.study.propagation.signal_propagation import measured_blocks, propagate
from resnets.study.propagation.stability import Stability, fitted_slope, judge_stability
from resnets.study.propagation.sweep import measure_init
from resnets.study.propagation.weight_sampling import Convolution, Dense, Layer, draw, haar
from resnets.study.tables import read_table
from resnets.study.twins.study_config import SweepConfig
from tiny_study import Inline

BY_NAME = {family.name: family for family in FAMILIES}
LAYERS = [Dense(8), Convolution(4, 5)]
DEPTHS = (3, 7)
DRAWS = 20
WITHIN, STANDARD_ERROR = 0.05, 0.015
"""of a fitted growth a layer: its distance from theory, and what it may be uncertain by"""


def networks_of(
    names: Sequence[str], layer: Layer, depths: tuple[int, ...], *, draws: int
) -> NetworkSet:
    families = tuple(BY_NAME[name] for name in names)
    units = measured_blocks(depths)
    return NetworkSet(layer, stacks(families, depths=depths), depths, units, 0, tuple(range(draws)))


# --- weights ---------------------------------------------------------------------------------


def test_weights_are_a_function_of_seed_draw_and_unit() -> None:
    both = draw((4, 4), seed=1, draws=(0, 3), blocks=range(5, 9))
    assert torch.equal(both[2:], draw((4, 4), seed=1, draws=(0, 3), blocks=range(7, 9)))
    assert torch.equal(both[:, 1:], draw((4, 4), seed=1, draws=(3,), blocks=range(5, 9)))
    assert both.flatten(0, 1).flatten(1).unique(dim=0).shape[0] == 8
    assert not torch.equal(both, draw((4, 4), seed=2, draws=(0, 3), blocks=range(5, 9)))


def test_orthogonal_matrices_are_uniform() -> None:
    matrices = haar(torch.randn(20_000, 3, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(matrices.mT @ matrices, torch.eye(3).expand(20_000, 3, 3), atol=1e-5)
    traces = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)  # moments of the group O(3): 0, 1, 0, 3
    moments = [float((traces**power).mean()) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.1)
    assert matrices[:, 0, 2].sign().mean().abs() < 0.03


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_pull_is_the_transpose_of_apply(layer: Layer) -> None:
    weights = layer.make(draw(layer.kernel, seed=0, draws=(0, 1), blocks=range(1))[0], "gaussian")
    x, g = torch.randn(2, 2, 3, 2, *layer.shape)
    along = (layer.apply(x, weights) * g).sum()
    assert float((x * layer.pull(g, weights)).sum()) == pytest.approx(float(along), rel=1e-4)


# --- one unit after another, against autograd --------------------------------------------------


def plainly(
    family: Family, layer: Layer, inputs: Tensor, *, depth: int, draw_number: int
) -> Tensor:
    """The same network as anyone would write it, N C (H W) in and out."""
    x = inputs
    normalise = partial(F.batch_norm, running_mean=None, running_var=None, training=True, eps=EPS)
    for unit in range(1, depth + 1):
        gaussian = draw(layer.kernel, seed=0, draws=(draw_number,), blocks=range(unit, unit + 1))
        weights = layer.make(gaussian, family.weights)[0, 0].to(inputs.dtype)
        a = x if family.norm == "after" else normalise(x) if family.norm == "before" else x
        a = a if family.norm == "after" else torch.relu(a)
        if isinstance(layer, Dense):
            z = F.linear(a, weights)
        else:
            z = F.conv2d(F.pad(a, (1, 1, 1, 1), mode="circular"), weights)
        if family.norm == "after":
            x = torch.relu(x + normalise(z))
        else:
            x = float(family.shortcut) * x + family.strength_at(depth) * z
    return x


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_streams_and_gradients_are_those_of_autograd(layer: Layer) -> None:
    networks = networks_of(list(BY_NAME), layer, DEPTHS, draws=2)
    inputs = signal_propagation.make_inputs(layer.shape, seed=0, draws=(0, 1))
    readout = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1))
    stations = list(forward_stations(networks, inputs, left=Range()))
    *_, back = backward_stations(networks, stations, readout, left=Range())
    seen = set()
    for i in range(len(networks.stacks)):
        for k, member in enumerate(back.stacks[i].members):
            depth = member.depth
            assert depth is not None
            station = next(s for s in stations if s.block == depth)
            row = station.stacks[i].place(member)
            for d in (0, 1):
                x = inputs[d].double().requires_grad_()
                y = plainly(member.family, layer, x, depth=depth, draw_number=d)
                y.backward(readout[d].double())  # type: ignore[no-untyped-call]
                ours = station.values[i][d, :, row] * 2 ** station.exponents[i][d, row]
                assert torch.allclose(ours.double(), y, rtol=1e-3, atol=1e-4)
                ours = back.values[i][d, :, k] * 2 ** back.exponents[i][d, k]
                assert x.grad is not None
                assert torch.allclose(ours.double(), x.grad, rtol=2e-3, atol=2e-4)
            seen.add((member.family.name, depth))
    assert seen == {(name, depth) for name in BY_NAME for depth in DEPTHS}


def test_float32_overflows_where_we_say() -> None:
    layer, depth = Dense(16), 400
    networks = networks_of(["residual", "plain-bn"], layer, (depth,), draws=1)
    inputs = signal_propagation.make_inputs(layer.shape, seed=0, draws=(0,))
    readout = signal_propagation.make_readout(layer.shape, seed=0, draws=(0,))
    left, back = Range(), Range()
    stations = list(forward_stations(networks, inputs, left=left))
    assert all(torch.isfinite(x).all() for station in stations for x in station.values)
    *_, last = backward_stations(networks, stations, readout, left=back)
    assert all(torch.isfinite(g).all() for g in last.values)
    unit, how = left.left[0, "residual", None]
    assert how == "overflow" and (0, "plain-bn", None) not in left.left
    residual = partial(plainly, BY_NAME["residual"], layer, inputs[0], draw_number=0)
    assert torch.isfinite(residual(depth=unit - 2)).all()  # a product can be first by one unit
    assert not torch.isfinite(residual(depth=unit)).all()
    unit, how = back.left[0, "residual", depth]  # backwards too, so many units from the end
    assert how == "overflow" and 200 < depth - unit < 320


def test_underflow_is_seen_at_its_unit() -> None:
    left = Range()
    trail = [torch.full((1, 1, 1, 2), 2.0**-power) for power in (10, 20, 30)]
    left.watch([("plain", None)], torch.tensor([[-125.0]]), trail, range(41, 44))
    assert left.left == {(0, "plain", None): (43, "underflow")}


# --- fitted growth a layer, against theory ------------------------------------------------------


def logs_forward(stations: list[Station], stack: int) -> Tensor:
    """Log q at each station: stations x D x R."""
    found = []
    for station in stations:
        square = signal_propagation.mean_square(station.values[stack])
        found.append(square.log() + 2 * station.exponents[stack] * math.log(2))
    return torch.stack(found)


def agree(slopes: Sequence[float], expected: float) -> None:
    error = float(np.std(slopes, ddof=1)) / math.sqrt(len(slopes)) / abs(expected)
    assert error < STANDARD_ERROR
    assert np.mean(slopes) == pytest.approx(expected, rel=WITHIN)


def test_plain_networks_shrink_as_their_finite_width_demands() -> None:
    width, depth, draws = 24, 1500, 80
    networks = networks_of(["plain", "orthogonal"], Dense(width), (depth,), draws=draws)
    inputs = torch.randn(draws, 1, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        stations = list(forward_stations(networks, inputs, left=Range()))
    logs = logs_forward(stations, 0)
    for index, weights in enumerate(("orthogonal", "gaussian")):
        ends = ((logs[-1] - logs[0])[:, index] / depth).tolist()
        agree(ends, theory.log_growth(width, weights=weights))


@pytest.fixture(scope="module")
def measured() -> dict[str, list[dict[str, object]]]:
    """All families at the width of the atlas, 60 layers, twenty draws."""
    return propagate(Dense(128), depths=(60,), seed=0, draws=range(DRAWS))


def slopes(
    rows: list[dict[str, object]], family: str, metric: str, *, first: int = 0, last: int = 60
) -> list[float]:
    """The fitted change a unit of each draw, between two units."""
    found = []
    for number in range(DRAWS):
        points = [
            (row["unit"], row["value"]) for row in rows
            if (row["family"], row["metric"], row["draw"]) == (family, metric, number)
            and first <= row["unit"] <= last  # type: ignore[operator]
        ]  # fmt: skip
        found.append(fitted_slope(*zip(*points, strict=True)) * math.log(10))  # type: ignore[arg-type]
    return found


def test_residual_networks_double_each_layer(measured: dict[str, list[dict[str, object]]]) -> None:
    agree(slopes(measured["forward"], "residual", "log10_variance"), math.log(2))
    backward = slopes(measured["backward"], "residual", "log10_gradient")
    agree([-2 * slope for slope in backward], math.log(2))


def test_plain_batch_norm_explodes_backwards(
    measured: dict[str, list[dict[str, object]]],
) -> None:
    backward = slopes(measured["backward"], "plain-bn", "log10_gradient", last=55)
    agree([-2 * s for s in backward], math.log(theory.batchnorm_growth(signal_propagation.INPUTS)))
    forward = slopes(measured["forward"], "plain-bn", "log10_variance")
    assert abs(np.mean(forward)) < 0.005


def test_preactivation_grows_by_one_a_unit(measured: dict[str, list[dict[str, object]]]) -> None:
    growth = []
    for number in range(DRAWS):
        points = [
            (row["unit"], 10 ** row["value"]) for row in measured["forward"]  # type: ignore[operator]
            if (row["family"], row["metric"], row["draw"]) == ("preact", "log10_variance", number)
        ]  # fmt: skip
        growth.append(fitted_slope(*zip(*points, strict=True)))  # type: ignore[arg-type]
    agree(growth, 1.0)
    predicted = theory.preactivation_log_gradient(60, batch=signal_propagation.INPUTS)
    ends = [
        2 * math.log(10) * row["value"] for row in measured["backward"]  # type: ignore[operator]
        if (row["family"], row["metric"], row["unit"]) == ("preact", "log10_gradient", 0)
    ]  # fmt: skip
    assert np.mean(ends) == pytest.approx(predicted[0], rel=WITHIN)


def test_scaled_and_zero_branches(measured: dict[str, list[dict[str, object]]]) -> None:
    expected = math.log1p(1 / 60)
    scaled = slopes(measured["forward"], "scaled", "log10_variance")
    assert np.mean(scaled) == pytest.approx(expected, rel=WITHIN)
    for family in ("skipinit", "fixup"):
        assert slopes(measured["forward"], family, "log10_variance") == pytest.approx(
            [0] * DRAWS, abs=1e-7
        )
        assert slopes(measured["backward"], family, "log10_gradient") == pytest.approx(
            [0] * DRAWS, abs=1e-7
        )


def test_the_correlation_map() -> None:
    layer, draws = Dense(256), 40
    networks = networks_of(["plain", "residual"], layer, (10,), draws=draws)
    inputs = signal_propagation.make_inputs(layer.shape, seed=0, draws=range(draws))
    for station in forward_stations(networks, inputs, left=Range()):
        distances = signal_propagation.cosine_distances(station.values[0])[:, 0]
        for found, beta in zip(distances.T, (math.inf, 1.0), strict=True):
            path = theory.correlation_path(0.0, depth=10, beta=beta)
            error = float(found.std()) / math.sqrt(draws)
            assert float(found.mean()) == pytest.approx(
                1 - path[station.block], abs=3.5 * error + 1e-6
            )
            assert error < 0.1 * (1 - path[station.block])


# --- inputs, verdicts ----------------------------------------------------------------------------


def test_inputs_stand_at_the_cosines_they_are_named_by() -> None:
    inputs = signal_propagation.make_inputs((32,), seed=0, draws=(0, 1))
    distances = signal_propagation.cosine_distances(inputs[:, :, None])[..., 0]
    assert torch.allclose(
        1 - distances, torch.tensor(signal_propagation.COSINES).double(), atol=1e-6
    )
    for base, near in signal_propagation.PAIRS:
        cosines = F.cosine_similarity(inputs[:, base], inputs[:, near], dim=-1)
        assert torch.allclose(cosines, torch.full((2,), signal_propagation.COSINES[-1]))
    assert torch.allclose(inputs.square().mean(-1), torch.ones(2, signal_propagation.INPUTS))


def test_verdicts() -> None:
    """Medians of draws against the thresholds, either direction by itself."""

    def cell(family: str, decades: float, distance: float, gradient: float, shared: float) -> None:
        base = {"study": "init-dense", "family": family, "width": 4, "draw": 0}
        forward.extend([
            base | {"unit": 0, "metric": "log10_variance", "value": 0.0},
            base | {"unit": 9, "metric": "log10_variance", "value": decades},
            base | {"unit": 9, "metric": "cosine_distance", "x": 0.0, "value": distance},
        ])  # fmt: skip
        backward.extend([
            base | {"unit": 0, "depth": 9, "metric": "log10_gradient", "value": gradient},
            base | {"unit": 9, "depth": 9, "metric": "log10_gradient", "value": 0.0},
            base | {"unit": 0, "depth": 9, "metric": "gradient_cosine", "x": 0.99, "value": shared},
        ])  # fmt: skip

    forward: list[dict[str, object]] = []
    backward: list[dict[str, object]] = []
    cell("plain", -9.0, 1e-3, -4.5, 0.9)
    cell("plain-bn", 0.0, 0.8, 4.5, 0.1)
    cell("scaled", 0.4, 0.7, 0.2, 0.95)
    found = {v.family: v for v in judge_stability(forward, backward, depths=(9,))}
    assert (found["plain"].forward, found["plain"].backward) == ("vanishes, collapses", "vanishes")
    assert (found["plain-bn"].forward, found["plain-bn"].backward) == (
        "healthy", "explodes, shatters",
    )  # fmt: skip
    assert (found["scaled"].forward, found["scaled"].backward) == ("healthy", "healthy")
    assert found["plain-bn"].backward_slope == pytest.approx(2 * 4.5 * math.log(10) / 9)


# --- the whole ----------------------------------------------------------------------------------


def small(out: Path, **options: object) -> list[Stability]:
    return measure_init(out, config=SweepConfig((2, 6), (8,), 2), **{"log": print} | options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_sweep_is_the_same_again_and_on_two_processes(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    for cores in (1, 2):
        with on_this_machine(cores) as executor:
            small(tmp_path / str(cores), executor=executor)
    assert torch.get_num_threads() == threads
    first, second = (sorted((tmp_path / name / "data").glob("*.csv")) for name in "12")
    parts = ("", "_backward", "_forward", "_theory")
    assert [path.name for path in first] == [f"init{part}.csv" for part in parts]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    judged = {
        (row["study"], row["family"], row["depth"]) for row in read_table(first[0])
        if row["metric"] == "verdict_backward"
    }  # fmt: skip
    kinds = ("init-dense", "init-conv")
    assert judged == {(kind, name, depth) for kind in kinds for name in BY_NAME for depth in (2, 6)}


def test_theory_has_the_places_of_what_it_predicts(tmp_path: Path) -> None:
    small(tmp_path, executor=Inline())
    keys = ("family", "depth", "width", "unit", "x", "metric")
    rows = read_table(tmp_path / "data" / "init_backward.csv")
    measured = {tuple(row.get(key) for key in keys) for row in rows}
    for row in read_table(tmp_path / "data" / "init_theory.csv"):
        if row["unit"] == row["depth"]:
            continue  # where the gradient is 1 by definition
        name = row["metric"].removeprefix("theory_")
        assert tuple((row | {"metric": name}).get(key) for key in keys) in measured


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = partial(small, executor=Inline())
    monkeypatch.setattr(sweep, "measure_init", lambda out, log: here(out, log=log))
    assert main(["study", "init", "--out", str(tmp_path / "study")]) == 0
    shown = capsys.readouterr()
    assert "backward" in shown.out and "healthy" in shown.out
    assert "2/2" in shown.err and "4 tables" in shown.err
    assert main(["study", "init", "--out", str(tmp_path / "study"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="not a folder that can be written"):
            small(out)
    with pytest.raises(UserError, match="widths from 2"):
        measure_init(tmp_path / "new", config=SweepConfig(widths=(1,)), log=print)
    assert not (tmp_path / "new").exists()
    assert main(["study", "init", "--out", str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
