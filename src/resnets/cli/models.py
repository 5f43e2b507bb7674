"""Provide `resnets models`: list the networks of the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from resnets.cli.flags import Switch
from resnets.errors import UserError


@dataclass(frozen=True)
class Models:
    """List the networks: layers, parameters, MACs, input size, published error and its source.

    for example:
      resnets models 'resnet*_cifar'
      resnets models resnet50 --layers
    """

    pattern: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PATTERN", help_behavior_hint="(default: all)"),
    ] = "*"
    """name or pattern such as 'resnet*'"""
    layers: Switch = False
    """print the layers of one network with their shapes"""
    quiet: Switch = False
    """names only"""

    def run(self, started: float) -> int:
        """Print the networks, or the layers of one."""
        from resnets.models.registry import list_models, unknown_model

        names = list_models(self.pattern)
        if not names:
            raise unknown_model(self.pattern)
        if self.layers and len(names) > 1:
            raise UserError("--layers takes one name: resnets models resnet50 --layers")
        if self.layers:
            _print_layers(names[0])
        elif self.quiet:
            print("\n".join(names))
        else:
            _print_models(names)
        return 0


def _print_models(names: list[str]) -> None:
    from resnets.cli.progress import print_table
    from resnets.models.registry import MODELS

    rows = []
    for name in names:
        entry = MODELS[name]
        numbers = str(entry.layers), f"{entry.params:,}", _macs(entry.macs), str(entry.input_size)
        rows.append((name, *numbers, entry.error or "-", entry.source or f"sizes: {entry.counted}"))
    titles = ("name", "layers", "parameters", "MACs", "input", "error %", "source")
    print_table(titles, "nrrrrrl", rows)


def _print_layers(name: str) -> None:
    import torch

    from resnets.cli.progress import print_table
    from resnets.models.registry import MODELS, create_model
    from resnets.models.summary import layer_table

    with torch.device("meta"):
        layers = layer_table(create_model(name), MODELS[name].input_size)
    rows = (
        (
            one.name,
            one.type,
            " x ".join(map(str, one.shape)),
            f"{one.parameters:,}",
            _macs(one.macs),
        )
        for one in layers
    )
    print_table(("layer", "type", "output C H W", "parameters", "MACs"), "nnnrr", rows)


def _macs(count: int) -> str:
    return f"{count / 1e9:.3f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"
