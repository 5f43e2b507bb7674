"""Compare all layers with all layers by centred kernel alignment (CKA), 0 to 1 up to noise.

Shapes: N images in a minibatch, x_l N C H W flattened to N P.
"""

import torch
from torch import Tensor

from resnets.study.probes.residual_chain import Chain, finite
from resnets.study.tables import Row

MINIBATCH = 50


def cka(first: Chain, images: Tensor, second: Chain, others: Tensor) -> Tensor:
    """Return the unbiased minibatch CKA of x_0 to x_n of two networks: n+1 n'+1.

    CKA(X, Y) = sum_b H(K_b, L_b) / sqrt(sum_b H(K_b, K_b) sum_b H(L_b, L_b)) with K = XX', L = YY'
    of each minibatch b and H the unbiased estimate of the independence criterion (Nguyen 2021,
    arXiv 2010.15327, after Kornblith 2019, arXiv 1905.00414, and Song 2012). `others` are the same
    images, as the second network takes them. Linear kernel.
    """
    shape = len(first.blocks) + 1, len(second.blocks) + 1
    sums = torch.zeros(shape, dtype=torch.float64)
    mine, theirs = (torch.zeros(size, dtype=torch.float64) for size in shape)
    for a, b in zip(images.split(MINIBATCH), others.split(MINIBATCH), strict=True):
        if len(a) < 4:  # the estimate divides by N - 3
            continue
        ours, other = _centred_grams(first, a), _centred_grams(second, b)
        sums += torch.einsum("ixy,jxy->ij", ours, other)
        mine += ours.square().sum((1, 2))
        theirs += other.square().sum((1, 2))
    return sums / torch.sqrt(torch.outer(mine, theirs))


def cka_rows(metric: str, first: Chain, images: Tensor, second: Chain, others: Tensor) -> list[Row]:
    """Return the table in long form: `unit` is the first network's block, x the second's."""
    found = cka(first, images, second, others)
    return [
        {"metric": metric, "unit": number, "x": float(other), **finite(value)}
        for number, row in enumerate(found.tolist())
        for other, value in enumerate(row)
    ]


@torch.no_grad()
def _centred_grams(chain: Chain, images: Tensor) -> Tensor:
    """Return a U-centred Gram matrix for each layer: L N N float64.

    The sum over all entries of the product of two of them is N (N - 3) times the unbiased
    estimate H, so the factor leaves the quotient (Szekely & Rizzo 2014; Song 2012).
    """
    grams = []
    for x in chain.stream(images):
        flat = x.flatten(1).double()
        gram = flat @ flat.T
        gram.fill_diagonal_(0)
        n = len(gram)
        rows = gram.sum(0) / (n - 2)
        centred = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
        grams.append(centred.fill_diagonal_(0).cpu())
    return torch.stack(grams)
