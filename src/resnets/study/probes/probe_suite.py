"""Probe trained networks: all measurements of one, and the comparison of two, as tables.

The images are held-out ones of the run itself (test, else validation), or those of `data`.

Shapes: N images, C H W.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resnets.data import NAMES, Split, open_data
from resnets.data.dataset import fingerprint
from resnets.data.loader import EvalLoader, TrainLoader
from resnets.data.transforms import Preprocess
from resnets.device import choose_device, restore_num_threads
from resnets.errors import UserError
from resnets.inference.model_file import ModelFile, read_model
from resnets.models.resnet import ResNet
from resnets.study.probes import block_stats
from resnets.study.probes.ablation import remove_each, remove_several, without
from resnets.study.probes.adapters import take_apart
from resnets.study.probes.cka import cka_rows
from resnets.study.probes.loss_landscape import loss_lines
from resnets.study.probes.path_gradients import path_rows
from resnets.study.probes.residual_chain import Chain
from resnets.study.tables import ACROSS, AGAINST, Row, probe_path, write_table
from resnets.study.twins.study_config import PROBE, ProbeConfig, TwinJob
from resnets.study.twins.trial import prepared
from resnets.training.auto_config import ResolvedConfig
from resnets.training.recipe import Recipe
from resnets.training.reproducibility import RunFingerprint
from resnets.training.run_dir import RunDir, is_run
from resnets.training.train_step import TrainState, train_step
from resnets.training.trainer import Trainer, splits_for

LEAST_IMAGES = 4  # the estimate of CKA divides by N - 3
# Bytes that the outputs of all blocks may take together; of large images fewer are used.
MEMORY = 2**29

Log = Callable[[str], None]


@dataclass(frozen=True)
class Prober:
    """Probes model files and run folders into the tables OUT/data/probe_*.csv."""

    out: Path
    device: str
    log: Log
    data: str | None = None
    config: ProbeConfig = PROBE

    def probe(self, model: Path, *, job: TwinJob | None = None) -> list[Path]:
        """Probe the network of a model file or run folder; return the tables.

        `job` is the run of a study that made the network; its first steps are repeated.
        """
        if self.out.is_file():
            raise UserError(f"--out {self.out}: is a file; pass a folder")
        file, place = read_model(model), self._place()
        images, targets = self._read(self._held_out(file, model), file, place)
        end = file.build().to(place)
        if job is None:
            networks = self._of_run(_run_of(model))
        else:
            replayed = networks_of_job(job, self.config.replay_steps)
            networks = itertools.chain(replayed, [(job.steps, end)])
        by_step = ((step, young.to(place)) for step, young in networks)
        tables = probe(end, images, targets, log=self.log, by_step=by_step, config=self.config)
        paths = [probe_path(self.out, table, _name(model)) for table in tables]
        for path, rows in zip(paths, tables.values(), strict=True):
            write_table(path, rows)
        return paths

    def compare(self, model: Path, against: Path) -> Path:
        """Compare every layer of two networks on held-out images of the first; return the table.

        The column `unit` is the block of the first network, x that of the second.
        """
        files, place = (read_model(model), read_model(against)), self._place()
        if files[0].preprocess.channels != files[1].preprocess.channels:
            raise UserError(f"--against {against}: one takes grey images, the other coloured ones")
        names = [_name(path) for path in (model, against)]
        self.log(f"similarity of the layers of {' and '.join(names)}")
        split = self._held_out(files[0], model)
        first, second = (take_apart(file.build().to(place)) for file in files)
        images, others = (self._read(split, file, place)[0] for file in files)
        path = probe_path(self.out, ACROSS, AGAINST.join(names))
        write_table(path, compare(first, second, images, others, config=self.config))
        return path

    def _place(self) -> torch.device:
        """The device, unless it has no float64, which the paths need."""
        device = choose_device(self.device)
        if device.type != "mps":
            return device
        self.log("on the CPU: mps has no float64")
        return torch.device("cpu")

    def _held_out(self, file: ModelFile, model: Path) -> Split:
        """Images that the network was not trained on, as far as it is known which those are."""
        run = _run_of(model)
        if self.data is None and run is not None:
            basis = RunFingerprint.stored(run)
            source, preprocess = basis.recipe.source, file.preprocess
            dataset = open_data(basis.data["data"], source, preprocess=preprocess)
            return splits_for(dataset, basis.recipe, held_out=basis.data["held_out"]).scored[1]
        name = file.data.get("name", "") if self.data is None else self.data
        if self.data is None and name not in NAMES:
            raise UserError(
                f"{model} does not name its images: pass --data, a folder of images or a name"
            )
        splits = open_data(name, classes=file.classes, preprocess=file.preprocess).splits
        return next(splits[split] for split in ("all", "test", "val", "train") if split in splits)

    def _read(self, split: Split, file: ModelFile, place: torch.device) -> tuple[Tensor, Tensor]:
        """At most `config.images` images N C H W and targets N, drawn and in random order."""
        # Raw draws: numpy promises their stream for all versions, but not how it shuffles.
        raw = np.random.PCG64(self.config.seed).random_raw(len(split))
        few = split.subset(np.argsort(raw, kind="stable")[: self.config.images])
        batches = EvalLoader(
            few, preprocess=file.preprocess, batch_size=len(few), device=place, workers=0
        )
        batch = next(iter(batches))
        return batch.images.contiguous(), batch.targets

    def _of_run(self, run: RunDir | None) -> Iterator[tuple[int, nn.Module]]:
        """Networks at a run's first steps and its last, or a line on why there are none."""
        if run is None:
            self.log("no gradients by step: pass the run folder, or let `resnets study` probe")
            return
        try:
            yield from networks_of_run(run, self.config.replay_steps)
        except UserError as error:
            self.log(f"no gradients by step: {error}")


