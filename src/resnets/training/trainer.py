"""Train a network: set up a run, resume it, step, validate, save checkpoints, and finish.

Read `Trainer` from top to bottom; `train_step.py` holds the optimizer step itself.
"""

import json
import math
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resnets.config_fields import Rule
from resnets.data import NAMES, DataSet, open_data
from resnets.data.corrupt import CorruptImage, CorruptImages, source_splits
from resnets.data.dataset import (
    Splits,
    content_digest,
    describe_classes,
    fingerprint,
    listed_reasons,
    make_splits,
    notices_of,
)
from resnets.data.duplicates import copy_warnings
from resnets.data.loader import (
    Batch,
    EvalLoader,
    Failures,
    NoneReadableError,
    TrainLoader,
    channel_statistics,
    read_again,
)
from resnets.data.transforms import Preprocess
from resnets.data.wide_pixels import described
from resnets.data.workers import WorkerError, usable_cpus
from resnets.device import (
    autocast,
    describe_environment,
    deterministic_kernels,
    keep_freed_memory,
    return_freed_memory,
)
from resnets.errors import StoppedError, UserError, is_out_of_memory
from resnets.evaluation.evaluator import BATCH_SIZE, Mistakes, score, score_cautions
from resnets.evaluation.metrics import Scores, evaluate
from resnets.fileio import expanded
from resnets.inference.model_file import ModelFile, read_model, save_model
from resnets.models.layers import Whitening
from resnets.models.overrides import ResNetFields
from resnets.models.registry import create_model
from resnets.models.resnet import ResNet
from resnets.parsing import convert
from resnets.report.page import Mistake, ReportRecord, TrainingRecord, missing_charts, write_report
from resnets.training.auto_config import (
    DataFacts,
    ResolvedConfig,
    more_micro_batches,
    resolve,
    resolve_steps,
    smaller_micro_batches,
)
from resnets.training.autotune import time_training
from resnets.training.checkpoint import Checkpoint, NotSavedError
from resnets.training.distributed import SINGLE_PROCESS, DistContext, is_lost_rank
from resnets.training.optimizer import learning_rate
from resnets.training.profiler import Clock, ProfileContext, Profiler
from resnets.training.recipe import Recipe, fields_with
from resnets.training.reproducibility import (
    RunFingerprint,
    check_best,
    check_same_run,
    check_unchanged,
    finished_error,
    reproducibility_caveats,
    update_run_config,
)
from resnets.training.run_dir import MODEL_FILE, RunDir
from resnets.training.signals import Interrupted, SignalHandler
from resnets.training.step_metrics import NotFiniteError, StepMetrics, check_finite
from resnets.training.sync_batchnorm import convert_sync_batchnorm
from resnets.training.train_step import StateScalars, TrainState, train_step

Log = Callable[[Mapping[str, Any]], None]

CAUTION = "the test images also chose the best epoch (--validate-on test): scores are optimistic"
VALIDATION_BATCH = 250
# Training images whose patches a whitened stem measures.
WHITENING_IMAGES = 2000
# Share of the time budget for which a training step is timed, when that is more.
MEASURE_SHARE = 0.01
# Images of a lost batch that are named, and augmented images on the report.
IDS_SHOWN = 8
SAMPLES_SHOWN = 32


@dataclass(frozen=True)
class TrainingResult:
    """What a training run leaves.

    Args:
        folder: The run folder.
        scores: Scores of the model file; None if the run was interrupted or could not be saved.
        split: The images that were scored: "test", or "validation" if there are no test images.
        caution: What must be said wherever the scores are shown.
        signal: Number of the signal that interrupted the run.
        unsaved: Why not everything could be saved.
    """

    folder: Path
    scores: Scores | None
    split: str
    caution: str | None = None
    signal: int | None = None
    unsaved: str | None = None

    @property
    def model(self) -> Path:
        """The model file."""
        return self.folder / MODEL_FILE


