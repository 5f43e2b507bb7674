"""Provide `resnets show`: print what a model file holds."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from resnets.cli.flags import ModelPath, Switch, find_model
from resnets.cli.output import print_json, print_result, printer

if TYPE_CHECKING:
    from resnets.inference.model_file import ModelFile

# Fields of the scores that are too long for a summary.
TABLES = ("classes", "per_class", "confusion", "reliability")


@dataclass(frozen=True)
class Show:
    """Print what a model file holds: network, classes, preprocessing, scores, recipe, data.

    for example:
      resnets show runs/photos-001
      resnets show model.safetensors --format json
    """

    model: ModelPath
    format: Literal["table", "json"] = "table"
    """table for people, or one JSON document on standard output"""
    quiet: Switch = False
    """leave the recipe out"""

    def run(self, started: float) -> int:
        find_model(self.model)
        from resnets.inference.model_file import read_model

        contents = _contents(read_model(self.model))
        if self.quiet:
            del contents["recipe"]
        if self.format == "json":
            print_json(contents)
            return 0
        for title, section in contents.items():
            printer().print(title, style="bold")
            for name, value in section.items():
                if name not in TABLES:
                    print_result(f"  {name:20} {_text(value)}")
        return 0


def _contents(file: "ModelFile") -> dict[str, dict[str, Any]]:
    """Return everything but the weights, which are counted."""
    network = {"parameters": file.count_parameters()}
    return {
        "network": network | asdict(file.config),
        "classes": {str(index): name for index, name in enumerate(file.classes)},
        "preprocess": asdict(file.preprocess),
        "scores": file.scores or {},
        "recipe": file.recipe,
        "data": file.data,
    }


def _text(value: Any) -> str:
    """Format a value for people: 0.9175 instead of 0.9175000000000001, - where nothing is set."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)
