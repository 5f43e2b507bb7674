"""Measure each block: the size of outputs and gradients, what it adds to the stream and enables.

Shapes: N images, C H W, K classes; x_l is the output of block l of n, x_0 that of the stem, F_l
what its branch adds to the shortcut S(x_(l-1)), g = dL/dx_(l-1).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnets.study.probes.residual_chain import Chain, batch_statistics, finite, scored, through
from resnets.study.tables import Row

# Penalty of the linear probes, as a share of the features' mean square.
RIDGE = 1e-2


@torch.no_grad()
def layer_responses(chain: Chain, images: Tensor) -> list[Row]:
    """Measure the standard deviation of each layer's response over N, C, H, W.

    The response of a convolution is its norm's output, before the ReLU or the addition (He 2015,
    arXiv 1512.03385, figure 7); in pre-activation order, where the norm is first, the norm's;
    without norms the convolution's own. The column `x` counts the layers of the blocks from 1,
    `unit` is the block.
    """
    rows: list[Row] = []

    def keep(block: int, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        place = {"unit": block, "x": float(len(rows) + 1)}
        rows.append({"metric": "response_std", **place, **finite(float(output.std()))})

    for number, (block, x) in enumerate(zip(chain.blocks, chain.stream(images), strict=False), 1):
        layers = _responding(block.residual)
        hooks = [layer.register_forward_hook(partial(keep, number)) for layer in layers]
        block.residual(x)
        for hook in hooks:
            hook.remove()
    return rows


def _responding(residual: nn.Module) -> list[nn.Module]:
    """The norms of a branch, or its convolutions where it has none."""
    children = list(residual.children())
    norms = [layer for layer in children if isinstance(layer, _BatchNorm | nn.GroupNorm)]
    if not norms:
        return [layer for layer in children if isinstance(layer, nn.Conv2d)]
    # timm's norms with a ReLU inside pass their output through `drop`, which does nothing, first.
    return [dict(layer.named_children()).get("drop", layer) for layer in norms]


def gradient_profile(chain: Chain, images: Tensor, targets: Tensor) -> list[Row]:
    """Measure ||dL/dx_l|| for l = 0 to n, L the mean cross-entropy of the batch.

    Batch norms use the batch's own statistics, as in training (Yang 2019, arXiv 1902.08129).
    """
    with batch_statistics(chain.network):
        _, gradients = chain.gradients(images, targets, reduction="mean")
    return [
        {"metric": "gradient_x", "unit": number, **finite(float(gradient.double().norm()))}
        for number, gradient in enumerate(gradients)
    ]


def branch_use(chain: Chain, images: Tensor, targets: Tensor) -> list[Row]:
    """Measure ||F_l|| / ||S(x_(l-1))|| and cos(F_l, -dL/dx_(l-1)), means over images; per block.

    The ratio is the share of the stream that a block rewrites; the cosine whether it steps against
    the gradient of the loss (iterative inference: Jastrzebski 2018, arXiv 1710.04773). Evaluation
    mode, sum of the images' losses. A plain block has no shortcut to compare with.
    """
    xs, gradients = chain.gradients(images, targets, reduction="sum")
    rows: list[Row] = []
    for number, (block, x, g) in enumerate(zip(chain.blocks, xs, gradients, strict=False), 1):
        ratio: Row = {"status": "no shortcut"}
        angle = ratio
        if block.shortcut is not None:
            with torch.no_grad():
                added, kept = block.residual(x).flatten(1), block.shortcut(x).flatten(1)
                sizes = kept.norm(dim=1).clamp_min(torch.finfo(kept.dtype).tiny)
                ratio = finite(float((added.norm(dim=1) / sizes).mean()))
            angle = _angle(added, g.flatten(1))
        rows.append({"metric": "branch_ratio", "unit": number, **ratio})
        rows.append({"metric": "branch_angle", "unit": number, **angle})
    return rows


def _angle(added: Tensor, gradient: Tensor) -> Row:
    if added.shape != gradient.shape:
        return {"status": "shapes differ"}
    # Gradients of images that are certain are tiny: in float32 their squares would be zero.
    added, gradient = added.double(), gradient.double()
    least = torch.finfo(torch.float64).tiny
    lengths = [part.norm(dim=1, keepdim=True).clamp_min(least) for part in (added, gradient)]
    cosine = ((added / lengths[0]) * (-gradient / lengths[1])).sum(1)
    return finite(float(cosine.mean()))


@torch.no_grad()
def logit_lens(chain: Chain, images: Tensor, targets: Tensor) -> list[Row]:
    """Measure error and loss of the network's own head on x_l, for l = 0 to n.

    x_l is carried to the head by the shortcuts alone, which is the network with every later block
    removed (nostalgebraist 2020, "interpreting GPT"; for residual networks Jastrzebski 2018). In a
    plain network only the last stage has the head's shape; there x_l goes to it as it is.
    """
    xs = chain.stream(images)
    rows: list[Row] = []
    for number, x in enumerate(xs):
        x = through([block.removed for block in chain.blocks[number:]], x)
        logits = chain.head(x) if x.shape == xs[-1].shape else None
        rows += scored("lens", logits, targets, {"unit": number})
    return rows


@torch.no_grad()
def linear_probes(chain: Chain, images: Tensor, targets: Tensor) -> list[Row]:
    """Measure the error of a ridge regression on the channel means of x_l, for l = 0 to n.

    It is fitted on the first half of the images and scored on the second: W = (Z'Z + lambda I)^-1
    Z'Y with Z N C the centred and scaled means, Y N K one-hot, centred (Alain & Bengio 2016, arXiv
    1610.01644, with the closed form in place of descent). lambda is RIDGE times N.
    """
    half, targets = len(images) // 2, targets.cpu()
    targets_of = F.one_hot(targets, int(targets.max()) + 1).double()
    rows: list[Row] = []
    for number, x in enumerate(chain.stream(images)):
        features = x.mean((2, 3)).double().cpu()  # N C
        spread, mean = torch.std_mean(features[:half], 0)
        z = (features - mean) / spread.clamp_min(1e-12)
        shift = targets_of[:half].mean(0)
        gram = z[:half].T @ z[:half] + RIDGE * half * torch.eye(z.shape[1], dtype=z.dtype)
        weights = torch.linalg.solve(gram, z[:half].T @ (targets_of[:half] - shift))  # C K
        guess = (z[half:] @ weights + shift).argmax(1)
        error = float((guess != targets[half:]).double().mean())
        rows.append({"metric": "probe_error", "unit": number, "value": error})
    return rows
