"""Closed forms for signals and gradients of networks at initialisation, and their table.

Nothing here is fitted and nothing is simulated. Layers are bias-free with Gaussian weights of
variance 2/n (He et al. 2015, arXiv 1502.01852), n channels wide and l or L layers deep; q is the
mean square of the stream relative to the input's, c the cosine of two inputs' streams, |g|^2 the
squared norm of the gradient. Growth is per layer, logarithms are natural.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resnets.study.propagation.signal_propagation import COSINES, INPUTS
from resnets.study.tables import Row

Array = NDArray[np.float64]

# |g|^2 a layer of plain batch norm with ReLU, width and batch infinite (Yang 2019, 1902.08129).
BATCHNORM_GROWTH = math.pi / (math.pi - 1)
LOG10 = math.log(10)
# The law of the weights of families whose growth has a closed form at finite width.
WEIGHTS = {"plain": "gaussian", "orthogonal": "orthogonal"}


def relu_correlation(c: ArrayLike) -> Array:
    """Return the cosine after a layer of infinite width, for any shape of c.

    kappa(c) = (sqrt(1 - c^2) + c (pi - acos c)) / pi: Cho & Saul 2009; Poole et al. 2016.
    """
    c = np.clip(np.asarray(c, np.float64), -1.0, 1.0)
    return np.asarray((np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / np.pi)


def shared_activations(c: ArrayLike) -> Array:
    """Return kappa'(c) = (pi - acos c) / pi: of what one input activates, the share at both."""
    return np.asarray(1 - np.arccos(np.clip(np.asarray(c, np.float64), -1.0, 1.0)) / np.pi)


def correlation_path(cosine: float, *, depth: int, beta: float = math.inf) -> Array:
    """Return cosines after 0 ... depth blocks x + beta W relu(x); beta inf: without a shortcut.

    c' = (c + beta^2 kappa(c)) / (1 + beta^2), Yang & Schoenholz 2017 (1712.08969). -> depth + 1
    """
    share = 1.0 if math.isinf(beta) else beta**2 / (1 + beta**2)
    path = [c := float(cosine)]
    for _ in range(depth):  # kappa once more, in plain floats: there are half a million
        mapped = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
        path.append(c := min(c + share * (mapped - c), 1.0))
    return np.array(path)


def gradient_correlation(path: Array, *, beta: float = math.inf) -> float:
    """Return the cosine of the gradients at two inputs whose streams have these cosines.

    Infinite width. The product over blocks of (1 + beta^2 kappa'(c_l)) / (1 + beta^2). Were c_l
    always 0, it would be 2^-L for the plain network and (3/4)^L for the residual (Balduzzi 2017,
    1702.08591).
    """
    share = 1.0 if math.isinf(beta) else beta**2 / (1 + beta**2)
    return float(np.prod(1 - share + share * shared_activations(path[:-1])))


