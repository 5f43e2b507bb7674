"""Held-out answers from a kernel on image patches: no training, and each image is left out once.

Small patches of the images themselves, whitened, are the filters of one convolution; its rectified
answers are averaged over the cells of a grid (Coates, Lee and Ng, AISTATS 2011). Ridge regression
on a kernel of these features has a closed form for the answer to an image that is left out.
N S F K: images, their side, filters, classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Indices = NDArray[np.int64]

# Filters of a bank, the patches from which their whitening is estimated, and its regularisation.
FILTERS, PATCHES, WHITENING = 256, 40_000, 0.1
# Images that are answered for together: the kernel is a matrix of this side.
MOST_TOGETHER = 5000
# Width of the kernel and weight of the ridge.
GAMMA, RIDGE = 0.3, 0.1
# Variance of a patch below which its contrast is not raised to that of others, in grey levels.
FLAT = 10.0
# Images of one multiplication, few enough for the caches of a processor.
CHUNK = 4


@dataclass(frozen=True)
class Bank:
    """Settings of one set of filters.

    Args:
        side: Pixels of a patch along a side.
        threshold: Answers below it count as none.
        cells: Cells of the grid along a side.
    """

    side: int
    threshold: float
    cells: int


BANKS = (Bank(6, 1.2, 4), Bank(8, 1.0, 3))


def held_out_scores(images: Tensor, targets: Tensor, groups: Indices) -> Tensor:
    """Return how much each image resembles each class, judged without its own label.

    Args:
        images: uint8 N 3 S S.
        targets: Classes, N.
        groups: Images of one group are copies, which are left out together, N.

    Returns:
        Scores, larger for likelier classes, N K.
    """
    labels = F.one_hot(targets).float()
    prior = labels.mean(0)
    generator = torch.Generator().manual_seed(0)
    filters = [_whitened_patches(images, bank.side, generator) for bank in BANKS]
    scores = torch.zeros_like(labels)
    for rows in _together(groups):
        where = torch.from_numpy(rows).to(images.device)
        chosen = images[where]
        products = torch.zeros((), device=images.device)
        for bank, (weights, bias) in zip(BANKS, filters, strict=True):
            products = products + _products(_features(chosen, bank, weights, bias)) / len(BANKS)
        scores[where] = prior + _leave_out(products, labels[where] - prior, groups[rows])
    return scores


def _together(groups: Indices) -> Iterator[Indices]:
    """Divide the images at random, groups whole, so that about MOST_TOGETHER come together."""
    _, number = np.unique(groups, return_inverse=True)
    blocks = -(-len(groups) // MOST_TOGETHER)
    block_of_group = np.random.PCG64(0).random_raw(int(number.max()) + 1).argsort() % blocks
    for block in range(blocks):
        yield np.flatnonzero(block_of_group[number] == block)


def _normalised(patches: Tensor) -> Tensor:
    """Give each patch, the last dimension, the mean 0 and, if it has contrast, the variance 1."""
    patches = patches - patches.mean(-1, keepdim=True)
    return patches / (patches.square().mean(-1, keepdim=True) + FLAT).sqrt_()


def _whitened_patches(
    images: Tensor, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return filters, C*side*side F, and biases F, that compare whitened patches to examples."""
    places = images.shape[-1] - side + 1
    size = (PATCHES,)
    image = torch.randint(0, len(images), size, generator=generator).to(images.device)
    top = torch.randint(0, places, size, generator=generator).to(images.device)
    left = torch.randint(0, places, size, generator=generator).to(images.device)
    windows = images.unfold(2, side, 1).unfold(3, side, 1)  # N C H W side side, a view
    patches = _normalised(windows[image, :, top, left].flatten(1).float())
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    whitening = vectors * (values.clamp(min=0) + WHITENING).rsqrt() @ vectors.T
    examples = F.normalize((patches[:FILTERS] - mean) @ whitening)
    filters = whitening @ examples.T
    return filters, -mean @ filters


def _features(images: Tensor, bank: Bank, filters: Tensor, bias: Tensor) -> Tensor:
    """Return the rectified answers, both signs, of images and their mirror images, by cell."""
    places = images.shape[-1] - bank.side + 1
    cells = _cells(places, bank.cells).to(images.device)
    features = []
    for part in images.split(CHUNK):
        chunk = part.float()
        total = torch.zeros((), device=images.device)
        for shown in (chunk, chunk.flip(3)):
            windows = shown.unfold(2, bank.side, 1).unfold(3, bank.side, 1)
            patches = _normalised(windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2))
            answers = torch.addmm(bias, patches, filters).view(len(shown), places**2, -1)
            high = cells @ answers.clamp(min=bank.threshold) - bank.threshold
            low = -bank.threshold - cells @ answers.clamp(max=-bank.threshold)
            total = total + torch.cat([high, low], 2)  # N cells 2F
        features.append(total.flatten(1))
    return torch.cat(features)


def _cells(places: int, cells: int) -> Tensor:
    """Return the weights that average each cell of a grid, cells**2 places**2."""
    edges = [(k * places // cells, -(-(k + 1) * places // cells)) for k in range(cells)]
    weights = torch.zeros(cells, cells, places, places)
    for row, (top, bottom) in enumerate(edges):
        for column, (left, right) in enumerate(edges):
            weights[row, column, top:bottom, left:right] = 1 / ((bottom - top) * (right - left))
    return weights.flatten(2).flatten(0, 1)


def _products(features: Tensor) -> Tensor:
    """Return scalar products of the features' square roots, scaled to one spread, N N."""
    roots = features.clamp_(min=0).sqrt_()
    roots -= roots.mean(0)
    roots /= roots.std(0) + 0.01 * roots.std() + 1e-6
    products = roots @ roots.T
    products /= products.diagonal().mean().clamp(min=1e-6)
    return products


def _leave_out(products: Tensor, labels: Tensor, groups: Indices) -> Tensor:
    """Return the ridge regression's answer for each image without its group's labels, N K."""
    squares = products.diagonal()
    kernel = torch.exp(GAMMA * (2 * products - squares[:, None] - squares))
    kernel.diagonal().add_(RIDGE)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
    weights = inverse @ labels
    answers = labels - weights / inverse.diagonal()[:, None]
    _, number, counts = np.unique(groups, return_inverse=True, return_counts=True)
    for group in np.flatnonzero(counts > 1):
        rows = torch.from_numpy(np.flatnonzero(number == group)).to(labels.device)
        within = inverse[rows][:, rows]
        answers[rows] = labels[rows] - torch.linalg.solve(within, weights[rows])
    return answers
