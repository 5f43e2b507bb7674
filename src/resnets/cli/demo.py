"""Provide `resnets demo`: training, evaluation and prediction on the embedded images."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from resnets.cli.flags import Device, Switch, default
from resnets.cli.output import print_result
from resnets.cli.train import announce

SECONDS = 160.0
NUM_EXAMPLES = 6


@dataclass(frozen=True)
class Demo:
    """Train resnet20 on the embedded Fashion-MNIST subset, evaluate it, classify some images.

    It takes about three minutes on two CPU cores and leaves an ordinary run folder.
    """

    out: Annotated[Path | None, default("runs/demo-NNN")] = None
    """run folder, new or empty"""
    time: str = f"{SECONDS:g}s"
    """wall-clock time from start to finished run folder"""
    device: Device = "auto"
    """where to compute"""
    quiet: Switch = False
    """print the results only"""
    leaves_files: ClassVar[bool] = True

    def run(self, started: float) -> int:
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
        print_result()
        print_result(f"{len(images)} test images, the true class in the file name:")
        for image, guess in zip(images, api.predict(result.folder, images, top=2), strict=True):
            pairs = zip(guess.classes, guess.probabilities, strict=True)
            shown = ", ".join(f"{name} {probability:.0%}" for name, probability in pairs)
            print_result(f"  {image.name:22} {shown}")
        run, resnets = shlex.quote(str(result.folder)), program()
        for line in (
            *("", "try next"),
            f"  open {run}/report.html in a browser",
            f"  {resnets} predict {run} {run}/examples --top 3",
            f"  {resnets} evaluate {run} fashion-mini",
            f"  {resnets} train FOLDER --time 10m      FOLDER holds one folder of images a class",
        ):
            print_result(line)
        return 0


def write_examples(folder: Path) -> Path:
    """Write one embedded test image of each of the first classes as a PNG file."""
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
