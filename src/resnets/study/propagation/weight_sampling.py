"""Sample the weights of single blocks, under three laws from one Gaussian draw.

Block l's weights are a function of (seed, draw, l), made again by each pass.

Shapes: D draws, N images, R members, C channels, H W sides; U blocks.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resnets.study.propagation.init_variants import Weights

# DiracNets start as 1 I + 0.1 W, the rows of W of length 1 (Zagoruyko 2017).
DIRAC_SHARE = 0.1


@dataclass(frozen=True)
class Dense:
    """Fully connected layers of one width."""

    width: int

    @property
    def name(self) -> str:
        return f"dense {self.width}"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def kernel(self) -> tuple[int, ...]:
        return (self.width, self.width)

    def make(self, gaussian: Tensor, law: Weights) -> Tensor:
        """Turn standard normals into weights, for several blocks and draws: ... C' C."""
        if law == "gaussian":
            return gaussian * math.sqrt(2 / self.width)
        if law == "orthogonal":
            return haar(gaussian) * math.sqrt(2)
        return torch.eye(self.width) + gaussian * (DIRAC_SHARE * inverse_norm(gaussian, dims=-1))

    def apply(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """Apply each draw's own weights D C' C: D N R C -> D N R C'."""
        return (inputs.flatten(1, 2) @ weights.mT).view(inputs.shape)

    def pull(self, gradients: Tensor, weights: Tensor) -> Tensor:
        """Apply the transposed map: D N R C' -> D N R C."""
        return (gradients.flatten(1, 2) @ weights).view(gradients.shape)


@dataclass(frozen=True)
class Convolution:
    """3x3 convolutions of one width on square periodic maps, where no signal is lost at edges.

    The orthogonal law is Xiao 2018's delta-orthogonal.
    """

    width: int
    side: int

    @property
    def name(self) -> str:
        return f"conv {self.width}"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width, self.side, self.side)

    @property
    def kernel(self) -> tuple[int, ...]:
        return (self.width, self.width, 3, 3)

    def make(self, gaussian: Tensor, law: Weights) -> Tensor:
        """Turn standard normals into weights, for several blocks and draws: ... C' C 3 3."""
        if law == "gaussian":
            return gaussian * math.sqrt(2 / (9 * self.width))
        weights = torch.zeros_like(gaussian)
        if law == "orthogonal":
            weights[..., 1, 1] = haar(gaussian[..., 1, 1]) * math.sqrt(2)
            return weights
        weights[..., 1, 1] = torch.eye(self.width)
        return weights + gaussian * (DIRAC_SHARE * inverse_norm(gaussian, dims=(-3, -2, -1)))

    def apply(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """Apply each draw's own weights D C' C 3 3: D N R C H W -> D N R C' H W."""
        rows = F.pad(inputs.flatten(0, 2), (1, 1, 1, 1), mode="circular")
        draws = rows.view(len(weights), -1, *rows.shape[1:])
        maps = [F.conv2d(x, w) for x, w in zip(draws, weights, strict=True)]
        return torch.stack(maps).view(inputs.shape)

    def pull(self, gradients: Tensor, weights: Tensor) -> Tensor:
        """Apply the transposed map: the mirrored filters, in and out exchanged."""
        return self.apply(gradients, weights.flip(3, 4).transpose(1, 2))


Layer = Dense | Convolution


def haar(gaussian: Tensor) -> Tensor:
    """Make uniformly distributed orthogonal matrices from Gaussian ones, ... n n -> ... n n.

    Stewart 1980: the product of reflections of n, n-1, ... 1 Gaussian numbers, the columns of the
    lower triangle. The signs are those that QR would need to make its R positive.
    """
    size = gaussian.shape[-1]
    lower = gaussian * torch.ones(size, size).tril()
    first = lower.diagonal(dim1=-2, dim2=-1)[..., None, :]
    inverse = inverse_norm(lower, dims=-2)
    signs = torch.where(first < 0, -1.0, 1.0)
    taus = (1 + first.abs() * inverse)[..., 0, :]
    reflectors = lower * (inverse / (first * inverse + signs))
    product: Tensor = torch.linalg.householder_product(reflectors, taus)
    return product * -signs


def inverse_norm(values: Tensor, *, dims: int | tuple[int, ...]) -> Tensor:
    """Return one over the Euclidean length along some dimensions, which stay with size 1."""
    return values.square().sum(dims, keepdim=True).rsqrt()


def draw(kernel: tuple[int, ...], *, seed: int, draws: Sequence[int], blocks: range) -> Tensor:
    """Draw the standard normals of blocks and draws, in any portions the same: U D ..."""
    # Of a seed the generator uses 32 bits, and spreads neighbouring ones well.
    starts = [zlib.crc32(f"{seed} {draw}".encode()) for draw in draws]
    key = torch.Generator()
    out = torch.empty(len(blocks), len(starts), *kernel)
    for place, block in enumerate(blocks):
        for start, one in zip(starts, out[place], strict=True):
            one.normal_(generator=key.manual_seed((start + block) % 2**32))
    return out
