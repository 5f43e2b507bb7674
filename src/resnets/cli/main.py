"""The command line: a verb is a dataclass, its fields are the flags, its `run` calls the API.

Nothing heavy is imported before a verb runs; `resnets --help` needs the standard library only.
Exit codes: 0 done, 2 the user's mistake, 3 the loss is not finite, 4 finished but not all was
saved, 128 + n stopped by signal n (130 for Ctrl-C, 141 when the reader of a pipe has gone).
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module

from resnets import __version__
from resnets.errors import UserError, unknown

MISTAKE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141

VERBS = {
    "demo": "resnets.cli.demo:Demo",
    "train": "resnets.cli.train:Train",
    "evaluate": "resnets.cli.evaluate:Evaluate",
    "predict": "resnets.cli.predict:Predict",
    "show": "resnets.cli.show:Show",
    "models": "resnets.cli.models:Models",
    "study init": "resnets.cli.study:Init",
    "study train": "resnets.cli.study:Train",
    "study probe": "resnets.cli.study:Probe",
    "study report": "resnets.cli.study:Report",
    "study check": "resnets.cli.study:Check",
    "study": "resnets.cli.study:Everything",
}
"""a verb is one word, or two of which the first is GROUP; GROUP alone does all of its verbs"""
GROUP = "study"

HELP = f"""\
resnets {__version__}: residual networks, from the paper to production

usage: resnets VERB [options]      resnets VERB --help lists a verb's options

first steps
  demo        train on the embedded images, evaluate, predict: three minutes on two cores
  train       train a network on DATA: a folder of images, a file or a name

with a trained model
  evaluate    score a model file on images with known classes
  predict     classify images with a model file
  show        print what a model file holds

networks
  models      list the networks with sizes and published errors

why depth works
  study          all of it, in order, into one page; about ten minutes on two cores
  study init     ten kinds of network at initialisation, to 10,000 layers, beside theory
  study train    plain and residual twins at many depths, trained, tuned and tested
  study probe    measure what the units of a trained network do
  study report   the page: figures with a sentence each, judged claims
  study check    compare stored claims with a study's tables

examples
  resnets train photos/ --time 10m          the network is chosen from images, time and machine
  resnets train cifar10 --model resnet20 --recipe he2015
  resnets evaluate runs/photos-001 held-out/
  resnets predict runs/photos-001 new/*.jpg --top 3
  resnets models 'resnet*'

--version prints the version; every verb has --device auto|cpu|cuda|mps and --quiet
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    started = time.perf_counter()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and classes print everywhere
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments, started)
        sys.stdout.flush()
        return code
    except SystemExit as end:  # the parser's own: help was asked for, or its box says what is wrong
        if isinstance(end.__context__, BrokenPipeError):  # rich turns one into an exit with 1
            return PIPE_CLOSED
        return end.code if isinstance(end.code, int) else 0
    except UserError as error:
        return _complain(str(error), MISTAKE)
    except BrokenPipeError:  # `resnets predict ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        return _complain(_describe(error), MISTAKE)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)


def _run(arguments: list[str], started: float) -> int:
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if verb == "--version":
        print(f"resnets {__version__}")
        return 0
    rest = arguments[1:]
    if verb == GROUP and rest and rest[0] in ("-h", "--help"):
        print(_group_help(), end="")
        return 0
    if verb == GROUP and rest and not rest[0].startswith("-"):
        verb, rest = f"{GROUP} {rest[0]}", rest[1:]
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    import tyro

    room, _, name = VERBS[verb].partition(":")
    command = getattr(import_module(room), name)
    default = command.default(rest) if hasattr(command, "default") else tyro.MISSING_NONPROP
    parsed = tyro.cli(
        command,
        args=rest,
        prog=f"resnets {verb}",
        default=default,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
    )
    code: int = parsed.run(started)
    return code


def _group_help() -> str:
    """The verbs of the group, as the page of all verbs describes them, and what it does alone."""
    lines = [line for line in HELP.splitlines() if line.startswith(f"  {GROUP} ")]
    usage = f"usage: resnets {GROUP} VERB [options]      resnets {GROUP} VERB --help lists options"
    alone = (
        f"resnets {GROUP} without a verb does all of it, and goes on where it was stopped:\n"
        "  --out DIR        folder of the study (runs/study)\n"
        "  --processes N    runs at a time, one thread each (as many as cores)\n"
        "  --device {auto,cpu,cuda,mps}    where to probe\n"
        "  --quiet          print the page's path only"
    )
    return "\n".join([usage, "", *lines, "", alone, ""])


def _complain(message: str, code: int) -> int:
    print(f"resnets: {' '.join(message.split())}", file=sys.stderr)
    return code


def _describe(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"
