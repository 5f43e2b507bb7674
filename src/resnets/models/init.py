"""Provide weight initialisation: He 2015b, Dirac, orthogonal, and Fixup.

Norms start at 1 and 0, biases at 0, and `fc` as PyTorch makes it.

Shapes: O channels out, I channels in, K the side of a filter.
"""

import math

import torch
from torch import Tensor, nn

from resnets.models.blocks import last_weighted_layer
from resnets.models.config import ResNetConfig


def initialise(network: nn.Module, config: ResNetConfig) -> None:
    """Draw all convolutions in torchvision's order, so that a seed gives its weights.

    `config.init` is for the blocks. The stem always has He's initialisation.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            in_block = name.startswith("layer")
            initialise_convolution(module.weight, init=config.init if in_block else "fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if config.residual_init not in ("zero", "fixup"):
        return
    stages = [stage for name, stage in network.named_children() if name.startswith("layer")]
    blocks = [block for stage in stages for block in stage.children()]
    zeroed = [last_weighted_layer(block) for block in blocks]
    if config.residual_init == "fixup":
        zeroed.append(network.get_submodule("fc"))
        for block in blocks:
            _shrink(block, num_blocks=len(blocks))
    for layer in zeroed:
        for parameter in layer.parameters(recurse=False):
            nn.init.zeros_(parameter)


@torch.no_grad()
def initialise_convolution(weight: Tensor, *, init: str) -> None:
    """Fill filters O I K K with initial values.

    fan_out and fan_in: He 2015b (arXiv 1502.01852). dirac: the identity and a little noise
    (Zagoruyko 2017, arXiv 1706.00388). orthogonal: an orthogonal matrix at the filter's centre
    times sqrt(2) for the ReLU, zeros around it (Xiao 2018, arXiv 1806.05393).
    """
    if init in ("fan_out", "fan_in"):
        nn.init.kaiming_normal_(weight, mode=init, nonlinearity="relu")  # type: ignore[arg-type]
    elif init == "dirac":
        # Differs from the paper: initial values only; there the two factors are learned.
        noise = torch.randn(weight.shape)
        length = noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        nn.init.dirac_(weight).add_(0.1 * noise / length)  # of length 0.1, the paper's b
    else:
        matrix = nn.init.orthogonal_(torch.empty(weight.shape[:2]), gain=math.sqrt(2))
        nn.init.zeros_(weight)[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = matrix


@torch.no_grad()
def _shrink(block: nn.Module, *, num_blocks: int) -> None:
    """Scale m convolutions by num_blocks^(-1/(2m-2)) (Fixup, arXiv 1901.09321, section 3)."""
    convolutions = [layer for layer in block.children() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        layer.weight.mul_(num_blocks ** (-1 / (2 * len(convolutions) - 2)))
