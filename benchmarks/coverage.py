"""Compare each ResNet of timm with the network here that takes its weights, as a table.

    .venv/bin/python benchmarks/coverage.py [NAME ...] [--out docs/coverage.md]

The names are those of timm's ten modules of residual networks that contain one of `WORDS`: RegNets,
DarkNets, RepVGG and NFNets of the same modules are left out. timm's network gets random weights,
norms and statistics; `create_model(row, weights=...)` loads its state dict strictly; both compute
the logits of random images at two sizes in float64. The error is the largest difference of two
logits, relative to the largest logit. Networks of more than `LARGEST` parameters are compared with
one block a stage.

With names, the lines of all others stay as they are in the page. The exit code is 1 where a row
does not load or its error is above 1e-10. A full run takes half an hour and 8 GB on two cores.
"""

import argparse
import fnmatch
import gc
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from resnets.errors import UserError
from resnets.models.registry import MODELS, create_model

MODULES = (
    *("resnet", "resnetv2", "senet", "res2net", "resnest", "sknet"),
    *("byobnet", "nfnet", "byoanet", "cspnet"),
)
WORDS = ("resnet", "resnext", "resnest", "senet", "res2net", "res2next")
# Even and odd maps. Where timm averages 2x2 pixels for a stride, it drops the last row of an odd
# map in the stem, and its sums do not fit in the blocks; ours are rounded up.
SIDES = ((64, 64), (65, 33))
EVEN_SIDES = ((64, 64), (96, 64))
TOLERANCE = 1e-10
LARGEST = 150_000_000
MISSING = {
    "*_pruned": "channels pruned one by one",
    "test_resnet": "a network for timm's tests",
    "lambda_*": "lambda layers",
    "csp*": "cross-stage partial stages",
    "bat_*": "bilinear attention",
}


@dataclass(frozen=True)
class Comparison:
    """Hold what came of one name of timm."""

    name: str
    row: str = ""
    parameters: int = 0
    error: float = float("nan")
    note: str = ""

    @property
    def equal(self) -> bool:
        return self.error <= TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="names or patterns of timm; default: all")
    parser.add_argument("--out", type=Path, help="page for the table, such as docs/coverage.md")
    options = parser.parse_args()
    patterns = options.names or ["*"]
    before = read_page(options.out) if options.out and options.out.exists() else {}
    found: dict[str, list[Comparison]] = {}
    for module, names in families().items():
        for name in names:
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                result = compare(name)
                print(table_line(result), flush=True)
                gc.collect()
            elif name in before:
                result = before[name]
            else:
                continue
            found.setdefault(module, []).append(result)
    text = "".join(f"{line}\n" for line in page(found))
    if options.out:
        options.out.write_text(text)
    else:
        print(text)
    results = [result for results in found.values() for result in results]
    return 0 if all(result.equal for result in results if result.row) else 1


def read_page(path: Path) -> dict[str, Comparison]:
    """Return the comparisons of a page that an earlier run has written."""
    results = {}
    for line in path.read_text().splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 5:
            name, row, millions, error, note = cells
            parameters = round(float(millions) * 1e6)
            results[name] = Comparison(name, row, parameters, float(error or "nan"), note)
    return results


def families() -> dict[str, list[str]]:
    """Return timm's names of residual networks by module."""
    return {
        module: [name for name in timm.list_models(module=module) if any(w in name for w in WORDS)]
        for module in MODULES
    }


def row_of(name: str) -> str:
    """Return the row whose sizes are those of a network of timm, or an empty text."""
    twins = [row for row, entry in MODELS.items() if entry.counted == f"timm {name}"]
    return twins[0] if twins else name if name in MODELS else ""


