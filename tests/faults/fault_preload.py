"""Import and build once, in the server of processes, what nearly every case needs.

The first parse of a command line costs a tenth of a second, the import of rich as much: every case
that is forked from the server finds them done. No thread may start here.
"""

from contextlib import suppress

import resnets.api
import resnets.cli.progress
import resnets.report.run_charts
import resnets.study.pipeline
import torchvision.transforms.v2  # noqa: F401
from resnets.cli.main import COMMANDS, _parse
from resnets.errors import UserError

for command in COMMANDS:
    with suppress(UserError):  # which imports what writes the help, too
        _parse([*command.split(), "--unknown"])