def mean_log_chi_square(degrees: int) -> float:
    """Return the mean of log chi^2 with a whole number of degrees of freedom, exactly.

    psi(k/2) + log 2, by the recurrence from k = 1 or 2.
    """
    half = degrees % 2 == 1
    start = 0.5 if half else 1.0
    steps = start + np.arange((degrees - 1) // 2)
    digamma = -np.euler_gamma - (2 * math.log(2) if half else 0.0) + np.sum(1 / steps)
    return float(digamma) + math.log(2)


def log_growth(width: int, *, weights: str) -> float:
    """Return the mean change of log q (and of log |g|^2) in one plain ReLU layer, exactly.

    Gaussian weights: q'/q = 2 chi^2_K / n where K of the n channels are active, K ~ Binomial(n,
    1/2); the leading order is -2.5/n, Hanin 2018 (1801.03744). Orthogonal weights times sqrt 2:
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
    """Return log q_L = L log(1 + beta^2): q is 2^L, or e at any depth with 1/sqrt(L)."""
    return np.asarray(depth, np.float64) * math.log1p(beta**2)


def preactivation_variance(block: ArrayLike) -> Array:
    """Return q_l = l + 1: each block adds a branch of variance 1 (De & Smith 2020, 2002.10444)."""
    return np.asarray(block, np.float64) + 1


def preactivation_log_gradient(depth: int, *, batch: int) -> Array:
    """Return log |g_l|^2 - log |g_L|^2 of pre-activation with batch norm, l = 0 ... depth.

    A block multiplies |g|^2 by 1 + r v / (1 + l v): r is plain batch norm's growth, v = 1 - 1/pi
    for large batches is what a branch adds to the variance within the batch (what all inputs share
    does not count). So |g|^2 grows like L^r, beside r^L without shortcuts. Derived here, infinite
    width.
    """
    added = 1 - float(relu_correlation(-1 / (batch - 1)))
    within = 1 + np.arange(depth) * added
    growth = np.log1p(batchnorm_growth(batch) * added / within)
    return np.append(np.cumsum(growth[::-1])[::-1], 0.0)


def batchnorm_growth(batch: int) -> float:
    """Return the growth of |g|^2 a layer of plain batch norm with ReLU, batches of B > 3.

    Infinite width. The normalised activations z of a channel are uniform on the sphere |z|^2 = B
    within sum z = 0, and its gradients over the batch are isotropic there. With P the projector off
    1 and z, D = diag(z > 0), G = I - 11'/B and z+ = D z:
        growth = B / ((B-1)(B-3)) * E tr(P D G D P) / (E z+_i^2 - E z+_i z+_j)
    Derived here after Yang et al. 2019 (1902.08129), whose limit for B -> infinity is pi/(pi-1).
    """
    rho = -1 / (batch - 1)  # correlation of two entries of z
    pairs = batch * (batch - 1)
    product = float(relu_correlation(rho)) / 2  # E z+_i z+_j, and E z+_i^2 is 1/2
    active_squared = batch / 2 + pairs * float(shared_activations(rho)) / 2  # E (tr D)^2
    sum_squared = batch / 2 + pairs * product  # E (sum z+)^2
    trace = (batch - 1) / 2 - 0.5 - 0.5 + (active_squared + sum_squared) / batch**2
    return batch / ((batch - 1) * (batch - 3)) * trace / (0.5 - product)


def binomial(count: int) -> Array:
    """Return the probabilities of 0 ... count successes of a fair coin. -> count + 1."""
    log_factorial = np.append(0.0, np.cumsum(np.log(np.arange(1, count + 1))))
    logs = log_factorial[-1] - log_factorial - log_factorial[::-1]
    return np.asarray(np.exp(logs - count * math.log(2)))


def theory_rows(
    *, depths: Sequence[int], width: int, blocks: Sequence[int], seed: int
) -> list[Row]:
    """Return the table of closed forms for dense networks of one width.

    A metric of `signal_propagation.py` that has a closed form is repeated here with `theory_`
    before its name, for the same family, width and blocks. Where nobody knows one, there is no row;
    convolutions have none.
    """
    rows = [*_forward(depths, width, blocks), *_backward(depths, width, blocks)]
    rows += _correlations(depths, blocks)
    return [{"study": "init-dense", "width": width, "seed": seed} | row for row in rows]


def _forward(depths: Sequence[int], width: int, blocks: Sequence[int]) -> Iterator[Row]:
    at = np.array(blocks, np.float64)
    logs: dict[str, Array] = {
        "residual": residual_log_variance(at),
        "preact": np.log(preactivation_variance(at)),
        "skipinit": 0 * at,
        "fixup": 0 * at,
    }
    for family, weights in WEIGHTS.items():
        logs[family] = at * log_growth(width, weights=weights)
    for family, curve in logs.items():
        yield from _curve(family, None, "log10_variance", blocks, curve / LOG10)
    for depth in depths:
        curve = residual_log_variance(at, beta=depth**-0.5)
        reached = [block for block in blocks if block <= depth]
        yield from _curve("scaled", depth, "log10_variance", reached, curve / LOG10)


def _backward(depths: Sequence[int], width: int, blocks: Sequence[int]) -> Iterator[Row]:
    """Yield log10 of the gradient's norm: half the logarithm of its square."""
    for depth in depths:
        reached = [block for block in blocks if block <= depth]
        left = depth - np.array(reached, np.float64)
        growth = {
            "plain-bn": math.log(batchnorm_growth(INPUTS)),
            "residual": math.log(2),
            "scaled": math.log1p(1 / depth),
            "skipinit": 0.0,
            "fixup": 0.0,
        }
        for family, weights in WEIGHTS.items():
            growth[family] = log_growth(width, weights=weights)
        for family, rate in growth.items():
            yield from _curve(family, depth, "log10_gradient", reached, left * rate / 2 / LOG10)
        preact = preactivation_log_gradient(depth, batch=INPUTS)[reached] / 2 / LOG10
        yield from _curve("preact", depth, "log10_gradient", reached, preact)


def _correlations(depths: Sequence[int], blocks: Sequence[int]) -> Iterator[Row]:
    """Yield cosines of streams and of gradients at two inputs, for each cosine of the inputs."""
    deepest = max(depths)
    betas = {"plain": math.inf, "orthogonal": math.inf, "residual": 1.0}
    betas |= {"skipinit": 0.0, "fixup": 0.0}
    for cosine in COSINES:
        for family, beta in betas.items():
            path = correlation_path(cosine, depth=deepest, beta=beta)
            distances = 1 - path[list(blocks)]
            yield from _curve(family, None, "cosine_distance", blocks, distances, x=cosine)
            for depth in depths:
                value = gradient_correlation(path[: depth + 1], beta=beta)
                yield from _curve(family, depth, "gradient_cosine", [0], [value], x=cosine)
        for depth in depths:
            beta = depth**-0.5
            path = correlation_path(cosine, depth=depth, beta=beta)
            reached = [block for block in blocks if block <= depth]
            distances = 1 - path[reached]
            yield from _curve("scaled", depth, "cosine_distance", reached, distances, x=cosine)
            value = gradient_correlation(path, beta=beta)
            yield from _curve("scaled", depth, "gradient_cosine", [0], [value], x=cosine)


def _curve(
    family: str,
    depth: int | None,
    metric: str,
    blocks: Sequence[int],
    values: Array | Sequence[float],
    *,
    x: float | None = None,
) -> Iterator[Row]:
    for block, value in zip(blocks, values, strict=False):
        row: Row = {"family": family, "unit": block, "metric": f"theory_{metric}"}
        if depth is not None:
            row["depth"] = depth
        if x is not None:
            row["x"] = x
        yield row | {"value": float(value)}
