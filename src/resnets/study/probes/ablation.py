"""Remove blocks of a trained network and score what is left (Veit 2016, arXiv 1605.06431).

A block is removed by setting its branch to zero; a plain block by the identity, where its input and
output have one shape. Each ablation is scored with the statistics that the batch norms learned, and
(`..._recalibrated`) with those of the images at hand, since it shifts what later norms see.

Shapes: N images, C H W; x_l is the output of block l of n.
"""

import torch
from torch import Tensor

from resnets.study.probes.residual_chain import Block, Chain, Map, batch_statistics, scored, through
from resnets.study.tables import Row


@torch.no_grad()
def remove_each(chain: Chain, images: Tensor, targets: Tensor) -> list[Row]:
    """Score the network without block l, for l = 1 to n (Veit 2016, figure 3).

    Only what follows the block is computed again: n/2 passes instead of n.
    """
    rows: list[Row] = []
    for recalibrated in (False, True):
        with batch_statistics(chain.network, wanted=recalibrated):
            xs = chain.stream(images)
            for number, block in enumerate(chain.blocks, 1):
                logits: Tensor | None = None
                if _removable(block, xs[number - 1], xs[number]):
                    x = through(chain.blocks[number:], block.removed(xs[number - 1]))
                    logits = chain.head(x)
                place = {"unit": number}
                rows += scored("removed", logits, targets, place, recalibrated=recalibrated)
    return rows


@torch.no_grad()
def remove_several(
    chain: Chain, images: Tensor, targets: Tensor, *, draws: int, seed: int
) -> list[Row]:
    """Score the network without x random blocks, x = 1, 2, 4, ... (Veit 2016, figure 5a)."""
    xs = chain.stream(images[:1])
    ends = zip(chain.blocks, xs, xs[1:], strict=False)
    removable = [place for place, (block, a, b) in enumerate(ends) if _removable(block, a, b)]
    generator = torch.Generator().manual_seed(seed)
    rows: list[Row] = []
    for count in (2**power for power in range(len(removable).bit_length())):
        for draw in range(draws):
            order = torch.randperm(len(removable), generator=generator).tolist()
            gone = {removable[place] for place in order[:count]}
            place: Row = {"x": float(count), "draw": draw}
            rows += without(chain, gone, images, targets, metric="removed_several", place=place)
    return rows


@torch.no_grad()
def without(
    chain: Chain, gone: set[int], images: Tensor, targets: Tensor, *, metric: str, place: Row
) -> list[Row]:
    """Score the network without the blocks at the places `gone`, counted from 0."""
    maps: list[Map] = [b.removed if i in gone else b for i, b in enumerate(chain.blocks)]
    rows: list[Row] = []
    for recalibrated in (False, True):
        with batch_statistics(chain.network, wanted=recalibrated):
            logits = chain.head(through(maps, chain.stem(images)))
        rows += scored(metric, logits, targets, place, recalibrated=recalibrated)
    return rows


def _removable(block: Block, before: Tensor, after: Tensor) -> bool:
    """A shortcut fits whatever it is; the identity only where the shape stays."""
    return block.shortcut is not None or before.shape == after.shape
