"""Closed forms for signals and gradients of networks at initialisation, and their table.

Nothing here is fitted and nothing is simulated. Layers are bias-free with Gaussian weights of
variance 2/n (He et al. 2015, arXiv 1502.01852), n channels wide and l or L layers deep; q is the
mean square of the stream relative to the input's, c the cosine of two inputs' streams, |g|^2 the
squared norm of the gradient. Growth is per layer, logarithms are natural.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resnets.study.propagation.signal_propagation import COSINES, INPUTS, measured_blocks
from resnets.study.tables import Row

Array = NDArray[np.float64]

LOG10 = math.log(10)


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
    q'/q = 2 Beta(K/2, (n-K)/2), to leading order -1.5/n: derived here likewise. K = 0 is left out.
    """
    active = np.arange(1, width + 1)
    chance = binomial(width)[1:]
    chance = chance / chance.sum()
    means = np.array([mean_log_chi_square(int(k)) for k in active])
    norm = math.log(width) if weights == "gaussian" else mean_log_chi_square(width)
    return float(chance @ (means - norm + math.log(2)))


def preactivation_log_gradient(depth: int, *, batch: int) -> Array:
    """Return log |g_l|^2 - log |g_L|^2 of pre-activation with batch norm, l = 0 ... depth.

    A block multiplies |g|^2 by 1 + r v / (1 + l v): r is plain batch norm's growth, v = 1 - 1/pi
    for large batches is what a branch adds to the variance within the batch (what all inputs share
    does not count). So |g|^2 grows like L^r; without shortcuts r^L. Infinite width, derived here.
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
    mean_product = float(relu_correlation(rho)) / 2  # E z+_i z+_j, and E z+_i^2 is 1/2
    active_squared = batch / 2 + pairs * float(shared_activations(rho)) / 2  # E (tr D)^2
    sum_squared = batch / 2 + pairs * mean_product  # E (sum z+)^2
    trace = (batch - 1) / 2 - 0.5 - 0.5 + (active_squared + sum_squared) / batch**2
    return batch / ((batch - 1) * (batch - 3)) * trace / (0.5 - mean_product)


def binomial(count: int) -> Array:
    """Return the probabilities of 0 ... count successes of a fair coin. -> count + 1."""
    log_factorial = np.append(0.0, np.cumsum(np.log(np.arange(1, count + 1))))
    logs = log_factorial[-1] - log_factorial - log_factorial[::-1]
    return np.asarray(np.exp(logs - count * math.log(2)))


def theory_rows(*, depths: Sequence[int], width: int, seed: int) -> list[Row]:
    """Return the closed forms of gradients for dense networks of one width.

    A metric of `signal_propagation.py` is repeated here with `theory_` before its name, for the
    same family, width and blocks. Where nobody knows a closed form there is no row.
    """
    rows = [*_norms(depths, width), *_cosines(depths)]
    return [{"study": "init-dense", "width": width, "seed": seed} | row for row in rows]


def _norms(depths: Sequence[int], width: int) -> Iterator[Row]:
    """Yield log10 of the gradient's norm: half the logarithm of its square."""
    for depth in depths:
        reached = [block for block in measured_blocks(depths) if block <= depth]
        growth = {
            "plain-bn": math.log(batchnorm_growth(INPUTS)),
            "residual": math.log(2),
            "scaled": math.log1p(1 / depth),
            "skipinit": 0.0,
            "fixup": 0.0,
            "plain": log_growth(width, weights="gaussian"),
            "orthogonal": log_growth(width, weights="orthogonal"),
        }
        left = depth - np.array(reached, np.float64)
        logs = {family: left * rate for family, rate in growth.items()}
        logs["preact"] = preactivation_log_gradient(depth, batch=INPUTS)[reached]
        for family, curve in logs.items():
            row: Row = {"family": family, "depth": depth, "metric": "theory_log10_gradient"}
            for block, value in zip(reached, curve / 2 / LOG10, strict=True):
                yield row | {"unit": block, "value": float(value)}


def _cosines(depths: Sequence[int]) -> Iterator[Row]:
    """Yield the cosine of the gradients at two inputs, for each cosine of the inputs."""
    betas = {"plain": math.inf, "orthogonal": math.inf, "residual": 1.0}
    betas |= {"skipinit": 0.0, "fixup": 0.0}
    for cosine in COSINES:
        for family, depth in product((*betas, "scaled"), depths):
            beta = betas.get(family, depth**-0.5)
            path = correlation_path(cosine, depth=depth, beta=beta)
            row: Row = {"family": family, "unit": 0, "depth": depth, "x": cosine}
            row["value"] = gradient_correlation(path, beta=beta)
            yield row | {"metric": "theory_gradient_cosine"}
