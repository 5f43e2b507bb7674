"""Split the gradient of the loss by the length of the paths that it takes (Veit 2016, 1605.06431).

Expand x_l = merge(S_l(x_(l-1)) + F_l(x_(l-1))) over n blocks, and 2^n paths appear, each through k
branches and n - k shortcuts. All are added exactly: a block need only know how many branches came
before it. Float64 and evaluation mode, where a batch norm is an affine map and images do not meet.

Shapes: N images, C H W; G_k N C H W at any block.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resnets.study.probes.adapters import in_float64
from resnets.study.probes.residual_chain import Block, Chain, finite
from resnets.study.tables import Row

# Relative difference allowed between the sum of all parts and the ordinary gradient.
TOLERANCE = 1e-5
IMAGES = 16
# Bytes that the parts may take; of large images fewer are used.
MEMORY = 2**29
TAIL = 0.025

Transposed = Callable[[Tensor], Tensor]  # g -> J'g


@dataclass(frozen=True, eq=False)
class PathSpectrum:
    """G_k for k = 0 to n at the stem's output, beside the ordinary gradient there."""

    parts: Tensor  # n+1 N C H W
    ordinary: Tensor  # N C H W

    @property
    def mismatch(self) -> float:
        """||sum_k G_k - g|| / ||g||."""
        return float((self.parts.sum(0) - self.ordinary).norm() / self.ordinary.norm())

    @property
    def energy(self) -> Tensor:
        """||G_k||^2 / sum_j ||G_j||^2: n+1 shares."""
        squares = self.parts.flatten(1).square().sum(1)
        return squares / squares.sum()


def path_spectrum(chain: Chain, images: Tensor, targets: Tensor) -> PathSpectrum:
    """Add up all 2^n paths by dynamic programming, from the loss back to the stem.

    G_k is the summed gradient of all paths from the loss to x_l with exactly k branches. At the end
    G_0 = dL/dx_n; through block l, G_k <- S_l' m G_k + F_l' m G_(k-1), with m the derivative of the
    merge. L is the sum of the images' cross-entropies. A plain network has one path, of length n.
    """
    chain = in_float64(chain)
    xs, gradients = chain.gradients(images.double(), targets, reduction="sum")
    parts = gradients[-1][None]
    for block, x in zip(reversed(chain.blocks), reversed(xs[:-1]), strict=True):
        merge, shortcut, branch = _transposed(block, x)
        merged = [merge(part) for part in parts]
        longer = _each(branch, merged, like=x)
        parts = torch.cat([torch.zeros_like(longer[:1]), longer])
        if shortcut is not None:
            parts[:-1] += _each(shortcut, merged, like=x)
    return PathSpectrum(parts, gradients[0])


def path_rows(chain: Chain, images: Tensor, targets: Tensor) -> list[Row]:
    """Return the spectrum as a table; x is the path's length in branches.

    `path_energy` is exact; `path_count` the share of paths, C(n, k) / 2^n.
    """
    count = _fitting(chain, images)
    spectrum = path_spectrum(chain, images[:count], targets[:count])
    if spectrum.mismatch > TOLERANCE:
        raise ArithmeticError(
            f"the gradients of all paths differ from the whole by {spectrum.mismatch:.1e}"
        )
    n = len(chain.blocks)
    counts = [math.comb(n, k) / 2**n for k in range(n + 1)]
    curves = {"path_energy": spectrum.energy.tolist(), "path_count": counts}
    rows: list[Row] = []
    for name, values in curves.items():
        rows += [{"metric": name, "x": float(k), **finite(v)} for k, v in enumerate(values)]
    for name in sorted(curves):
        summary = _summary(curves[name])
        rows += [{"metric": f"{name}_{what}", **finite(v)} for what, v in summary.items()]
    return [*rows, {"metric": "path_mismatch", **finite(spectrum.mismatch)}]


@torch.no_grad()
def _fitting(chain: Chain, images: Tensor) -> int:
    """How many images fit into MEMORY."""
    largest = max(x.numel() for x in chain.stream(images[:1]))
    return max(1, min(IMAGES, len(images), MEMORY // (8 * 3 * (len(chain.blocks) + 1) * largest)))


def _transposed(block: Block, x: Tensor) -> tuple[Transposed, Transposed | None, Transposed]:
    """The transposed Jacobians of merge, shortcut and branch at the input x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        added = block.residual(x)
        kept = None if block.shortcut is None else block.shortcut(x)
        total = (added if kept is None else kept + added).detach().requires_grad_()
        merged = block.merge(total)

    def back(output: Tensor, source: Tensor) -> Transposed:
        return lambda g: torch.autograd.grad(output, source, g, retain_graph=True)[0]

    return back(merged, total), None if kept is None else back(kept, x), back(added, x)


def _each(step: Transposed, parts: Sequence[Tensor], *, like: Tensor) -> Tensor:
    """The step for every part; parts without any path, all zeros, stay so."""
    return torch.stack([step(part) if part.any() else torch.zeros_like(like) for part in parts])


def _summary(shares: Sequence[float]) -> dict[str, float]:
    """Mean length, and the lengths between which 95 % of the shares lie; nan without shares."""
    mean = math.fsum(k * share for k, share in enumerate(shares))
    sums = [math.fsum(shares[: k + 1]) for k in range(len(shares))]
    low = next((k for k, sum_ in enumerate(sums) if sum_ >= TAIL), math.nan)
    high = next((k for k, sum_ in enumerate(sums) if sum_ >= 1 - TAIL), math.nan)
    return {"mean": mean, "low": float(low), "high": float(high)}
