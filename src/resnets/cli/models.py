"""Provide `resnets models`: list the networks of the registry."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from resnets.cli.flags import Switch
from resnets.cli.output import print_message, print_result, print_table
from resnets.errors import UserError

if TYPE_CHECKING:
    from resnets.models.registry import ModelEntry


@dataclass(frozen=True)
class Models:
    """List the networks: layers, parameters, MACs, input size, published error and its source.

    for example:
      resnets models 'resnet*_cifar'
      resnets models resnet50 --layers
      resnets models resnet50 --weights
    """

    pattern: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PATTERN", help_behavior_hint="(default: all)"),
    ] = "*"
    """name or pattern such as 'resnet*'"""
    layers: Switch = False
    """print the layers of one network with their shapes"""
    weights: Switch = False
    """list the published weights, for --weights of train, with their preprocessing"""
    quiet: Switch = False
    """names only"""

    def run(self, started: float) -> int:
        from resnets.models.registry import MODELS, list_models, unknown_model

        names = list_models(self.pattern)
        if not names:
            raise unknown_model(self.pattern)
        if self.layers and len(names) > 1:
            raise UserError("--layers takes one name: resnets models resnet50 --layers")
        if self.layers and self.weights:
            raise UserError("--layers and --weights are two tables: ask for one of them")
        if self.weights:
            _print_weights(names, quiet=self.quiet)
        elif self.layers:
            rows = _layer_rows(names[0])
            print_table(("layer", "type", "output C H W", "parameters", "MACs"), "nnnrr", rows)
        elif self.quiet:
            for name in names:
                print_result(name)
        else:
            titles = ("name", "layers", "parameters", "MACs", "input", "error %", "source")
            print_table(titles, "nrrrrrl", [_model_row(name, MODELS[name]) for name in names])
        return 0


def _model_row(name: str, entry: "ModelEntry") -> tuple[str, ...]:
    source = entry.source or f"sizes: {entry.counted}"
    sizes = f"{entry.params:,}", _macs(entry.macs), str(entry.input_size)
    return name, str(entry.layers), *sizes, entry.error or "-", source


def _print_weights(names: list[str], *, quiet: bool) -> None:
    from resnets.models.published import NO_TIMM, has_timm, published_weights
    from resnets.models.registry import timm_name

    found = [
        (name, facts)
        for name in names
        for facts in published_weights(name, timm_name=timm_name(name))
    ]
    if not has_timm():
        print_message(NO_TIMM)
    if not found:
        print_message("no weights are published for these networks")
        return
    if quiet:
        for name in dict.fromkeys(name for name, _ in found):
            print_result(name)
        return
    rows: list[tuple[str, ...]] = []
    for name, facts in found:
        top1 = "-" if facts.top1 is None else f"{facts.top1:.2f}"
        resize = f"{'squash' if facts.resize_mode == 'squash' else 'resize'} {facts.resize}"
        sizes = f"{resize}, crop {facts.size}", facts.interpolation
        row = (name, facts.source, top1, str(facts.classes), *sizes)
        rows.append((*row, _numbers(facts.mean), _numbers(facts.std)))
    titles = ("name", "weights", "top-1 %", "classes", "size", "interpolation", "mean", "std")
    print_table(titles, "nnrrnnnn", rows)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _layer_rows(name: str) -> list[tuple[str, ...]]:
    import torch

    from resnets.models.registry import MODELS, create_model
    from resnets.models.summary import layer_table

    with torch.device("meta"):
        layers = layer_table(create_model(name), MODELS[name].input_size)
    rows: list[tuple[str, ...]] = []
    for layer in layers:
        shape = " x ".join(map(str, layer.shape))
        rows.append((layer.name, layer.type, shape, f"{layer.parameters:,}", _macs(layer.macs)))
    return rows


def _macs(count: int) -> str:
    return f"{count / 1e9:.3f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"
