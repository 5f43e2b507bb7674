"""Probe trained networks: all measurements of one, and the comparison of two, as tables.

The images are held-out ones of the run itself (test, else validation), or those of `data`. From a
run folder, or within `resnets study`, gradients at the first steps are measured too (`replay.py`).
The same network and images give the same rows: draws are seeded.

Shapes: N images, C H W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resnets.data import NAMES, Split, open_data
from resnets.data.loader import EvalLoader
from resnets.data.transforms import Preprocess
from resnets.device import choose_device
from resnets.errors import UserError
from resnets.inference.model_file import ModelFile, read_model
from resnets.study.probes.ablation import intact, remove_each, remove_several
from resnets.study.probes.activation_stats import gradient_profile, layer_responses
from resnets.study.probes.adapters import take_apart
from resnets.study.probes.block_stats import branch_use, linear_probes, logit_lens
from resnets.study.probes.cka import cka_rows
from resnets.study.probes.loss_landscape import loss_lines
from resnets.study.probes.path_gradients import path_rows
from resnets.study.probes.replay import networks_of_job, networks_of_run
from resnets.study.probes.residual_chain import Chain
from resnets.study.tables import ACROSS, AGAINST, Row, probe_path, write_table
from resnets.study.twins.study_config import PROBE, ProbeConfig, TwinJob
from resnets.training.checkpoint import RunFolder, is_run
from resnets.training.job import make_splits
from resnets.training.reproducibility import Basis

LEAST_IMAGES = 4  # the estimate of CKA divides by N - 3
# Bytes that the outputs of all blocks may take together; of large images fewer are used.
MEMORY = 2**29

Log = Callable[[str], None]


def probe_model(
    model: Path,
    *,
    out: Path,
    device: str,
    log: Log,
    data: str | None = None,
    against: Path | None = None,
    job: TwinJob | None = None,
    config: ProbeConfig = PROBE,
) -> list[Path]:
    """Probe the network of a model file or run folder.

    Args:
        model: Model file or run folder.
        out: Folder of the study.
        device: Where to compute.
        log: Gets a line for each part.
        data: Images, as for `resnets evaluate`.
        against: A second model, whose layers are compared; one table more.
        job: The run of a study that made the network; its first steps are repeated.
        config: How much is measured.

    Returns:
        The tables that were written, out/data/probe_*.csv.

    Raises:
        UserError: A model or its images cannot be used.
    """
    if out.is_file():
        raise UserError(f"--out {out}: is a file; pass a folder")
    place = _with_float64(choose_device(device), log)
    file, run = read_model(model), _run_of(model)
    part = _held_out_images(file, run, data, model)
    images, targets = _read(part, file.preprocess, device=place, config=config)
    compared = []
    if against is not None:  # first, for it is quick and finds what cannot be compared
        compared = [
            compare_models(
                model, against, data=data, out=out, device=device, log=log, config=config
            )
        ]
    network = file.build().to(place)
    by_step = _of_run(run, config, log) if job is None else _of_job(job, network, config)
    tables = probe(
        network,
        images,
        targets,
        log=log,
        by_step=((step, young.to(place)) for step, young in by_step),
        config=config,
    )
    paths = {table: probe_path(out, table, _name(model)) for table in tables}
    for table, rows in tables.items():
        write_table(paths[table], rows)
    return [*paths.values(), *compared]


def compare_models(
    model: Path,
    against: Path,
    *,
    out: Path,
    device: str,
    log: Log,
    data: str | None = None,
    config: ProbeConfig = PROBE,
) -> Path:
    """Compare every layer of two networks on held-out images of the first; return the table.

    The column `unit` is the block of the first network, x that of the second.

    Raises:
        UserError: A model or its images cannot be used.
    """
    place = _with_float64(choose_device(device), log)
    files = read_model(model), read_model(against)
    if files[0].preprocess.channels != files[1].preprocess.channels:
        raise UserError(f"--against {against}: one takes grey images, the other coloured ones")
    part = _held_out_images(files[0], _run_of(model), data, model)
    names = [_name(path) for path in (model, against)]
    log(f"similarity of the layers of {' and '.join(names)}")
    first, second = (take_apart(file.build().to(place)) for file in files)
    images, others = (
        _read(part, file.preprocess, device=place, config=config)[0] for file in files
    )
    path = probe_path(out, ACROSS, AGAINST.join(names))
    write_table(path, compare(first, second, images, others, config=config))
    return path


def compare(
    first: Chain, second: Chain, images: Tensor, others: Tensor, *, config: ProbeConfig
) -> list[Row]:
    """Compare two chains; `others` are the same images, as the second takes them."""
    count = min(_fitting(first, images, config), _fitting(second, others, config))
    _check(first, images[:LEAST_IMAGES])
    _check(second, others[:LEAST_IMAGES])
    rows = cka_rows(first, images[:count], second, others[:count], metric="cka_across")
    return _signed(rows, first)


def probe(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    by_step: Iterable[tuple[int, nn.Module]] = (),
    log: Log = lambda text: None,
    config: ProbeConfig = PROBE,
) -> dict[str, list[Row]]:
    """Measure every table of a network of ours, torchvision's or timm's, in evaluation mode.

    Args:
        network: The network; it is left in evaluation mode.
        images: N C H W, normalised as the network takes them, in random order.
        targets: Their classes, N.
        by_step: Networks of the same run with their steps, for the gradient profile; rows without
            a step are about `network` itself.
        log: Gets a line for each part.
        config: How much is measured.

    Returns:
        Rows by the name of their table.

    Raises:
        UserError: The network cannot be taken apart, or there are too few images.
    """
    chain = take_apart(network)
    count = _fitting(chain, images, config)
    images, targets = images[:count], targets[:count]
    _check(chain, images[:LEAST_IMAGES])

    def first(most: int) -> tuple[Tensor, Tensor]:
        return images[:most], targets[:most]

    few, ablated = first(config.gradient_images), first(config.ablation_images)
    tables: dict[str, list[Row]] = {}
    log(f"{len(chain.blocks)} blocks, {chain.depth} layers, {count} images: activations, gradients")
    tables["responses"] = layer_responses(chain, images)
    tables["gradients"] = gradient_profile(chain, *few)
    for step, young in by_step:
        log(f"gradients at step {step}")
        rows = gradient_profile(take_apart(young), *few)
        tables["gradients"] += [{**row, "step": step} for row in rows]
    log("size and direction of the branches, logit lens, linear probes")
    tables["use"] = [
        *branch_use(chain, *few),
        *logit_lens(chain, images, targets),
        *linear_probes(chain, images, targets),
    ]
    log("similarity of the layers")
    tables["similarity"] = cka_rows(chain, images, chain, images, metric="cka")
    log(f"gradients along all 2^{len(chain.blocks)} paths")
    tables["paths"] = path_rows(chain, images, targets)
    log("ablation of blocks")
    tables["lesions"] = [
        *intact(chain, *ablated),
        *remove_each(chain, *ablated),
        *remove_several(chain, *ablated, draws=config.draws, seed=config.seed),
    ]
    log("loss along random directions")
    tables["landscape"] = loss_lines(
        chain,
        *first(config.landscape_images),
        directions=config.directions,
        steps=config.points,
        seed=config.seed,
    )
    return {name: _signed(rows, chain) for name, rows in tables.items()}


def _family(chain: Chain) -> str:
    """Plain, residual, or pre-activation: residual with nothing after the sum."""
    if chain.plain:
        return "plain"
    nothing = all(isinstance(block.merge, nn.Identity) for block in chain.blocks)
    return "pre-activation" if nothing else "residual"


def _signed(rows: Iterable[Row], chain: Chain) -> list[Row]:
    """Add the columns that name the network."""
    about: Row = {"study": "probe", "family": _family(chain), "depth": chain.depth}
    return [{**about, **row} for row in rows]


def _fitting(chain: Chain, images: Tensor, config: ProbeConfig) -> int:
    """How many images the measurements take."""
    if len(images) < LEAST_IMAGES:
        raise UserError(f"{len(images)} images: a probe needs at least {LEAST_IMAGES}")
    with torch.no_grad():
        each = sum(x.numel() * x.element_size() for x in chain.stream(images[:1]))
    return max(LEAST_IMAGES, min(config.images, len(images), MEMORY // each))


def _check(chain: Chain, images: Tensor) -> None:
    """The chain must give the network's logits: else every number would be about another one."""
    with torch.no_grad():
        expected, found = chain.network(images), chain(images)
    if not torch.isfinite(expected).all():
        raise UserError("the network's logits are not finite: there is nothing to measure")
    if not torch.equal(expected, found):
        raise UserError(
            f"{type(chain.network).__name__}: stem, blocks and head do not give its logits, so it "
            "computes more than a plain ResNet; pass a plain ResNet"
        )