def compare(
    first: Chain, second: Chain, images: Tensor, others: Tensor, *, config: ProbeConfig
) -> list[Row]:
    """Compare two chains; `others` are the same images, as the second takes them."""
    count = min(_fitting(first, images, config), _fitting(second, others, config))
    rows = cka_rows("cka_across", first, images[:count], second, others[:count])
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
    """Measure every table of a network of ours, torchvision's or timm's, left in evaluation mode.

    The images N C H W are normalised as the network takes them, and in random order. `by_step` are
    networks of the same run with their steps, for the gradient profile; rows without a step are
    about `network` itself. Raises UserError for a network that cannot be taken apart.
    """
    chain = take_apart(network)
    count = _fitting(chain, images, config)
    images, targets = images[:count], targets[:count]

    def first(most: int) -> tuple[Tensor, Tensor]:
        return images[:most], targets[:most]

    few, ablated = first(config.gradient_images), first(config.ablation_images)
    tables: dict[str, list[Row]] = {}
    log(f"{len(chain.blocks)} blocks, {chain.depth} layers, {count} images: activations, gradients")
    tables["responses"] = block_stats.layer_responses(chain, images)
    tables["gradients"] = block_stats.gradient_profile(chain, *few)
    for step, young in by_step:
        log(f"gradients at step {step}")
        rows = block_stats.gradient_profile(take_apart(young), *few)
        tables["gradients"] += [{**row, "step": step} for row in rows]
    log("size and direction of the branches, logit lens, linear probes")
    tables["use"] = [
        *block_stats.branch_use(chain, *few),
        *block_stats.logit_lens(chain, images, targets),
        *block_stats.linear_probes(chain, images, targets),
    ]
    log("similarity of the layers")
    tables["similarity"] = cka_rows("cka", chain, images, chain, images)
    log(f"gradients along all 2^{len(chain.blocks)} paths")
    tables["paths"] = path_rows(chain, images, targets)
    log("ablation of blocks")
    tables["lesions"] = [
        *without(chain, set(), *ablated, metric="intact", place={}),
        *remove_each(chain, *ablated),
        *remove_several(chain, *ablated, draws=config.draws, seed=config.seed),
    ]
    log("loss along random directions")
    tables["landscape"] = loss_lines(chain, *first(config.landscape_images), config=config)
    return {name: _signed(rows, chain) for name, rows in tables.items()}


