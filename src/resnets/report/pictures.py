"""Images in (H W C, 8 bits); grids of pictures with captions out, as HTML that holds the bytes.

Small images are shown enlarged with hard pixels, as PNG; photos are scaled down, as JPEG.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np

MOST_PICTURES = 48  # in one grid: the page stays near a megabyte
SMALL = 96  # pixels, the longer side: up to here every pixel is kept
_PHOTO = 208  # pixels, the longer side of a photo on the page


def grid(pictures: Sequence[tuple[np.ndarray, str]]) -> str:
    """Pictures with their captions, which are HTML already."""
    figures = "\n".join(
        f'<figure><div class="frame">{_picture(image)}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
        for image, caption in pictures[:MOST_PICTURES]
    )
    return f'<div class="pictures">\n{figures}\n</div>'


def _picture(pixels: np.ndarray) -> str:
    height, width, channels = pixels.shape
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    buffer = io.BytesIO()
    if max(height, width) <= SMALL:
        image.save(buffer, "PNG", optimize=True)
        kind, style = "png", "pixels"
    else:
        image.thumbnail((_PHOTO, _PHOTO), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=82, optimize=True)
        kind, style = "jpeg", "photo"
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="{style}" alt="" src="data:image/{kind};base64,{data}">'