def _name(model: Path) -> str:
    """Of the run folder or file: two runs of one network must not take each other's place."""
    run = _run_of(model)
    return model.stem if run is None else run.path.resolve().name


def _with_float64(device: torch.device, log: Log) -> torch.device:
    """The device, unless it has no float64, which the paths need."""
    if device.type != "mps":
        return device
    log("on the CPU: mps has no float64")
    return torch.device("cpu")


def _run_of(model: Path) -> RunFolder | None:
    """The run folder that holds the model file."""
    place = model if model.is_dir() else model.parent
    return RunFolder(place) if is_run(place) else None


def _held_out_images(
    file: ModelFile, run: RunFolder | None, data: str | None, model: Path
) -> Split:
    """Images that the network was not trained on, as far as it is known which those are."""
    if data is None and run is not None:
        basis = Basis.stored(run)
        dataset = open_data(basis.data["data"], max_corrupt=basis.recipe.max_corrupt)
        return make_splits(dataset, basis.recipe, held_out=basis.data["held_out"]).scored[1]
    name = file.data.get("name", "") if data is None else data
    if data is None and name not in NAMES:
        raise UserError(
            f"{model} does not name its images: pass --data, a folder of images or a name"
        )
    parts = open_data(name, classes=file.classes).splits
    return next(parts[part] for part in ("all", "test", "val", "train") if part in parts)


