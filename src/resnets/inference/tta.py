"""Provide test-time augmentation for the images that a network is unsure about.

The logits of an image and of its mirror image differ where they are near another class, so their
mean helps there and nowhere else (views: Jordan, arXiv 2404.00498, section 3.5).
"""

import torch.nn.functional as F
from torch import Tensor, nn

# Probability of the most probable class from which the image itself is enough.
CONFIDENT = 0.6


class TTAModel(nn.Module):
    """Average the logits of several views of each image that the network is unsure about.

    "mirror" adds the mirror image; "six" also both of them shifted by a pixel to two corners. The
    image and its mirror image have the same weight as all shifted views together.
    """

    def __init__(self, network: nn.Module, *, tta: str) -> None:
        super().__init__()
        self.network = network
        self.six = tta == "six"

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).float()  # N C H W -> N K
        unsure = (logits.softmax(1).amax(1) < CONFIDENT).nonzero().flatten()
        if not len(unsure):
            return logits
        some = images[unsure]
        mean = (logits[unsure] + self.network(some.flip(3))) / 2
        if self.six:
            height, width = some.shape[2:]
            padded = F.pad(some, [1, 1, 1, 1], mode="reflect")
            corners = (padded[:, :, :height, :width], padded[:, :, 2:, 2:])
            shifted = sum((self.network(x) + self.network(x.flip(3))) / 2 for x in corners)
            mean = (mean + shifted / 2) / 2
        return logits.index_copy(0, unsure, mean)


def with_tta(network: nn.Module, tta: str) -> nn.Module:
    """Return the network with test-time augmentation, or itself for "none"."""
    return network if tta == "none" else TTAModel(network, tta=tta)
