"""`resnets train`: flags in, a run folder out."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from resnets.cli.flags import Device
from resnets.errors import UserError
from resnets.training.recipe import TIME_OR_LENGTH, Recipe
from resnets.training.recipes import named_recipe, read_recipe

if TYPE_CHECKING:
    from resnets.training.trainer import TrainingResult

NOT_FINITE, NOT_SAVED, SIGNALLED = 3, 4, 128


@dataclass(frozen=True)
class Train:
    """Train a network on DATA and leave a run folder with the model file and a report.

    DATA is a folder of class folders (with or without train/val/test), a .csv or .jsonl manifest,
    an .npz, a parquet data set, or a name: fashion-mini (embedded), mnist, fashion-mnist, kmnist,
    cifar10, cifar100. Everything left out is chosen from the data and the measured speed.

    for example:
      resnets train photos/ --time 10m
      resnets train photos/ --model resnet18 --size 96 --epochs 30
      resnets train --resume runs/photos-001
    """

    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    """images to learn from"""
    recipe: str = "default"
    """named recipe whose values the other flags override: default, fast, he2015, finetune,
    torchvision-v2"""
    recipe_file: Path | None = None
    """the same from a TOML file"""
    time: str | None = None
    """wall clock from start to finished run folder, such as 20m, 90s or 1h30m"""
    out: Path | None = None
    """run folder, new or empty; runs/NAME-NNN when left out"""
    resume: Path | None = None
    """go on with the interrupted run in this folder; other flags say what to change"""
    force: bool = False
    """resume although something has changed that decides the result; every output says so"""
    verify: bool = False
    """record a digest of every image's bytes; with --resume, compare them"""
    device: Device = "auto"
    """where to compute"""
    quiet: bool = False
    """print the result only"""
    options: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)

    @classmethod
    def default(cls, arguments: Sequence[str]) -> Train:
        """The defaults after `--recipe` or `--recipe-file`, which are read first."""
        name, path = _value("recipe", arguments), _value("recipe-file", arguments)
        resumed = _value("resume", arguments)
        if name and path:
            raise UserError("--recipe and --recipe-file both given: pass one of them")
        options = read_recipe(Path(path)) if path else named_recipe(name or "default")
        if resumed:
            options = _stored(resumed)
        length = _value("epochs", arguments) or _value("steps", arguments)
        if _value("time", arguments) and length:  # also where it is the recipe's own
            raise UserError(TIME_OR_LENGTH)
        if _value("epochs", arguments) and not _value("steps", arguments):
            options = replace(options, steps=None)  # epochs asked for replace a recipe's steps
        if _value("steps", arguments) and not _value("epochs", arguments):
            options = replace(options, epochs=None)
        return cls(recipe=name or "default", options=options)

    def run(self, started: float) -> int:
        """Train, then say what came out and what to do next."""
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torch's C++ warns each rank of what is meant so
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from resnets import api
        from resnets.cli.progress import Display
        from resnets.training.distributed import current_rank
        from resnets.training.step_metrics import NotFiniteError

        file = self.recipe_file
        recipe = self.recipe if file is None else read_recipe(file)
        base = named_recipe(recipe) if isinstance(recipe, str) else recipe
        if self.resume is not None:
            base = _stored(self.resume)
        flags = {k: v for k, v in asdict(self.options).items() if v != getattr(base, k)}
        try:
            with Display(quiet=self.quiet or current_rank() > 0) as display:
                result = api.train(
                    self.data,
                    recipe=recipe,
                    time=self.time,
                    out=self.out,
                    resume=self.resume,
                    device=self.device,
                    force=self.force,
                    verify=self.verify,
                    log=display,
                    started=started,
                    **flags,
                )
        except NotFiniteError as error:
            if current_rank() == 0:
                print(
                    f"resnets: {error}; the checkpoints before it are kept. A smaller "
                    "--learning-rate or --clip-grad-norm 1 helps",
                    file=sys.stderr,
                )
            return NOT_FINITE
        return announce(result) if current_rank() == 0 else exit_code(result)


def exit_code(result: TrainingResult) -> int:
    """What the shell is told."""
    if result.unsaved is not None:
        return NOT_SAVED
    return 0 if result.signal is None else SIGNALLED + result.signal


def announce(result: TrainingResult) -> int:
    """Print where everything is; returns the exit code."""
    from resnets.cli.progress import launcher, program

    folder = shlex.quote(str(result.folder))
    resume = f"{launcher()} train --resume {folder}"
    if result.signal is not None and result.unsaved is None:
        print(f"stopped; resume with:\n  {resume}", file=sys.stderr)
        return exit_code(result)
    if result.scores is not None:
        low, high = result.scores.top1_interval
        print(
            f"top-1 {result.scores.top1:.2%} (95 % interval {low:.2%} to {high:.2%}) "
            f"on {result.scores.num_images:,} {result.split} images"
        )
    if result.caution:
        print(f"caution: {result.caution}")
    if result.unsaved is not None:
        print(f"resnets: not everything could be saved: {result.unsaved}", file=sys.stderr)
        print(f"free some disk space, then resume with:\n  {resume}", file=sys.stderr)
        return exit_code(result)
    print(f"model   {result.model}\nreport  {result.folder / 'report.html'}")
    print(f"next    {program()} predict {folder} IMAGES\n        {program()} show {folder}")
    return exit_code(result)


def _stored(folder: str | Path) -> Recipe:
    """The recipe of the run to be resumed."""
    from resnets.training.reproducibility import stored_recipe
    from resnets.training.run_dir import RunDir

    return stored_recipe(RunDir.open(folder))


def _value(flag: str, arguments: Sequence[str]) -> str | None:
    """The value of `--flag VALUE` or `--flag=VALUE`; the parser proper checks the rest."""
    for index, argument in enumerate(arguments):
        name, separator, _ = argument.replace("_", "-").partition("=")
        if name == f"--{flag}":
            if separator:
                return argument.partition("=")[2]
            return arguments[index + 1] if index + 1 < len(arguments) else None
    return None