def _read(
    part: Split, preprocess: Preprocess, *, device: torch.device, config: ProbeConfig
) -> tuple[Tensor, Tensor]:
    """At most `config.images` images N C H W and targets N, drawn and in random order."""
    # Raw draws: numpy promises their stream for all versions, but not how it shuffles with them.
    raw = np.random.PCG64(config.seed).random_raw(len(part))
    order = np.argsort(raw, kind="stable")[: config.images]
    batches = EvalLoader(
        part.subset(order), preprocess=preprocess, batch_size=len(order), device=device, workers=0
    )
    batch = next(iter(batches))
    return batch.images.contiguous(), batch.targets


def _of_run(
    run: RunFolder | None, config: ProbeConfig, log: Log
) -> Iterator[tuple[int, nn.Module]]:
    """Networks at the run's first steps and its last, or a line on why there are none."""
    if run is None:
        log("no gradients by step: pass the run folder, or let `resnets study` probe")
        return
    try:
        yield from networks_of_run(run, config.replay_steps)
    except UserError as error:
        log(f"no gradients by step: {error}")


def _of_job(job: TwinJob, end: nn.Module, config: ProbeConfig) -> Iterator[tuple[int, nn.Module]]:
    """Networks at the first steps of a study's run, and the one at its end."""
    yield from networks_of_job(job, config.replay_steps)
    assert job.recipe.steps is not None
    yield job.recipe.steps, end
