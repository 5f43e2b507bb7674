"""Provide `resnets models`: list the networks of the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from resnets.cli.flags import Device
from resnets.errors import UserError, nearest, unknown

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Models:
    """List the networks: layers, parameters, MACs, input size, published error and its source.

    for example:
      resnets models 'resnet*_cifar'
      resnets models resnet50 --layers
    """

    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*"
    """name or pattern such as 'resnet*'"""
    layers: bool = False
    """print one network's layer table with shapes instead"""
    device: Device = "auto"
    """accepted like everywhere; nothing is computed"""
    quiet: bool = False
    """names only"""

    def run(self, started: float) -> int:
        """Print the rows."""
        from resnets.models.registry import MODELS, list_models

        if self.layers:
            if self.pattern not in MODELS:
                advice = "--layers takes one name: resnets models resnet50 --layers"
                raise _none(self.pattern, advice)
            _print_layers(self.pattern)
            return 0
        names = list_models(self.pattern)
        if not names:
            raise _none(self.pattern, "`resnets models` lists all")
        if self.quiet:
            print("\n".join(names))
        else:
            _print_rows(names)
        return 0


def _none(pattern: str, advice: str) -> UserError:
    """No network of that name, or none that the pattern matches."""
    from resnets.models.registry import MODELS

    if nearest(pattern, MODELS) and "*" not in pattern:
        return UserError(f"{unknown('model', pattern, MODELS)}; {advice}")
    return UserError(f"no network is called {pattern!r}; {advice}")


def _print_rows(names: list[str]) -> None:
    from rich.table import Table

    from resnets.cli.progress import printer
    from resnets.models.registry import MODELS

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("name", no_wrap=True)
    for title in ("layers", "parameters", "MACs", "input", "error %"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("source")
    for name in names:
        row = MODELS[name]
        table.add_row(
            name,
            str(row.layers),
            f"{row.params:,}",
            _macs(row.macs),
            str(row.input_size),
            row.error or "-",
            row.source or f"sizes: {row.counted}",
        )
    printer().print(table)


def _print_layers(name: str) -> None:
    import torch
    from rich.table import Table

    from resnets.cli.progress import printer
    from resnets.models.registry import MODELS, create_model
    from resnets.models.summary import layer_table

    with torch.device("meta"):
        rows = layer_table(create_model(name), MODELS[name].input_size)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("layer", "type", "output C H W"):
        table.add_column(title, no_wrap=True)
    for title in ("parameters", "MACs"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        table.add_row(row.name, row.type, shape, f"{row.parameters:,}", _macs(row.macs))
    printer().print(table)


def _macs(count: int) -> str:
    return f"{count / 1e9:.3f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"
