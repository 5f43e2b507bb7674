"""Provide `resnets show`: print what a model file holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from resnets.cli.flags import Device, ModelPath

if TYPE_CHECKING:
    from resnets.inference.model_file import ModelFile

TABLES = ("classes", "per_class", "confusion", "reliability")
"""fields of the scores that are too long for a summary"""


@dataclass(frozen=True)
class Show:
    """Print what a model file holds: network, classes, preprocessing, scores, recipe, data.

    for example:
      resnets show runs/photos-001
      resnets show model.safetensors --format json
    """

    model: ModelPath
    """model file or run folder"""
    format: Literal["table", "json"] = "table"
    """json is one document on standard output"""
    device: Device = "auto"
    """accepted like everywhere; nothing is computed"""
    quiet: bool = False
    """leave the recipe out"""

    def run(self, started: float) -> int:
        """Read, verify, print."""
        import json

        from resnets.cli.progress import printer
        from resnets.inference.model_file import read_model

        parts = _contents(read_model(self.model))
        if self.quiet:
            del parts["recipe"]
        if self.format == "json":
            print(json.dumps(parts))
            return 0
        console = printer()
        for title, part in parts.items():
            console.print(title, style="bold")
            for name, value in part.items():
                if name in TABLES:
                    continue
                text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
                console.print(f"  {name:20} {text}", markup=False, soft_wrap=True)
        return 0


def _contents(file: ModelFile) -> dict[str, dict[str, Any]]:
    """All but the weights, which are counted, in titled parts."""
    model = file.build()
    network = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    return {
        "network": network | asdict(file.config),
        "classes": {str(index): name for index, name in enumerate(file.classes)},
        "preprocess": asdict(file.preprocess),
        "scores": file.scores or {},
        "recipe": file.recipe,
        "data": file.data,
    }
