"""Run a command line: each command is a dataclass whose fields are its options.

Nothing heavy is imported before a command runs; `resnets --help` needs the standard library only.
Exit codes: 0 done, 1 `check` found a problem, 2 a mistake of the user, 3 the loss is not finite, 4
not everything was done or saved, 128 + n stopped by signal n (130 for Ctrl-C, 141 when the reader
of a pipe has gone). A command that `leaves_files` does not fail where standard output does: its
result is on the disk.
"""

import io
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from importlib import import_module
from typing import Any

from resnets import __version__
from resnets.cli.output import (
    print_message,
    print_result,
    require_stdout,
    standard_streams,
    stdout_failure,
)
from resnets.errors import UserError, is_lost_device, is_out_of_memory, nearest, unknown

MISTAKE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141

# Columns for the help text: with fewer, the parser breaks lines for ever.
NARROWEST = 40

# A command is one word, or GROUP and a second word; GROUP alone is a command too. The first word
# names its module, the last one its class.
GROUP = "study"
SECTIONS = {
    "first steps": {
        "demo": "train on the embedded images, evaluate and predict; three minutes on two cores",
        "check": "look for copies, leaks, wrong labels and broken images in DATA",
        "train": "train a network on DATA: a folder of images, a file or a name",
    },
    "with a trained model": {
        "evaluate": "score a model file on images with known classes",
        "predict": "classify images with a model file",
        "show": "print what a model file holds",
    },
    "networks": {"models": "list the networks with sizes and published errors"},
    "why depth works": {
        "study": "run the whole study and write its page; about ten minutes on two cores",
        "study init": "measure ten kinds of network at initialisation, to 10,000 layers",
        "study train": "train plain and residual networks of many depths",
        "study probe": "measure what the blocks of a trained network do",
        "study report": "write the page: figures, tables, tested claims",
        "study check": "compare stored claims with a study's tables",
    },
}
COMMANDS = [name for section in SECTIONS.values() for name in section]
HELP = """\
resnets {version}: residual networks in PyTorch

usage: resnets COMMAND [options]      resnets COMMAND --help lists the options of a command

{sections}

examples
  resnets train photos/ --time 10m          network and size follow from images, time and machine
  resnets train cifar10 --model resnet20 --recipe he2015
  resnets evaluate runs/photos-001 held-out/
  resnets predict runs/photos-001 new/*.jpg --top 3
  resnets models 'resnet*'

--version prints the version. --quiet leaves out progress.
"""

# What the parser reports, by a part of its text, and what the user reads instead.
PARSER_MESSAGES = (
    (r"Missing from .*?: (\S+)", "{} is missing"),
    (r"Missing value for argument '\W*?((?:--)?\w[\w-]*)", "{} needs a value"),
    (r"invalid choice '(.*)' for argument '(.*)'.*one of \((.*?)\)", "{1} {0}: allowed: {2}"),
    (r"Error parsing (\S+):.*?'(.*?)'.* INT\b", "{} {}: expected a whole number"),
    (r"Error parsing (\S+):.*?'(.*?)'.*FLOAT\b", "{} {}: expected a number"),
    (r"Unrecognized options: (.*)", "unexpected {}"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return the exit code."""
    started = time.perf_counter()
    with standard_streams():
        return _run(list(sys.argv[1:] if argv is None else argv), started)


def _run(words: list[str], started: float) -> int:
    try:
        command = _parse(words)
        require_stdout(not getattr(command, "leaves_files", False))
        code: int = 0 if command is None else command.run(started)
        sys.stdout.flush()
        if failure := stdout_failure():
            print_message(f"{failure.filename}: {failure.strerror}; what was saved is complete")
        return code
    except SystemExit as end:  # of the parser after its help text, or of rich
        if isinstance(end.__context__, BrokenPipeError):  # rich turns one into an exit with 1
            return PIPE_CLOSED
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:  # `resnets predict ... | head`: the reader has stopped
        return PIPE_CLOSED
    except UserError as error:
        message, code = str(error), error.exit_code
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        message, code = f"{place}{error.strerror or error}", MISTAKE
    except (RuntimeError, MemoryError, ImportError) as error:
        if is_out_of_memory(error):
            message = f"out of memory: {error}".splitlines()[0]
        elif is_lost_device(error):
            message = f"the GPU failed: {error}".splitlines()[0] + "; pass --device cpu, or restart"
        else:
            raise
        code = MISTAKE
    except KeyboardInterrupt:
        message, code = "interrupted", INTERRUPTED
    lines = filter(None, map(str.strip, message.splitlines()))
    print_message(f"resnets: {' '.join(lines)}")
    return code


def _parse(words: list[str]) -> Any:
    """Return the command with its options, or None where the answer has been printed."""
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in ("-h", "--help", "help"):
        sections = (f"{title}\n{_listing(names)}" for title, names in SECTIONS.items())
        print(HELP.format(version=__version__, sections="\n\n".join(sections)), end="")
        return None
    if name == "--version":
        print_result(f"resnets {__version__}")
        return None
    if name == GROUP and rest and not rest[0].startswith("-"):
        name, rest = f"{GROUP} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        near = [known for known in COMMANDS if (" " in known) == (" " in name)]
        raise unknown("command", name, near)
    if name == GROUP and rest and rest[0] in ("-h", "--help"):
        print(f"{_listing(SECTIONS['why depth works'])}\n")  # our own words

    import tyro

    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    module, _, second = name.partition(" ")
    command = getattr(import_module(f"resnets.cli.{module}"), (second or module).capitalize())
    if hasattr(command, "with_options"):
        command = command.with_options(rest)
    parse = partial(
        tyro.cli,
        command,
        prog=f"resnets {name}",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
    )
    try:
        with redirect_stderr(io.StringIO()) as box:
            return parse(args=rest)
    except SystemExit as end:  # after the help text, or for an error in a box
        if end.code != MISTAKE:
            raise
    with suppress(SystemExit), redirect_stdout(io.StringIO()) as help_text:
        parse(args=["--help"])
    raise _parser_error(box.getvalue(), help_text.getvalue(), name, rest)


def _listing(commands: Mapping[str, str]) -> str:
    width = max(12, *(len(name) + 3 for name in commands))
    return "\n".join(f"  {name:{width}}{summary}" for name, summary in commands.items())


def _parser_error(box: str, help_text: str, name: str, words: list[str]) -> UserError:
    """Return what the parser's box says as an error of one line."""
    advice = f"`resnets {name} --help` lists all options"
    options = re.findall(r"(?<![\w-])--[a-z][\w-]*", help_text)
    for word in words:
        option = word.partition("=")[0].replace("_", "-")
        if re.match(r"--\w", option) and option not in options:
            near = nearest(option, options)
            hint = f"did you mean {near}? " if near else ""
            return UserError(f"unknown option {option}; {hint}{advice}")
    text = " ".join(re.sub("[╭╮╰╯│─]", " ", box).split()).partition("For full helptext")[0]
    for pattern, message in PARSER_MESSAGES:
        if match := re.search(pattern, text):
            text = message.format(*match.groups()).strip().replace("'", "")
    return UserError(f"{text}; {advice}")
