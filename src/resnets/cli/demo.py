"""`resnets demo`: the main job on the embedded images, from nothing to predictions."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from resnets.cli.flags import Device
from resnets.cli.train import announce

SECONDS = 160.0
NUM_EXAMPLES = 6


@dataclass(frozen=True)
class Demo:
    """Train resnet20 on the embedded Fashion-MNIST subset, evaluate it, predict some images.

    About two and a half minutes on two CPU cores; the run folder is a real one.
    """

    out: Path | None = None
    """run folder, new or empty; runs/demo-NNN when left out"""
    time: str = f"{SECONDS:g}s"
    """wall clock from start to finished run folder"""
    device: Device = "auto"
    """where to compute"""
    quiet: bool = False
    """print the results only"""

    def run(self, started: float) -> int:
        """Train, evaluate, predict, say what to try next."""
        from resnets import api
        from resnets.cli.progress import Display, program

        with Display(quiet=self.quiet) as display:
            result = api.train(
                "fashion-mini",
                model="resnet20",
                time=self.time,
                out=self.out,
                name="demo",
                device=self.device,
                log=display,
                started=started,
            )
        code = announce(result)
        if code:
            return code
        folder = write_examples(result.folder / "examples")
        images = sorted(folder.glob("*.png"))
        print(f"\n{len(images)} test images, the true class in the file name:")
        for image, guess in zip(images, api.predict(result.folder, images, top=2), strict=True):
            pairs = zip(guess.classes, guess.probabilities, strict=True)
            shown = ", ".join(f"{name} {probability:.0%}" for name, probability in pairs)
            print(f"  {image.name:22} {shown}")
        run, resnets = shlex.quote(str(result.folder)), program()
        print(
            f"\ntry next\n"
            f"  open {run}/report.html in a browser\n"
            f"  {resnets} predict {run} {run}/examples --top 3\n"
            f"  {resnets} evaluate {run} fashion-mini\n"
            f"  {resnets} train FOLDER --time 10m      FOLDER holds one folder of images a class"
        )
        return 0


def write_examples(folder: Path) -> Path:
    """A few embedded test images as PNG files, one each of the first classes."""
    import numpy as np
    from PIL import Image

    from resnets.data import open_data

    data = open_data("fashion-mini")
    test = data.splits["test"]
    folder.mkdir()
    for target in range(NUM_EXAMPLES):
        index = int(np.flatnonzero(test.targets == target)[0])
        name = data.classes[target].replace("/", "-").replace(" ", "-").lower()
        Image.fromarray(test.read(index, 1)[:, :, 0]).save(folder / f"{name}.png")
    return folder
