"""Depths and widths enter, curves leave: what is known in closed form about a network at birth.

Nothing here is fitted and nothing is simulated. Layers are bias-free with Gaussian weights of
variance 2/n (He et al. 2015, arXiv 1502.01852), n units wide and l or L layers deep; q is the mean
square of the stream relative to the input's, c the cosine of two inputs' streams, |g|^2 the squared
norm of the gradient. Growth is per layer, logarithms are natural. Pure numpy.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

BATCHNORM_GROWTH = math.pi / (math.pi - 1)
"""|g|^2 a layer of plain batch norm with ReLU, width and batch infinite (Yang 2019, 1902.08129)"""


def relu_correlation(c: ArrayLike) -> Array:
    """kappa(c) = (sqrt(1 - c^2) + c (pi - acos c)) / pi: cosine after a layer of infinite width.

    Cho & Saul 2009; Poole et al. 2016. Any shape of c in, the same out.
    """
    c = np.clip(np.asarray(c, np.float64), -1.0, 1.0)
    return np.asarray((np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / np.pi)


def shared_units(c: ArrayLike) -> Array:
    """kappa'(c) = (pi - acos c) / pi: of the units active at one input, the share at both."""
    return np.asarray(1 - np.arccos(np.clip(np.asarray(c, np.float64), -1.0, 1.0)) / np.pi)


def correlation_path(cosine: float, *, depth: int, beta: float = math.inf) -> Array:
    """Cosines after 0 ... depth units x + beta W relu(x); without a shortcut beta is infinite.

    c' = (c + beta^2 kappa(c)) / (1 + beta^2), Yang & Schoenholz 2017 (1712.08969). -> depth + 1
    """
    share = 1.0 if math.isinf(beta) else beta**2 / (1 + beta**2)
    path = [c := float(cosine)]
    for _ in range(depth):  # kappa once more, in plain floats: there are half a million
        mapped = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
        path.append(c := min(c + share * (mapped - c), 1.0))
    return np.array(path)


def gradient_correlation(path: Array, *, beta: float = math.inf) -> float:
    """Cosine of the gradients at two inputs whose streams have these cosines, infinite width.

    The product over units of (1 + beta^2 kappa'(c_l)) / (1 + beta^2). Were c_l always 0, it would
    be 2^-L for the plain network and (3/4)^L for the residual (Balduzzi 2017, 1702.08591).
    """
    share = 1.0 if math.isinf(beta) else beta**2 / (1 + beta**2)
    return float(np.prod(1 - share + share * shared_units(path[:-1])))


def mean_log_chi_square(degrees: int) -> float:
    """Mean of log chi^2 with a whole number of degrees of freedom, exactly.

    psi(k/2) + log 2, by the recurrence from k = 1 or 2.
    """
    half = degrees % 2 == 1
    start = 0.5 if half else 1.0
    steps = start + np.arange((degrees - 1) // 2)
    digamma = -np.euler_gamma - (2 * math.log(2) if half else 0.0) + np.sum(1 / steps)
    return float(digamma) + math.log(2)


def log_growth(width: int, *, weights: str) -> float:
    """Mean of the change of log q (and of log |g|^2) in one plain ReLU layer, exactly.

    Gaussian weights: q'/q = 2 chi^2_K / n where K of the n units are active, K ~ Binomial(n, 1/2);
    the leading order is -2.5/n, Hanin 2018 (1801.03744). Orthogonal weights times sqrt 2:
    q'/q = 2 Beta(K/2, (n-K)/2), to leading order -1.5/n: derived here in the same way. K = 0 is
    left out.
    """
    active = np.arange(1, width + 1)
    chance = binomial(width)[1:]
    chance = chance / chance.sum()
    means = np.array([mean_log_chi_square(int(k)) for k in active])
    norm = math.log(width) if weights == "gaussian" else mean_log_chi_square(width)
    return float(chance @ (means - norm + math.log(2)))


def residual_log_variance(depth: ArrayLike, *, beta: float = 1.0) -> Array:
    """The logarithm of q_L, L log(1 + beta^2): q is 2^L, or e at any depth with 1/sqrt(L)."""
    return np.asarray(depth, np.float64) * math.log1p(beta**2)


def preactivation_variance(unit: ArrayLike) -> Array:
    """q_l = l + 1: each unit adds a branch of variance 1 (De & Smith 2020, 2002.10444)."""
    return np.asarray(unit, np.float64) + 1


def preactivation_log_gradient(depth: int, *, batch: int) -> Array:
    """Of pre-activation with batch norm, log |g_l|^2 - log |g_L|^2 at l = 0 ... depth -> depth + 1.

    A unit multiplies |g|^2 by 1 + r v / (1 + l v): r is plain batch norm's growth, v = 1 - 1/pi for
    large batches is what a branch adds to the variance within the batch (what all inputs share does
    not count). So |g|^2 grows like L^r, beside r^L without shortcuts. Derived here, infinite width.
    """
    added = 1 - float(relu_correlation(-1 / (batch - 1)))
    within = 1 + np.arange(depth) * added
    growth = np.log1p(batchnorm_growth(batch) * added / within)
    return np.append(np.cumsum(growth[::-1])[::-1], 0.0)


def batchnorm_growth(batch: int) -> float:
    """Factor of |g|^2 a layer of plain batch norm with ReLU, batches of B > 3, infinite width.

    The normalised activations z of a unit are uniform on the sphere |z|^2 = B within sum z = 0, and
    its gradients over the batch are isotropic there. With P the projector off 1 and z,
    D = diag(z > 0), G = I - 11'/B and z+ = D z:
        growth = B / ((B-1)(B-3)) * E tr(P D G D P) / (E z+_i^2 - E z+_i z+_j)
    Derived here after Yang et al. 2019 (1902.08129), whose limit for B -> infinity is pi/(pi-1).
    """
    rho = -1 / (batch - 1)  # correlation of two entries of z
    pairs = batch * (batch - 1)
    product = float(relu_correlation(rho)) / 2  # E z+_i z+_j, and E z+_i^2 is 1/2
    active_squared = batch / 2 + pairs * float(shared_units(rho)) / 2  # E (tr D)^2
    sum_squared = batch / 2 + pairs * product  # E (sum z+)^2
    trace = (batch - 1) / 2 - 0.5 - 0.5 + (active_squared + sum_squared) / batch**2
    return batch / ((batch - 1) * (batch - 3)) * trace / (0.5 - product)


def binomial(units: int) -> Array:
    """Share of the 2^n paths through n units that take k branches: Binomial(n, 1/2). -> n + 1

    Veit et al. 2016 (1605.06431).
    """
    log_factorial = np.append(0.0, np.cumsum(np.log(np.arange(1, units + 1))))
    logs = log_factorial[-1] - log_factorial - log_factorial[::-1]
    return np.asarray(np.exp(logs - units * math.log(2)))
