"""Import and build once, in the server of processes, what nearly every case needs.

The first parse of a command line costs a tenth of a second, as do the import of rich and the
templates of a page: every case that is forked from the server finds them done. No thread may start
here.
"""

import inspect
from contextlib import suppress
from functools import cache
from importlib import import_module

from resnets.cli.main import COMMANDS, _parse
from resnets.errors import UserError
from resnets.report.html import _environment

for module in (
    *("resnets.api", "resnets.cli.progress", "resnets.report.run_charts"),
    *("resnets.study.pipeline", "torchvision.transforms.v2"),
):
    import_module(module)
inspect.getsource = cache(inspect.getsource)  # which the parser asks for at each command line
for command in COMMANDS:
    with suppress(UserError):  # which imports what writes the help, too
        _parse([*command.split(), "--unknown"])
for name in ("report.html.j2", "base.html.j2"):
    _environment("resnets.report").get_template(name)
_environment("resnets.audit").get_template("check.html.j2")
