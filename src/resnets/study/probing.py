"""`resnets study probe`: a model file or run folder enters, tables leave.

The images are held-out ones of the run itself (test, else validation), or those of `data`. From a
run folder, or within `resnets study`, the gradients by step are measured too (`replay.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
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
from resnets.study.inside import IMAGES, SEED, Say, Subject, compare, probe
from resnets.study.plan import Job
from resnets.study.replay import networks_by_step, networks_of_job
from resnets.study.tables import ACROSS, AGAINST, probe_path, write_table
from resnets.training.reproducibility import RunFingerprint
from resnets.training.run_dir import RunDir, is_run
from resnets.training.trainer import splits_for


def probe_model(
    model: Path, *, data: str | None, against: Path | None, out: Path, device: str, say: Say,
    job: Job | None = None,
) -> list[Path]:  # fmt: skip
    """Probe the network of a model file or run folder; gives the files written, out/data/probe_*.

    `data` are images as for `resnets evaluate`; `against` is a second model whose layers are
    compared, which is one table more; `job` is the run of a study whose end the network is, done
    again for the gradients of its first steps. Raises UserError for what cannot be used.
    """
    if out.is_file():
        raise UserError(f"--out {out}: is a file; give a folder")
    place = _with_float64(choose_device(device), say)
    file, run = read_model(model), _run_of(model)
    part = _held_out_images(file, run, data, model)
    images, targets = _read(part, file.preprocess, device=place)
    compared = []
    if against is not None:  # first, for it is quick and says what cannot be compared
        compared = [compare_models(model, against, data=data, out=out, device=device, say=say)]
    network = file.build().to(place)
    by_step = _of_run(run, say) if job is None else _of_job(job, network)
    tables = probe(
        network, images, targets, say=say,
        by_step=((step, young.to(place)) for step, young in by_step),
    )  # fmt: skip
    paths = {table: probe_path(out, table, _name(model)) for table in tables}
    for table, rows in tables.items():
        write_table(paths[table], rows)
    return [*paths.values(), *compared]


def compare_models(
    model: Path, against: Path, *, data: str | None, out: Path, device: str, say: Say
) -> Path:
    """Compare the layers of two networks on held-out images of the first; gives the file written.

    Raises UserError as `probe_model` does.
    """
    place = _with_float64(choose_device(device), say)
    files = read_model(model), read_model(against)
    if files[0].preprocess.channels != files[1].preprocess.channels:
        raise UserError(f"--against {against}: one takes grey images, the other coloured ones")
    part = _held_out_images(files[0], _run_of(model), data, model)
    names = [_name(path) for path in (model, against)]
    say(f"similarity of the layers of {' and '.join(names)}")
    first, second = (
        Subject(file.build().to(place), _read(part, file.preprocess, device=place)[0])
        for file in files
    )
    path = probe_path(out, ACROSS, AGAINST.join(names))
    write_table(path, compare(first, second))
    return path


def _name(model: Path) -> str:
    """Of the run folder or file: two runs of one network must not take each other's place."""
    run = _run_of(model)
    return model.stem if run is None else run.path.resolve().name


def _with_float64(device: torch.device, say: Say) -> torch.device:
    """The device, unless it cannot count in float64, as the paths must."""
    if device.type != "mps":
        return device
    say("on the CPU: mps has no float64")
    return torch.device("cpu")


def _run_of(model: Path) -> RunDir | None:
    """The run folder that the model file came with."""
    place = model if model.is_dir() else model.parent
    return RunDir(place) if is_run(place) else None


def _held_out_images(file: ModelFile, run: RunDir | None, data: str | None, model: Path) -> Split:
    """Images that the network was not trained on, as far as it is known which those are."""
    if data is None and run is not None:
        basis = RunFingerprint.stored(run)
        dataset = open_data(basis.data["data"], max_corrupt=basis.recipe.runtime.max_corrupt)
        return splits_for(dataset, basis.recipe, held_out=basis.data["held_out"]).scored[1]
    name = file.data.get("name", "") if data is None else data
    if data is None and name not in NAMES:
        raise UserError(
            f"{model} does not say where its images lie: pass --data, a folder of images or a name"
        )
    parts = open_data(name, classes=file.classes).splits
    return next(parts[part] for part in ("all", "test", "val", "train") if part in parts)


def _read(part: Split, preprocess: Preprocess, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """At most IMAGES images N C H W and targets N, drawn and in random order."""
    # Raw draws: numpy promises their stream for all versions, but not how it shuffles with them.
    order = np.argsort(np.random.PCG64(SEED).random_raw(len(part)), kind="stable")[:IMAGES]
    batches = EvalLoader(
        part.subset(order), preprocess=preprocess, batch_size=IMAGES, device=device, workers=0
    )
    batch = next(iter(batches))
    return batch.images.contiguous(), batch.targets


def _of_run(run: RunDir | None, say: Say) -> Iterator[tuple[int, nn.Module]]:
    """The run's networks at its first steps and its last, or a word on why there are none."""
    if run is None:
        say("no gradients by step: give the run folder, or let `resnets study` probe")
        return
    try:
        yield from networks_by_step(run)
    except UserError as error:
        say(f"no gradients by step: {error}")


def _of_job(job: Job, end: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """The networks at the first steps of a study's run, and the one that it ended with."""
    yield from networks_of_job(job)
    assert job.recipe.schedule.steps is not None
    yield job.recipe.schedule.steps, end
