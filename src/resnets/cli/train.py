"""Provide `resnets train`."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from resnets.cli.flags import Device, Switch, default, recipe_flags, typed_values
from resnets.cli.output import print_message, print_result
from resnets.errors import UserError
from resnets.training.recipe import Recipe
from resnets.training.recipes import named_recipe, read_recipe

if TYPE_CHECKING:
    from resnets.training.trainer import TrainingResult

NOT_FINITE, NOT_SAVED, SIGNALLED = 3, 4, 128
NO_DATA = "no DATA given: a folder of images, or a name such as fashion-mini"


@dataclass(frozen=True)
class Train:
    """Train a network on DATA and leave a run folder with the model file and a report.

    DATA is a folder of class folders (with or without train/val/test), a .csv or .jsonl manifest,
    an .npz, a parquet data set, or a name: fashion-mini (embedded), mnist, fashion-mnist, kmnist,
    cifar10, cifar100. What you leave out is chosen from the data and the measured speed.

    for example:
      resnets train photos/ --time 10m
      resnets train photos/ --model resnet18 --size 96 --epochs 30
      resnets train --resume runs/photos-001
    """

    data: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA", help_behavior_hint="")
    ] = None
    """images to learn from"""
    recipe: str = "default"
    """named recipe, which the other options override: default, fast, finetune, he2015,
    torchvision-v2"""
    recipe_file: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="")] = None
    """recipe in a TOML file"""
    time: Annotated[str | None, default("no limit")] = None
    """wall-clock time from start to finished run folder: 90s, 20m or 1h30m"""
    out: Annotated[Path | None, default("runs/NAME-NNN")] = None
    """run folder, new or empty"""
    resume: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="")] = None
    """resume the interrupted run in this folder; other options change its recipe"""
    force: Switch = False
    """resume although something has changed that decides the result; every output says so"""
    verify: Switch = False
    """record a digest of every image; with --resume, compare it"""
    device: Device = "auto"
    """where to compute"""
    quiet: Switch = False
    """print the result only"""
    flags: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    leaves_files: ClassVar[bool] = True

    @classmethod
    def with_options(cls, words: Sequence[str]) -> "type[Train]":
        """Return the command with the options of a recipe, whose values the help shows."""
        name, path = _value("recipe", words), _value("recipe-file", words)
        resumed = _value("resume", words) if {"-h", "--help"} & set(words) else None
        if name and path:
            raise UserError("--recipe and --recipe-file both given: pass one of them")
        values = read_recipe(Path(path)) if path else named_recipe(name or "default")
        shown = Recipe().override(**values)
        if resumed:
            from resnets.training.reproducibility import stored_recipe
            from resnets.training.run_dir import RunDir

            shown = stored_recipe(RunDir.open(resumed))
        flags: Any = Annotated[recipe_flags(shown), tyro.conf.arg(name="")]
        command = make_dataclass(
            "Train", [("flags", flags, field(default_factory=dict))], bases=(cls,), frozen=True
        )
        command.__doc__ = cls.__doc__
        return command

    def run(self, started: float) -> int:
        fields = typed_values(self.flags)
        if self.data is None and self.resume is None:
            raise UserError(NO_DATA)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            # torch's C++ warns each rank of an intended setting.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from resnets import api
        from resnets.cli.progress import Display
        from resnets.training.distributed import current_rank
        from resnets.training.step_metrics import NotFiniteError

        recipe = self.recipe if self.recipe_file is None else read_recipe(self.recipe_file)
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
                    **fields,
                )
        except NotFiniteError as error:
            if current_rank() == 0:
                print_message(
                    f"resnets: {error}; earlier checkpoints are kept. Try a smaller "
                    "--learning-rate, or --clip-grad-norm 1"
                )
            return NOT_FINITE
        return announce(result) if current_rank() == 0 else exit_code(result)


def exit_code(result: "TrainingResult") -> int:
    """Return the exit code of a result."""
    if result.unsaved is not None:
        return NOT_SAVED
    return 0 if result.signal is None else SIGNALLED + result.signal


def announce(result: "TrainingResult") -> int:
    """Print the scores, where the files are, and what to do next; return the exit code."""
    from resnets.cli.progress import launcher, program

    code, folder = exit_code(result), shlex.quote(str(result.folder))
    resume = f"  {launcher()} train --resume {folder}"
    if code > SIGNALLED:
        print_message("stopped; resume with:")
        print_message(resume)
        return code
    if result.scores is not None:
        low, high = result.scores.top1_interval
        print_result(
            f"top-1 {result.scores.top1:.2%} (95 % interval {low:.2%} to {high:.2%}) "
            f"on {result.scores.num_images:,} {result.split} images"
        )
    if result.caution:
        print_result(f"caution: {result.caution}")
    if code:
        print_message(f"resnets: not everything could be saved: {result.unsaved}")
        print_message("then resume with:")
        print_message(resume)
        return code
    print_result(f"model   {result.model}")
    print_result(f"report  {result.folder / 'report.html'}")
    print_result(f"next    {program()} predict {folder} IMAGES")
    print_result(f"        {program()} show {folder}")
    return code


def _value(flag: str, words: Sequence[str]) -> str | None:
    """Return the value of `--flag VALUE` or `--flag=VALUE`; the parser checks the rest."""
    for index, word in enumerate(words):
        name, separator, _ = word.replace("_", "-").partition("=")
        if name == f"--{flag}":
            if separator:
                return word.partition("=")[2]
            return words[index + 1] if index + 1 < len(words) else None
    return None