def compare(name: str) -> Comparison:
    """Load timm's random weights into the row of this name and compare the logits."""
    torch.manual_seed(0)
    row = row_of(name)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in timm.create_model(name).parameters())
    if not row:
        reasons = [why for pattern, why in MISSING.items() if fnmatch.fnmatchcase(name, pattern)]
        return Comparison(name, "", parameters, note=(reasons or ["not here"])[0])
    short: dict[str, Any] = {}
    if parameters > LARGEST:
        short = {"depths": (1,) * len(MODELS[row].config.depths)}
    try:
        theirs = timm_network(name, short=bool(short))
        ours = loaded(row, theirs.state_dict(), **short)
        sides = EVEN_SIDES if MODELS[row].config.blur == 2 else SIDES
        error = max(relative_errors(ours.double(), theirs.double(), sides))
    except UserError as problem:
        return Comparison(name, row, parameters, note=str(problem))
    notes = ["even maps"] if sides == EVEN_SIDES else []
    notes += ["one block a stage"] if short else []
    return Comparison(name, row, parameters, error, "; ".join(notes))


def timm_network(name: str, *, short: bool) -> nn.Module:
    """Return a network of timm whose every parameter and statistic is random."""
    model: nn.Module = timm.create_model(name)
    for path, module in model.named_modules():
        is_stage = re.fullmatch(r"layer\d|stages\.\d(\.blocks)?", path)
        if short and is_stage and isinstance(module, nn.Sequential):
            del module[1:]
    randomise(model)
    return model.eval()


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Draw what starts as a constant: a fresh norm, bias or gain would hide one left out."""
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            tensor.uniform_(-0.1, 0.1)
        elif tensor.is_floating_point() and tensor.numel() > 1 and not bool(tensor.std()):
            tensor.uniform_(0.5, 1.5)


def loaded(row: str, weights: dict[str, Tensor], **overrides: Any) -> nn.Module:
    """Return a row with these weights, loaded strictly from a file."""
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(weights, path)
        return create_model(row, weights=path, **overrides).eval()


@torch.no_grad()
def relative_errors(
    ours: nn.Module, theirs: nn.Module, sides: Sequence[tuple[int, int]]
) -> Iterator[float]:
    """Yield the largest difference of two logits over the largest logit, for each size."""
    for height, width in sides:
        images = torch.randn(1, 3, height, width, dtype=torch.float64)
        # Some layers compute in float32: the variances of EvoNorm in timm, positions in both.
        with patch.object(Tensor, "float", lambda tensor: tensor):
            expected: Tensor = theirs(images)
            difference = ours(images) - expected
        yield float(difference.abs().max() / expected.abs().max())


def table_line(result: Comparison) -> str:
    row = f"`{result.row}`" if result.row else ""
    error = f"{result.error:.0e}" if result.row and result.error == result.error else ""
    parameters = f"{result.parameters / 1e6:.1f}"
    return f"| `{result.name}` | {row} | {parameters} | {error} | {result.note} |"


def page(found: dict[str, list[Comparison]]) -> Iterator[str]:
    """Yield the lines of the page."""
    results = [result for results in found.values() for result in results]
    equal = sum(result.equal for result in results)
    yield "# Coverage of timm"
    yield ""
    yield f"Of {len(results)} ResNets of timm {timm.__version__}, {equal} have a network here that"
    yield "loads their weights strictly and computes the same logits. This page is the output of"
    yield "`python benchmarks/coverage.py --out docs/coverage.md`."
    yield ""
    yield "Each network of timm gets random weights, norms and statistics."
    yield "`create_model(row, weights=...)` loads its state dict. Both compute the logits of random"
    yield "images at two sizes in float64. The error is the largest difference of two logits, over"
    yield "the largest logit. Networks that average 2x2 pixels in place of a stride are compared on"
    yield "even maps: timm's drop the last row of an odd map."
    yield ""
    yield f"| module | names | rows | error at most {TOLERANCE:.0e} |"
    yield "|---|--:|--:|--:|"
    for module, few in [*found.items(), ("**all**", results)]:
        rows = sum(bool(result.row) for result in few)
        yield f"| {module} | {len(few)} | {rows} | {sum(result.equal for result in few)} |"
    yield ""
    yield "| timm | row here | parameters, millions | error | remark |"
    yield "|---|---|--:|--:|---|"
    yield from map(table_line, results)


if __name__ == "__main__":
    sys.exit(main())
