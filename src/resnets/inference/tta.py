"""A second look at the images that a network is unsure about.

Enters: a network, N C H W -> N K, and the views that a model file names. Leaves: a network with the
same answers where it is sure, and elsewhere the mean of its answers to several views of the image.

The idea: the answer to an image and to its mirror image differ only where they are near another
class, so the mean helps there and nowhere else (views: Jordan, arXiv 2404.00498, section 3.5).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SURE = 0.6
"""probability of the likeliest class from which one look is enough"""


class TTAModel(nn.Module):
    """`mirror` adds the mirror image; `six` both of them, shifted by a pixel to two corners.

    The image and its mirror image weigh as much as all that is shifted.
    """

    def __init__(self, network: nn.Module, *, tta: str) -> None:
        super().__init__()
        self.network = network
        self.shifts = () if tta == "mirror" else ((0, 0), (2, 2))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).float()  # N C H W -> N K
        unsure = (logits.softmax(1).amax(1) < SURE).nonzero().flatten()
        if not len(unsure):
            return logits
        some = images[unsure]
        answer = (logits[unsure] + self.network(some.flip(3))) / 2
        if self.shifts:
            shifted = sum(self._both(some, *shift) for shift in self.shifts)
            answer = (answer + shifted / len(self.shifts)) / 2
        return logits.index_copy(0, unsure, answer)

    def _both(self, images: Tensor, top: int, left: int) -> Tensor:
        """Of the image shifted by one pixel, with a reflected border, and of its mirror image."""
        height, width = images.shape[2:]
        padded = F.pad(images, [1, 1, 1, 1], mode="reflect")
        moved = padded[:, :, top : top + height, left : left + width]
        answer: Tensor = (self.network(moved) + self.network(moved.flip(3))) / 2
        return answer


def with_tta(network: nn.Module, tta: str) -> nn.Module:
    """The network itself where one view is all."""
    return network if tta == "none" else TTAModel(network, tta=tta)
