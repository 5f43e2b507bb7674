"""Closed forms against numbers computed elsewhere, against their limits and against plain draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resnets.study.propagation import theory


def test_correlation_of_the_plain_network() -> None:
    path = theory.correlation_path(0.0, depth=10_000)
    assert path[[10, 100, 1000]] == pytest.approx([0.8715, 0.9964, 0.99995687], abs=5e-5)
    distances = 1 - path[[100, 1000, 10_000]]
    assert distances == pytest.approx([3.58e-3, 4.313e-5, 4.4252e-7], rel=1e-3)
    limit = 9 * math.pi**2 / (2 * 10_000**2)  # of 1 - c, from whatever cosine of the inputs
    assert distances[-1] / limit == pytest.approx(1, abs=0.005)


def test_correlation_of_the_residual_network() -> None:
    path = theory.correlation_path(0.0, depth=100, beta=1.0)
    assert path[[10, 100]] == pytest.approx([0.7076, 0.9871], abs=5e-5)
    for depth, cosine in ((100, 0.2523), (10_000, 0.25384)):
        last = theory.correlation_path(0.0, depth=depth, beta=depth**-0.5)[-1]
        assert last == pytest.approx(cosine, abs=5e-5)


def test_correlation_of_gradients() -> None:
    """Balduzzi's halves: what they would be if the cosine of the streams stayed at 0."""
    still = np.zeros(11)
    assert theory.gradient_correlation(still) == pytest.approx(0.5**10)
    assert theory.gradient_correlation(still, beta=1.0) == pytest.approx(0.75**10)
    assert theory.gradient_correlation(still, beta=0.0) == 1


@pytest.mark.parametrize("degrees", [1, 2, 3, 8, 31])
def test_logarithm_of_chi_square(degrees: int) -> None:
    logs = np.log(np.random.default_rng(0).chisquare(degrees, 400_000))
    error = logs.std() / math.sqrt(logs.size)
    assert logs.mean() == pytest.approx(theory.mean_log_chi_square(degrees), abs=4 * error)


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_growth_of_a_plain_layer(weights: str) -> None:
    """One layer of width 16, by drawing the numbers that the docstring speaks of."""
    rng = np.random.default_rng(1)
    z = rng.standard_normal((200_000, 16))
    z = z[(z > 0).any(1)]  # the closed form leaves the dead layer out
    total = 16 if weights == "gaussian" else np.square(z).sum(1)
    logs = np.log(2 * np.square(np.maximum(z, 0)).sum(1) / total)
    error = logs.std() / math.sqrt(logs.size)
    assert logs.mean() == pytest.approx(theory.log_growth(16, weights=weights), abs=4 * error)


@pytest.mark.parametrize(("weights", "leading"), [("gaussian", -2.5), ("orthogonal", -1.5)])
def test_growth_of_a_wide_layer(weights: str, leading: float) -> None:
    assert 512 * theory.log_growth(512, weights=weights) == pytest.approx(leading, rel=0.02)


BATCHNORM_GROWTH = math.pi / (math.pi - 1)  # width and batch infinite (Yang 2019, 1902.08129)


def test_growth_of_batch_norm() -> None:
    assert pytest.approx(1.467, abs=5e-4) == BATCHNORM_GROWTH
    assert theory.batchnorm_growth(10**6) == pytest.approx(BATCHNORM_GROWTH, rel=1e-4)
    assert theory.batchnorm_growth(8) > theory.batchnorm_growth(16) > theory.batchnorm_growth(64)


def test_gradient_of_preactivation_grows_like_a_power() -> None:
    logs = [theory.preactivation_log_gradient(depth, batch=1000)[0] for depth in (1000, 10_000)]
    power = (logs[1] - logs[0]) / math.log(10)
    assert power == pytest.approx(theory.batchnorm_growth(1000), rel=0.01)


def test_path_lengths() -> None:
    shares = theory.binomial(54)
    assert shares.sum() == pytest.approx(1)
    assert shares[19:36].sum() == pytest.approx(0.98017, abs=5e-6)
    assert shares[5:18].sum() == pytest.approx(0.0045367, abs=5e-8)
    assert np.isfinite(theory.binomial(10_000)).all()