def _signed(rows: Iterable[Row], chain: Chain) -> list[Row]:
    """Add the columns that name the network; pre-activation has nothing after its sums."""
    nothing = all(isinstance(block.merge, nn.Identity) for block in chain.blocks)
    family = "plain" if chain.plain else "pre-activation" if nothing else "residual"
    about: Row = {"study": "probe", "family": family, "depth": chain.depth}
    return [{**about, **row} for row in rows]


@torch.no_grad()
def _fitting(chain: Chain, images: Tensor, config: ProbeConfig) -> int:
    """How many images the measurements take, of a chain that gives the network's own logits.

    Else every number would be about another network.
    """
    if len(images) < LEAST_IMAGES:
        raise UserError(f"{len(images)} images: a probe needs at least {LEAST_IMAGES}")
    few = images[:LEAST_IMAGES]
    expected, xs = chain.network(few), chain.stream(few)
    if not torch.isfinite(expected).all():
        raise UserError("the network's logits are not finite: there is nothing to measure")
    if not torch.equal(expected, chain.head(xs[-1])):
        raise UserError(
            f"{type(chain.network).__name__}: stem, blocks and head do not give its logits, so it "
            "computes more than a plain ResNet; pass a plain ResNet"
        )
    each = sum(x[0].numel() * x.element_size() for x in xs)
    return max(LEAST_IMAGES, min(config.images, len(images), MEMORY // each))


def _name(model: Path) -> str:
    """Of the run folder or file: two runs of one network must not take each other's place."""
    run = _run_of(model)
    return model.stem if run is None else run.path.resolve().name


def _run_of(model: Path) -> RunDir | None:
    """The run folder that holds the model file."""
    place = model if model.is_dir() else model.parent
    return RunDir(place) if is_run(place) else None


def networks_of_run(folder: RunDir, steps: Sequence[int]) -> Iterator[tuple[int, ResNet]]:
    """Yield copies of a run's network in evaluation mode after these steps, and at its end.

    Raises UserError for a run on several ranks, one that was changed on the way, or other images.
    """
    basis = RunFingerprint.stored(folder)
    ranks, recipe = basis.environment.get("ranks", 1), basis.recipe
    if ranks > 1:
        raise UserError(f"{folder.path}: it ran on {ranks} ranks, and is repeated on one only")
    if basis.environment.get("forced"):
        raise UserError(f"{folder.path}: it was resumed with --force, so it cannot be repeated")
    preprocess = Preprocess(**basis.data["preprocess"])
    dataset = open_data(basis.data["data"], recipe.source, preprocess=preprocess)
    if fingerprint(dataset) != basis.data["fingerprint"]:
        place = basis.data["data"]
        raise UserError(f"{folder.path}: the images in {place} are not those of the run")
    trainer = Trainer(
        ResolvedConfig(recipe),
        dataset,
        splits_for(dataset, recipe, held_out=basis.data["held_out"]),
        preprocess=basis.data["preprocess"],
        device=choose_device(basis.environment["device"]),
    )
    with restore_num_threads():
        if recipe.runtime.threads:
            torch.set_num_threads(recipe.runtime.threads)
        try:
            state = TrainState.start(trainer.new_model(), recipe, device=trainer.device)
            yield from _first(state, trainer.train_loader, recipe, steps)
            newest = folder.load()
            if newest is not None and newest.scalars["step"] > state.step:
                state.restore(newest)
                yield state.step, copy.deepcopy(state.model).eval()
        finally:
            trainer.close()


def networks_of_job(job: TwinJob, steps: Sequence[int]) -> Iterator[tuple[int, ResNet]]:
    """Yield copies of the network of a study's run in evaluation mode after these steps."""
    with prepared(job) as (state, stream):
        yield from _first(state, stream, job.recipe, steps)


def _first(
    state: TrainState, stream: TrainLoader, recipe: Recipe, steps: Sequence[int]
) -> Iterator[tuple[int, ResNet]]:
    assert recipe.schedule.steps is not None
    for step in (step for step in steps if step <= recipe.schedule.steps):
        state.model.train()
        for batch in stream.batches(state.step, step):
            train_step(state, state.model, batch, recipe)
            state.step += 1
        yield step, copy.deepcopy(state.model).eval()