class Trainer:
    """One training run. Everything in it is a pure function of recipe, data and step.

    `Trainer.start` sets up a new run and `Trainer.resume` an interrupted one; both are contexts
    that end the data loader's workers and release the run folder. `fit` does the rest.

    `preprocess` is that of an earlier run; None measures mean and deviation. `known` has the images
    which that run could not read. `log` is called with every record, a dictionary with a `kind`.
    `resources` are closed with the trainer.

    Images that fit in memory are decoded here: too many that cannot be read raise UserError.
    """

    # Seconds between training records.
    log_every = 1.0
    # Least seconds for which a training step is timed before a run.
    measure_seconds = 2.0
    # Steps that the profiler measures, and how many of them do not count.
    profile: ClassVar = {"steps": 50, "warm_up": 5}

    def __init__(
        self,
        config: ResolvedConfig,
        data: DataSet,
        splits: Splits,
        *,
        device: torch.device,
        dist: DistContext = SINGLE_PROCESS,
        preprocess: Mapping[str, Any] | None = None,
        known: Mapping[str, str] | None = None,
        run_dir: RunDir | None = None,
        log: Log | None = None,
        resources: ExitStack | None = None,
    ) -> None:
        self.config, self.data, self.splits = config, data, splits
        self.device, self.dist = device, dist
        self.run_dir = run_dir or RunDir(Path("no run folder"), writable=False)
        self.checkpoint: Checkpoint | None = None
        self.state: TrainState | None = None
        self.signals = SignalHandler(single_process=dist.world_size == 1)
        self.metrics = StepMetrics(device)
        self.notices = notices_of(data)
        self.cautions: list[str] = []
        self._log_callback = log if dist.is_first else None
        self.corrupt = CorruptImages(data, max_corrupt=config.recipe.source.max_corrupt)
        self._num_failures = 0  # of the loaders of this rank, as far as they are shared
        self._stop_reason: str | None = None
        self._sampled: Failures = {}  # training images that the statistics could not read
        self.preprocess = self._preprocess(preprocess)
        self.train_loader, self.val_loader = self._loaders()
        self.final_loader = self._final_loader()
        self._resources = resources or ExitStack()
        self._resources.callback(self._close_loaders)
        self.train_loader.failures |= self._sampled
        for loader in self._all_loaders if known else ():
            loader.failures |= read_again(loader.split, known or {}, self.preprocess.channels)
        self._share_failures()
        self.corrupt.check()
        for text in self.corrupt.notice():
            self.notices.append(text)
            self.notify(text)
        self._resources.enter_context(deterministic_kernels())

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.config.recipe

    # Set up

    @classmethod
    def start(
        cls,
        data: str | Path,
        config: ResolvedConfig,
        *,
        device: torch.device,
        out: str | Path | None = None,
        name: str | None = None,
        deadline: float | None = None,
        dist: DistContext = SINGLE_PROCESS,
        log: Log | None = None,
        verify: bool = False,
        command: Mapping[str, Any] | None = None,
    ) -> "Trainer":
        """Open the data, choose what the recipe leaves open, time a step, make the run folder.

        The folder is `out`, or the next `runs/NAME-NNN`, where NAME is `name` or that of the data.
        The run must be finished at `deadline`, by `time.perf_counter()`. `verify` records a digest
        of every image. Under torchrun a restart finds the run by its `command`.
        """
        keep_freed_memory()

        def seconds_left() -> float | None:
            return None if deadline is None else deadline - time.perf_counter()

        def notice(text: str) -> None:
            if log is not None and dist.is_first:
                log({"kind": "notice", "text": text})

        batch_size = config.recipe.schedule.batch_size or 0
        # Refuse a batch that the ranks cannot share before anything is measured with it.
        dist.shard_batch(batch_size, grad_accum_steps=config.recipe.optimizer.grad_accum_steps)
        dataset, splits, found = _open_data(data, config.recipe, dist)
        for text in notices_of(dataset):
            notice(text)
        if not len(splits.val):
            raise UserError(
                f"{data}: every class has one image, so none can be held out for validation; add "
                "images or a validation split, or give another column of labels (--columns)"
            )
        if config.origins.get("batch_size") == "flag" and batch_size > len(splits.train):
            raise UserError(
                f"--batch-size {batch_size}: more than the {len(splits.train):,} training images; "
                "pass at most as many, or leave it out"
            )
        facts = DataFacts.of(splits, num_classes=len(dataset.classes))
        notice(
            f"{dataset.name}: {facts.num_train:,} training, {facts.num_val:,} validation and "
            f"{facts.num_test:,} test images; in training "
            f"{describe_classes(dataset.classes, splits.train.targets)}; measuring this machine"
        )
        ranks = dist.world_size
        config = dist.on_rank_zero(
            lambda: resolve(config, facts, seconds=seconds_left(), device=device, world_size=ranks)
        )
        assert config.recipe.runtime.threads is not None
        torch.set_num_threads(config.recipe.runtime.threads)
        with ExitStack() as resources:
            trainer = cls(
                config, dataset, splits, device=device, dist=dist, log=log, resources=resources
            )
            timings = trainer._measure(seconds_left())
            trainer._share_failures()  # what was read to measure
            trainer.corrupt.check()
            trainer.config = dist.on_rank_zero(
                lambda: resolve_steps(trainer.config, facts, seconds=seconds_left(), **timings)
            )
            for reason in trainer.config.reasons:
                notice(reason)

            def create_run_dir() -> RunDir:
                run_dir = RunDir.create(out, name=name or dataset.name, command=command)
                resources.enter_context(run_dir.lock())
                trainer._write_start(run_dir, data, found, verify=verify)
                return run_dir

            run_dir = dist.on_rank_zero(create_run_dir)
            trainer.run_dir = replace(run_dir, writable=dist.is_first)
            trainer._resources = resources.pop_all()
        return trainer

    def _measure(self, seconds_left: float | None) -> dict[str, float]:
        """Time a training step and the evaluation of an image on the slowest rank.

        If memory is exhausted, the micro-batches are halved.
        """
        dist, limit = self.dist, max(self.measure_seconds, MEASURE_SHARE * (seconds_left or 0))
        with dist.local_rank_zero_first():
            model = self.new_model()

        def measure() -> tuple[float, float]:
            loaders = self.train_loader, self.val_loader
            return time_training(model, self.recipe, *loaders, device=self.device, seconds=limit)

        while True:
            try:
                steps, images = zip(*dist.all_gather_object(measure), strict=True)
                reduction = dist.time_all_reduce(model, device=self.device)
                return {
                    "step_seconds": max(steps) + reduction,
                    "image_seconds": max(images) / dist.world_size,
                }
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._halve_micro_batches()  # outside `except` the memory of the attempt is free

    def _write_start(
        self, run_dir: RunDir, data: str | Path, found: Mapping[str, Any], *, verify: bool
    ) -> None:
        """Write what the run starts from; without config.json it cannot be resumed."""
        named = isinstance(data, str) and data in NAMES  # as open_data, which looks there first
        place = str(data) if named else str(expanded(data).absolute())
        record: dict[str, Any] = {"data": place, "name": self.data.name, **found}
        record |= {"preprocess": asdict(self.preprocess), "held_out": list(self.splits.held_out)}
        record |= {"content": content_digest(self.data)} if verify else {}
        run_dir.write_json("data.json", record | {"skipped": self.corrupt.reasons})
        environment = describe_environment(self.device) | {"ranks": self.dist.world_size}
        run_dir.write_json("environment.json", environment)
        origins = self.config.origins
        config = {
            name: {"value": value, "origin": origins.get(name, "default")}
            for name, value in self.recipe.flat().items()
        }
        run_dir.write_json("config.json", config)

    # Resume

    @classmethod
    def resume(
        cls,
        run_dir: RunDir,
        *,
        device: torch.device,
        dist: DistContext = SINGLE_PROCESS,
        log: Log | None = None,
        changes: Mapping[str, Any] | None = None,
        force: bool = False,
        verify: bool = False,
    ) -> "Trainer":
        """Rebuild an interrupted run from its folder; nothing is measured again.

        `changes` are recipe fields with new values. `force` accepts changes that decide bits; every
        result then says so. `verify` compares the bytes of all images.
        """
        keep_freed_memory()
        with ExitStack() as resources:

            def lock_and_read() -> RunFingerprint:
                resources.enter_context(run_dir.lock())
                if (run_dir.path / "scores.json").is_file():
                    raise finished_error(run_dir, changes or {})
                return RunFingerprint.stored(run_dir, force=force)

            before = dist.on_rank_zero(lock_and_read)
            recipe, stored = before.recipe.override(**changes or {}), before.data
            if recipe.runtime.threads:
                torch.set_num_threads(recipe.runtime.threads)
            dataset, splits, found = _open_data(
                stored["data"],
                recipe,
                dist,
                held_out=stored["held_out"],
                preprocess=Preprocess(**stored["preprocess"]),
            )
            if verify and "content" not in stored:
                raise UserError(f"--verify {run_dir.path}: the run was not started with --verify")
            if verify or ("content" in stored and found["fingerprint"] != stored["fingerprint"]):
                found["content"] = dist.on_rank_zero(lambda: content_digest(dataset))
            trainer = cls(
                ResolvedConfig(recipe),
                dataset,
                splits,
                device=device,
                dist=dist,
                preprocess=stored["preprocess"],
                known=stored["skipped"],
                run_dir=replace(run_dir, writable=dist.is_first),
                log=log,
                resources=resources,
            )
            environment = describe_environment(device) | {"ranks": dist.world_size}
            found["skipped"] = trainer.corrupt.reasons
            after = RunFingerprint(recipe, {**stored, **found}, environment)
            trainer.checkpoint = dist.on_rank_zero(
                lambda: trainer._load_checkpoint(before, after, force=force)
            )
            trainer._resources = resources.pop_all()
        return trainer

    def _load_checkpoint(
        self, before: RunFingerprint, after: RunFingerprint, *, force: bool
    ) -> Checkpoint | None:
        """Check what changed, load the newest valid checkpoint, and drop what it repeats."""
        run_dir, damaged = self.run_dir, list[str]()
        changed = check_unchanged(before, after, run_dir=run_dir, force=force)
        checkpoint = run_dir.load(damaged.append)
        for text in damaged:
            self.notify(f"skipped: {text}")
        step, validated, which = 0, 0, "there is no checkpoint yet"
        if checkpoint is not None:
            which = "the newest valid checkpoint" if damaged else "the newest checkpoint"
            scalars, last = StateScalars.of(checkpoint), self.recipe.schedule.steps
            if last is not None and max(scalars.step, scalars.best_step) > last:
                raise UserError(f"{checkpoint.source}: it is beyond the last step, {last:,}")
            changed += check_same_run(checkpoint, run_dir=run_dir, force=force)
            checkpoint, lost, notices = check_best(checkpoint, run_dir=run_dir, force=force)
            changed += lost
            for text in notices:
                self.notify(text)
            step, validated = checkpoint.scalars["step"], checkpoint.scalars["validated"]
        elif damaged:
            if not force:
                raise UserError(
                    f"--resume {run_dir.path}: all {len(damaged)} checkpoints are damaged; restore "
                    "one, or add --force to start again at step 0"
                )
            which = "all checkpoints are damaged"
        self.notify(f"resuming {run_dir.path} at step {step}: {which}")
        update_run_config(run_dir, before, after, changed=changed, step=step)
        if dropped := run_dir.forget_after(step, validated=validated):
            lines = "lines" if dropped > 1 else "line"
            self.notify(f"left out {dropped} damaged {lines} of metrics.jsonl")
        return checkpoint

    # Fit

    def fit(self) -> TrainingResult:
        """Train, then score the model file and write the report.

        A run that a signal or a full disk has stopped has a result too.
        """
        unsaved = None
        with self.signals:  # the first signal ends the step, a second one stops at once
            while True:
                try:
                    self.state = self.init_state()
                    self._log_start()
                    if not self.train_loop():
                        break
                    return self.dist.on_rank_zero(self._finish)
                except NotFiniteError as error:
                    raise self._with_image_ids(error) from None
                except NotSavedError as error:
                    unsaved = str(error)
                    break
                except (Interrupted, KeyboardInterrupt):
                    break  # the last checkpoint holds
                except (RuntimeError, MemoryError) as error:
                    if is_out_of_memory(error):
                        full = str(error)
                    elif self.dist.world_size > 1 and is_lost_rank(error):
                        raise self._lost_rank() from error
                    else:
                        raise
                self._retry_smaller(full)  # outside `except` the memory of the attempt is free
        number = self.signals.number or self.signals.received or None
        if number is None and not unsaved:
            number = signal.SIGINT
        split = self.splits.scored[0]
        return TrainingResult(self.run_dir.path, None, split, signal=number, unsaved=unsaved)

    def _lost_rank(self) -> UserError:
        step = 0 if self.state is None else self.state.step
        return UserError(
            f"rank {self.dist.rank}: another rank is gone at step {step}; torchrun "
            "--max-restarts N, or the same torchrun command with the same --out, "
            "resumes at the last checkpoint"
        )

    def init_state(self) -> TrainState:
        """Build the network and its optimizer, and restore the checkpoint if there is one."""
        with self.dist.local_rank_zero_first():
            model = self.new_model(pretrained=self.checkpoint is None)
        if self.recipe.model.sync_batchnorm:
            convert_sync_batchnorm(model, dist=self.dist, device=self.device)
        state = TrainState.start(model, self.recipe, device=self.device)
        if self.checkpoint is not None:
            state.restore(self.checkpoint)
        return state

    def train_loop(self) -> bool:
        """Step to the end of the run; return False if a signal stopped it.

        StoppedError: too many images are damaged, or a worker is lost; the state is then saved.
        """
        state, dist, recipe = self.running_state, self.dist, self.recipe
        steps, patience = recipe.schedule.steps, recipe.evaluation.patience
        assert steps is not None, "resolve the recipe first"
        compiled: Any = torch.compile(state.model) if recipe.runtime.compile else state.model
        network = dist.distributed_data_parallel(compiled)
        batches = self.train_loader.batches(state.step, steps)
        self._started = time.perf_counter() - self.run_dir.seconds()
        self._saved, self._validation_seconds = time.perf_counter(), math.inf
        self.metrics.reset()
        self.profiler = self._profiler()
        mark = self.profiler.mark
        state.model.train()
        finished = False
        with suppress(Interrupted), self._stop_on_error():
            while self._stop_reason is None:
                if self._needs_validation():
                    self._validate()
                finished = state.step == steps or 0 < patience <= state.validations_since_best
                if finished or self._stop_reason:
                    break
                with self.signals.interruptible():
                    batch = next(batches)
                mark("copy", waited=batch.waited)
                rate = learning_rate(recipe, state.step)
                loss, correct = train_step(state, network, batch, recipe, dist=dist, mark=mark)
                state.step += 1
                num = dist.world_size * len(batch.images)
                self.metrics.add(loss, correct, images=num, step=state.step, indices=batch.indices)
                saving, logging = self._agree(batch)
                if saving or logging:
                    self.metrics.settle()  # before every save: no checkpoint after a lost loss
                    means = self.metrics.read()
                    self.log("train", **self._progress(), **means, learning_rate=rate)
                if saving:
                    self._save()
                mark("other")
                if shares := self.profiler.step():
                    self.log("shares", **shares, **self._progress())
        self.metrics.settle()
        dist.on_rank_zero(lambda: state.save(self.run_dir))
        if self._stop_reason is not None:
            raise StoppedError(self._stop_reason)
        return finished

    @contextmanager
    def _stop_on_error(self) -> Iterator[None]:
        """Stop the run, with its state saved, on an error between two steps: a lost worker."""
        try:
            yield
        except UserError as error:
            if self.dist.world_size > 1:  # the other ranks wait within a step
                raise
            if not self.signals.received:  # else it has reached the workers too
                self._stop_reason = self._stopping(str(error))

    def evaluate(self, model: nn.Module) -> Scores:
        """Score the validation images in the precision of training, equal on every rank."""
        dist = self.dist
        dist.broadcast_buffers(model)
        rounds = math.ceil(len(self.splits.val) / (dist.world_size * VALIDATION_BATCH))
        batches = dist.in_lockstep(self.val_loader, rounds=rounds, signals=self.signals)
        with autocast(self.device, self.recipe.runtime.precision):
            return evaluate(model, batches, self.data.classes, all_reduce=dist.all_reduce_metrics)

    def _validate(self) -> None:
        """Evaluate, keep the best weights, and save if they improved."""
        state, begin = self.running_state, time.perf_counter()
        self.profiler.mark("other")
        with self.signals.interruptible():
            scores = self.evaluate(state.evaluated_model)
        if self.dist.all_gather(self._has_new_failures())[:, 0].any():
            self._share_failures()
        state.model.train()
        self.profiler.mark("evaluation")
        check_finite(scores.loss, step=state.step)
        improved = state.record_score(scores.top1)
        self.log("validation", **self._progress(), loss=scores.loss, top1=scores.top1)
        self._validation_seconds = time.perf_counter() - begin
        if improved and state.step < (self.recipe.schedule.steps or 0):
            self._save()
        self.metrics.reset()

    def _agree(self, batch: Batch) -> tuple[bool, bool]:
        """Exchange what may stop, save or log: all ranks follow one signal and rank 0's clock."""
        due = self._needs_validation()
        # A kill loses the time since the last save. The first validation may take any time.
        unsaved = time.perf_counter() - self._saved + (self._validation_seconds if due else 0)
        saving = unsaved >= 60 * self.recipe.runtime.checkpoint_every
        logging = due or self.metrics.seconds() >= self.log_every
        rows = self.dist.all_gather(
            self.signals.received, batch.replaced, saving, logging, self._has_new_failures()
        )
        self.running_state.replaced += int(rows[:, 1].sum())
        if rows[:, 4].any():
            self._share_failures()
        stopping = self.signals.agree(rows[:, 0])
        return bool(rows[0, 2]), stopping or due or bool(rows[0, 3])

    def _save(self) -> None:
        """Write a checkpoint; if the disk is full, report it and continue."""
        try:
            self.running_state.save(self.run_dir)
        except NotSavedError as error:
            text = "training continues, the last checkpoint stays, and the next save tries again"
            self.notify(f"{error}; {text}")
        self._saved = time.perf_counter()

    def _needs_validation(self) -> bool:
        """Return whether the state should have been validated, counted back from the last step.

        There is no validation within the first half of an interval.
        """
        state, schedule = self.running_state, self.recipe.schedule
        every = self.recipe.evaluation.evaluate_every
        assert schedule.steps and schedule.batch_size and every
        interval = max(1, round(every * len(self.splits.train) / schedule.batch_size))
        left = schedule.steps - state.step
        due = left == 0 or (left % interval == 0 and 2 * state.step >= interval)
        return due and state.validated < state.step

    # Images that cannot be read

    @property
    def _all_loaders(self) -> tuple[TrainLoader | EvalLoader, ...]:
        return self.train_loader, self.val_loader, self.final_loader

    def _has_new_failures(self) -> bool:
        return sum(len(loader.failures) for loader in self._all_loaders) > self._num_failures

    def _share_failures(self) -> None:
        """Tell all ranks which images cannot be read; all then stop, or none does."""
        for images in self.dist.all_gather_object(self._new_failures):
            self.corrupt.add(images)
        self._num_failures = sum(len(loader.failures) for loader in self._all_loaders)
        if self.state is None:  # before the run: nothing is lost by an error
            return
        self._record_failures()
        if refusal := self.corrupt.refusal():
            self._stop_reason = self._refused(refusal)

    def _new_failures(self) -> list[CorruptImage]:
        """Return what the loaders of this rank could not read and was not known."""
        source = source_splits(self.data, self.splits)
        final = "val" if self.splits.test is None else "test"
        parts = zip(("train", "val", final), self._all_loaders, strict=True)
        return [
            image
            for part, loader in parts
            for image in self.corrupt.unknown(source[part], loader.split, loader.failures)
        ]

    def _record_failures(self) -> None:
        """Write what cannot be read into data.json, so that a resumed run knows it."""
        if self.run_dir.writable:
            with suppress(OSError):  # a full disk: the next time writes it
                data = self.run_dir.read_json("data.json")
                self.run_dir.write_json("data.json", data | {"skipped": self.corrupt.reasons})

    def _refused(self, refusal: tuple[str, str]) -> str:
        """Return in one line why the run stops, and the command that resumes it."""
        if self.corrupt.share > self.corrupt.max_corrupt:
            accepted = math.ceil(100 * self.corrupt.share) / 100
            return self._stopping(refusal[0], f"to accept them: {{}} --max-corrupt {accepted:g}")
        return self._stopping(refusal[0], "repair them, and resume with: {} --force")

    def _stopping(self, reason: str, advice: str = "resume with: {}") -> str:
        step = self.running_state.step
        command = f"resnets train --resume {shlex.quote(str(self.run_dir.path))}"
        return f"{reason}; the run is saved at step {step}; {advice.format(command)}"

    # Out of memory, and other ends

    def _retry_smaller(self, error: str) -> None:
        """Drop the attempt and halve the micro-batches, unless steps would be lost."""
        ranks, step = self.dist.world_size, 0 if self.state is None else self.state.step
        if ranks > 1 or self.run_dir.load() is not None:
            number = more_micro_batches(self.recipe, world_size=ranks)
            advice = "start a new run with a smaller --batch-size"
            if number is not None:
                resume = f"--resume {self.run_dir.path} --force --grad-accum-steps {number}"
                advice = f"resume with {resume}"
            raise UserError(f"out of memory at step {step}: {advice} ({error})")
        self.state = None
        self.metrics.reset()
        self._halve_micro_batches()
        self.notify(self.config.reasons[-1])
        config = self.run_dir.read_json("config.json")
        pieces = self.recipe.optimizer.grad_accum_steps
        config["grad_accum_steps"] = {"value": pieces, "origin": "memory"}
        self.run_dir.write_json("config.json", config)
        self.run_dir.forget_after(0, validated=0)

    def _halve_micro_batches(self) -> None:
        return_freed_memory()
        self.config = smaller_micro_batches(self.config, world_size=self.dist.world_size)
        if self.dist.world_size > 1:  # each rank gets another slice of the batch
            self._close_loaders()
            self.train_loader, self.val_loader = self._loaders()
            self._num_failures = 0

    def _with_image_ids(self, error: NotFiniteError) -> NotFiniteError:
        """Return the same error, naming images of its batch."""
        if error.indices is None:
            return error
        indices = np.concatenate(self.dist.all_gather_object(lambda: error.indices))
        names = ", ".join(self.splits.train.ids[index] for index in indices[:IDS_SHOWN])
        more = len(indices) - IDS_SHOWN
        tail = f" and {more} more" if more > 0 else ""
        return NotFiniteError(f"{error}, in the batch of {names}{tail}", indices)

    # Finish

    def _finish(self) -> TrainingResult:
        """Save and score the model file and write the report; scores.json comes last."""
        self.signals.leave_ranks()
        recipe, (split, images) = self.recipe, self.splits.scored
        path, scores, unsaved = self.run_dir.path / MODEL_FILE, None, None
        mistakes = Mistakes(images, self.data.classes, self.preprocess)
        try:
            with self.signals.interruptible():
                file = self._model_file()
                save_model(path, file)
                scores = score(
                    read_model(path), self.final_loader, check=self._check, callback=mistakes
                )
                for text in (*self._replaced_notice(), *missing_charts()):
                    self.notices.append(text)
                    self.notify(text)
                self.cautions += score_cautions(
                    scores, self._not_scored(), images=f"{split} images"
                )
                record = scores.to_dict()
                record |= {"split": split, "validate_on": recipe.evaluation.validate_on}
                record |= {"cautions": self.cautions} if self.cautions else {}
                save_model(path, replace(file, scores=record))
                write_report(self.run_dir.path, self._report(scores, mistakes))
                self.run_dir.write_json("scores.json", record)
        except OSError as error:
            unsaved = str(error)
        except WorkerError as error:
            raise StoppedError(self._stopping(str(error))) from error
        caution = "; ".join(self.cautions) or None
        return TrainingResult(self.run_dir.path, scores, split, caution, unsaved=unsaved)

    def _check(self) -> None:
        """Stop where too many of the images that are scored cannot be read."""
        self.corrupt.add(self._new_failures())
        self._record_failures()
        if refusal := self.corrupt.refusal():
            raise StoppedError(self._refused(refusal))

    def _replaced_notice(self) -> list[str]:
        """Return a notice of the training images that were replaced, or nothing."""
        if not (replaced := self.running_state.replaced):
            return []
        found = self.corrupt.decoded[source_splits(self.data, self.splits)["train"]]
        held_out = frozenset(self.splits.held_out)
        names = {name: reason for name, reason in found.items() if name not in held_out}
        times = f"{replaced} times" if replaced > 1 else "once"
        return [
            f"an unreadable image was replaced by the next one {times} in training: "
            f"{listed_reasons(names)}"
        ]

    def _not_scored(self) -> dict[str, str]:
        """Return id and reason of each image that the final scores lack."""
        loader, headers = self.final_loader, dict[str, str]()
        if not self.splits.held_out:
            part = "val" if self.splits.test is None else "test"
            headers = self.corrupt.headers[source_splits(self.data, self.splits)[part]]
        decoded = sorted(loader.failures.items())
        return {loader.split.ids[index]: reason for index, reason in decoded} | headers

    def _model_file(self) -> ModelFile:
        local, stored = fields_with(Rule.LOCAL), self.run_dir.read_json("data.json")
        recipe = {name: value for name, value in self.recipe.flat().items() if name not in local}
        return ModelFile(
            config=self.running_state.model.config,
            preprocess=self.preprocess,
            classes=self.data.classes,
            scores=None,
            recipe=json.loads(json.dumps(recipe)),
            data={key: stored[key] for key in ("name", "fingerprint", "sizes")},
            weights=self.run_dir.load_best().tensors,
        )

    def _report(self, scores: Scores, mistakes: Mistakes) -> ReportRecord:
        """Gather what the report page shows."""
        recipe: Any = self.recipe  # resolved: none of these fields is None
        training = TrainingRecord(
            split_sizes=self.splits.sizes(),
            steps=recipe.schedule.steps,
            batch_size=recipe.schedule.batch_size,
            best_step=self.running_state.best_step,
            optimizer=recipe.optimizer.name,
            schedule=recipe.schedule.name,
            learning_rate=recipe.optimizer.learning_rate,
            weight_decay=recipe.optimizer.weight_decay,
        )
        return ReportRecord(
            model=recipe.model.name,
            image_size=recipe.model.size,
            data=self.run_dir.read_json("data.json")["name"],
            split=self.splits.scored[0],
            scores=scores.to_dict(),
            model_file=MODEL_FILE,
            training=training,
            history=self.run_dir.history(),
            samples=self._samples(),
            wide_pixels=described(self.preprocess.pixel_range),
            mistakes=[Mistake(**row) for row in mistakes.worst()],
            notices=self.notices,
            cautions=self.cautions,
        )

    def _samples(self) -> list[tuple[NDArray[np.uint8], str]]:
        """Return training images as the network sees them, augmented, as uint8 H W C."""
        try:
            batch = next(iter(self.train_loader.batches(0, 1)))
        except NoneReadableError:  # their files have vanished: the page goes without
            return []
        mean = torch.tensor(self.preprocess.mean, device=self.device).view(1, -1, 1, 1)
        std = torch.tensor(self.preprocess.std, device=self.device).view(1, -1, 1, 1)
        colours = ((batch.images * std + mean) * 255).round().clamp(0, 255).byte()
        targets = batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(1)
        pixels = colours.permute(0, 2, 3, 1).cpu().numpy()  # N C H W -> N H W C
        labels = [self.data.classes[int(target)] for target in targets]
        return list(zip(pixels, labels, strict=True))[:SAMPLES_SHOWN]

    def close(self) -> None:
        """End the data loader's workers and release the run folder."""
        self._resources.close()

    def _close_loaders(self) -> None:
        for loader in self._all_loaders:
            loader.close()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Parts

    def new_model(self, *, pretrained: bool = True) -> ResNet:
        """Build the network: its weights are a function of the seed, or the recipe's weights.

        `pretrained=False` builds it for a checkpoint, which replaces all weights.
        """
        config, num_classes = self.recipe.model, len(self.data.classes)
        assert config.name is not None, "resolve the recipe first"
        weights = config.weights if pretrained else None
        extra: ResNetFields = {}
        if config.dropout:
            extra["dropout"] = config.dropout
        if config.drop_path:
            extra["drop_path"] = config.drop_path
        torch.manual_seed(self.recipe.seed)
        model = create_model(
            config.name,
            num_classes=num_classes,
            in_channels=self.preprocess.channels,
            weights=weights,
            **extra,
        )
        model.config.check_input_size(self.preprocess.size)
        if weights is not None:
            # Equally many classes need not be the same classes: fine-tuning has its own head.
            model.reset_classifier(num_classes)
        elif pretrained and isinstance(model.conv1, Whitening):
            # Images from all over the split.
            images, number = self.splits.train, min(len(self.splits.train), WHITENING_IMAGES)
            places = np.linspace(0, len(images) - 1, number).round().astype(np.int64)
            some = EvalLoader(
                images.subset(places), preprocess=self.preprocess, batch_size=number, device="cpu"
            )
            model.conv1.fit(next(iter(some)).images)
        return model

    def _preprocess(self, stored: Mapping[str, Any] | None) -> Preprocess:
        """Return the preprocessing, with mean and deviation of the training images."""
        if stored is not None:
            return convert(stored, Preprocess, name="preprocess in data.json")
        model, train, tta = self.recipe.model, self.splits.train, self.recipe.evaluation.tta
        assert model.size is not None, "resolve the recipe first"
        plain = Preprocess(
            size=model.size,
            channels=train.channels,
            resize_mode=model.resize_mode,
            tta=tta,
            pixel_range=train.pixel_range,
        )
        mean, std = channel_statistics(train, plain, failures=self._sampled)
        return replace(plain, mean=mean, std=std)

    def _loaders(self) -> tuple[TrainLoader, EvalLoader]:
        """Decode what fits in memory; each rank has its slice of every batch and evaluation."""
        recipe, runtime = self.recipe, self.recipe.runtime
        batch_size, pieces = recipe.schedule.batch_size, recipe.optimizer.grad_accum_steps
        assert batch_size is not None
        val_images = self.dist.shard(self.splits.val)
        shared: Any = {"workers": runtime.workers, "cache_mb": runtime.cache_mb}
        shared |= {"preprocess": self.preprocess, "device": self.device}
        train_loader = TrainLoader(
            self.splits.train,
            augment=recipe.augment,
            num_classes=len(self.data.classes),
            batch_size=batch_size,
            seed=recipe.seed,
            places=self.dist.shard_batch(batch_size, grad_accum_steps=pieces),
            **shared,
        )
        val_loader = EvalLoader(val_images, batch_size=VALIDATION_BATCH, **shared)
        val_loader.decode()
        return train_loader, val_loader

    def _final_loader(self) -> EvalLoader:
        """Return the loader of the final scores, which are those of rank 0.

        Test images that fit in memory are decoded now, not at the end: they may be damaged.
        """
        images, runtime = self.splits.scored[1], self.recipe.runtime
        if images is self.val_loader.split:
            return self.val_loader
        loader = EvalLoader(
            images,
            preprocess=self.preprocess,
            batch_size=BATCH_SIZE,
            device=self.device,
            workers=runtime.workers or 0,
            cache_mb=runtime.cache_mb,
        )
        if images is self.splits.test:
            self.dist.on_rank_zero(loader.decode)
        return loader

    def _profiler(self) -> Profiler:
        context = ProfileContext(
            self.recipe,
            num_train=len(self.splits.train),
            num_val=len(self.splits.val),
            cores=usable_cpus(),
            streamed=not self.train_loader.cached,
            advice=self.config.advice,
        )
        return Profiler(context, clock=Clock.of(self.device), **self.profile)

    @property
    def running_state(self) -> TrainState:
        """The state, which `fit` has built."""
        assert self.state is not None, "call init_state first"
        return self.state

    # Records

    def log(self, kind: str, **values: Any) -> None:
        """Append a record to metrics.jsonl and pass it to the log callback."""
        record = {"kind": kind, **values}
        if kind in ("train", "validation", "shares"):
            self.run_dir.log(record)
        if self._log_callback is not None:
            self._log_callback(record)

    def notify(self, text: str) -> None:
        """Log a line of text."""
        self.log("notice", text=text)

    def _progress(self) -> dict[str, float]:
        state = self.running_state
        epoch = state.step * (self.recipe.schedule.batch_size or 0) / len(self.splits.train)
        return {"step": state.step, "epoch": epoch, "seconds": time.perf_counter() - self._started}

    def _log_start(self) -> None:
        """Log where the run starts, and what must be said wherever its scores are shown."""
        step, steps = self.running_state.step, self.recipe.schedule.steps
        self.log("start", step=step, steps=steps, seconds=self.run_dir.seconds())
        if not self.cautions:
            self.cautions = [CAUTION] if self.recipe.evaluation.validate_on == "test" else []
            self.cautions += self.dist.on_rank_zero(lambda: reproducibility_caveats(self.run_dir))
            copies, leaks = self.dist.on_rank_zero(self._copy_warnings)
            self.notices += copies
            self.cautions += leaks
            for text in (*copies, *self.cautions):
                self.notify(text)

    def _copy_warnings(self) -> tuple[list[str], list[str]]:
        """Return notices and cautions of equal images, where all images are in memory."""
        return copy_warnings(self.splits) if self.train_loader.cached else ([], [])


def splits_for(data: DataSet, recipe: Recipe, *, held_out: Sequence[str] | None = None) -> Splits:
    """Return the splits that a recipe asks for; `held_out` repeats those of an earlier run."""
    return make_splits(
        data,
        validate_on=recipe.evaluation.validate_on,
        val_fraction=recipe.evaluation.val_fraction,
        seed=recipe.seed,
        held_out=held_out,
    )


def _open_data(
    data: str | Path,
    recipe: Recipe,
    dist: DistContext,
    *,
    held_out: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
) -> tuple[DataSet, Splits, dict[str, Any]]:
    """Return the data, its splits, and what is recorded of them: all ranks must find the same."""
    with dist.local_rank_zero_first():
        dataset = open_data(data, recipe.source, preprocess=preprocess)
    splits = splits_for(dataset, recipe, held_out=held_out)
    mark, classes = fingerprint(dataset), list(dataset.classes)
    dist.check_equal(str(data), mark)
    return dataset, splits, {"fingerprint": mark, "classes": classes, "sizes": splits.sizes()}
