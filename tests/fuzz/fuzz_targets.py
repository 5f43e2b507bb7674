"""What reads the files of strangers, as functions of bytes: anything but UserError is a finding."""

import io
import json
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from resnets.data.decode import decode
from resnets.data.transforms import Preprocess
from resnets.errors import UserError
from resnets.inference.model_file import ModelFile, read_model, save_model
from resnets.models.config import ResNetConfig
from resnets.models.pretrained import read_tensors
from resnets.models.resnet import ResNet
from resnets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnets.training.recipe import Recipe
from resnets.training.reproducibility import RunFingerprint
from resnets.training.run_dir import RunDir

FINDINGS = Path(__file__).parent / "findings"
# A picture of the allowed size takes a second, which is no finding.
MOST_PIXELS = 2**22
# The files of a run folder that are JSON, in the order in which their fuzzed bytes are joined.
RUN_FILES = ("config.json", "data.json", "environment.json", "metrics.jsonl")


@dataclass(frozen=True)
class Target:
    """One reader: `run` gets bytes, and `seeds` are good ones, from which the fuzzer starts."""

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]

    def __call__(self, content: bytes) -> bool:
        """Return whether the content was accepted; let everything but UserError escape."""
        try:
            self.run(content)
        except UserError:
            return False
        return True


def picture_seeds() -> list[bytes]:
    """Return a small picture in each format and in the modes that need a conversion."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    made = [
        ("JPEG", "RGB", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {"progressive": True}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("WEBP", "RGBA", {}),
        ("TIFF", "LAB", {}),
        ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
    ]
    seeds = []
    for kind, mode, options in made:
        image = Image.fromarray(noise, "RGBA" if mode == "RGBA" else None)
        image = image if mode == "RGBA" else Image.fromarray(noise[..., :3]).convert(mode)
        seeds.append(_saved(image, kind, **options))
    wide = noise.view(np.int32)[..., 0]
    seeds += [_saved(Image.fromarray(wide.astype(t)), "TIFF") for t in (np.int32, np.float32)]
    seeds.append(_saved(Image.fromarray(wide.astype(np.uint16)), "PNG"))
    return seeds


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def place() -> Path:
    """Return a folder for the files of this process."""
    return Path(tempfile.mkdtemp(prefix="resnets-fuzz-"))


def in_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    """Return a reader of bytes that writes them to a file first."""

    def run(content: bytes) -> object:
        path = place() / name
        path.write_bytes(content)
        return read(path)

    return run


def model_seeds() -> list[bytes]:
    """Return a model file of a tiny network."""
    config = ResNetConfig(depths=(1,), block="basic", widths=(8,), num_classes=2, stem="small")
    weights = ResNet(config).state_dict()
    file = ModelFile(config, Preprocess(size=8), ("a", "b"), None, {}, {}, weights)
    save_model(place() / "seed.safetensors", file)
    return [(place() / "seed.safetensors").read_bytes()]


def checkpoint_seeds() -> list[bytes]:
    """Return a checkpoint of two tensors."""
    path = place() / "seed-state.safetensors"
    tensors = {"model.a": torch.zeros(2, 3), "optimizer.0.step": torch.zeros(())}
    save_checkpoint(path, Checkpoint(tensors, {"step": 3, "best_score": 0.5}))
    return [path.read_bytes()]


# The network that is looked for in a file of weights.
TABLE = {"fc.weight": torch.zeros(2, 3), "bn1.running_var": torch.ones(3)}


def weight_seeds() -> list[bytes]:
    """Return a state dict as torch writes it now, as it wrote it once, and as safetensors."""
    seeds = [save(TABLE, {"a": "b"}), *model_seeds()]
    inner = {f"module.encoder_q.{name}": tensor for name, tensor in TABLE.items()}
    content = {"state_dict": inner, "epoch": 3, "args": Namespace(arch="resnet18")}
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        seeds.append(buffer.getvalue())
    return seeds


def run_folder_seeds() -> list[bytes]:
    """Return the JSON files of a run, joined by NUL."""
    config = {k: {"value": v, "origin": "default"} for k, v in Recipe().flat().items()}
    data = {
        **{"data": "fashion-mini", "name": "fashion-mini", "fingerprint": "0" * 64},
        **{"classes": ["a", "b"], "sizes": {"train": 9, "val": 3}, "held_out": ["1"]},
        **{"preprocess": {"size": 8}, "skipped": {}},
    }
    environment = {
        **{"versions": {"torch": "2"}, "device": "cpu", "device_name": "", "threads": 1},
        **{"ranks": 1, "forced": [{"step": 1, "changes": ["a"]}]},
    }
    record = {"kind": "train", "step": 1, "seconds": 0.5, "loss": 1.0}
    texts = [json.dumps(part) for part in (config, data, environment, record)]
    return [b"\0".join(text.encode() for text in texts) + b"\n"]


def read_run_folder(content: bytes) -> None:
    """Read everything that a resumed run reads before it opens its data."""
    folder = place() / "run"
    folder.mkdir(exist_ok=True)
    parts = content.split(b"\0")
    for name, part in zip(RUN_FILES, (*parts, b"", b"", b"", b""), strict=False):
        (folder / name).write_bytes(part)
    run_dir = RunDir.open(folder)
    RunFingerprint.stored(run_dir).facts()
    run_dir.seconds()
    run_dir.forget_after(1, validated=1)


TARGETS = {
    "decode": Target(
        lambda image: decode(image, pixel_range=(0.0, 1e4), max_pixels=MOST_PIXELS), picture_seeds
    ),
    "model-file": Target(in_file(read_model, "model.safetensors"), model_seeds),
    "checkpoint": Target(in_file(load_checkpoint, "state.safetensors"), checkpoint_seeds),
    "weights": Target(
        in_file(lambda p: read_tensors(p, source="w", own=TABLE), "w.pth"), weight_seeds
    ),
    "run-folder": Target(read_run_folder, run_folder_seeds),
}
