"""Declare what the JSON files of a run folder hold, and digest what in them decides bits."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from resnets.config_fields import Rule
from resnets.training.recipe import fields_with

CONFIG_FILE, DATA_FILE, ENVIRONMENT_FILE = "config.json", "data.json", "environment.json"
COMMAND_FILE = "command.json"
# The digests of the three files that decide the bits of a run.
DIGESTS_FILE = "digests.json"

Count = Annotated[int, msgspec.Meta(ge=0)]


class ConfigEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value of the recipe, and who set it."""

    value: Any
    origin: str


class DataRecord(msgspec.Struct, frozen=True):
    """The content of data.json: where the images are, and how they are split and read."""

    data: str
    name: str
    fingerprint: str
    classes: list[str]
    sizes: dict[str, Count]
    preprocess: dict[str, Any]
    held_out: list[str]
    content: str = ""
    skipped: dict[str, str] = {}


class ForcedChange(msgspec.Struct, frozen=True):
    """What had changed when a run was resumed with --force at a step."""

    step: Count
    changes: list[str]


class EnvironmentRecord(msgspec.Struct, frozen=True):
    """The content of environment.json."""

    versions: dict[str, str]
    device: str
    device_name: str
    threads: int
    ranks: Annotated[int, msgspec.Meta(ge=1)] = 1
    forced: list[ForcedChange] = []


class CommandRecord(msgspec.Struct, frozen=True):
    """The content of command.json: the command, and torchrun's name of its launch."""

    launch: str
    command: dict[str, Any]


class DigestsRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of digests.json.

    `run` names the run: the digest of the files that it started with. `files` has the digests that
    each file may have: one, or two while a file is replaced.
    """

    run: str
    files: dict[str, list[str]]


class MetricsRecord(msgspec.Struct, frozen=True):
    """What every line of metrics.jsonl holds, and the types of what the report reads."""

    kind: str
    step: Count
    epoch: float = 0.0
    seconds: float = 0.0
    loss: float | None = None
    accuracy: float | None = None
    top1: float | None = None
    learning_rate: float | None = None
    text: str = ""
    crc: str = ""


RECORDS: Mapping[str, Any] = {
    CONFIG_FILE: dict[str, ConfigEntry],
    DATA_FILE: DataRecord,
    ENVIRONMENT_FILE: EnvironmentRecord,
    COMMAND_FILE: CommandRecord,
    DIGESTS_FILE: DigestsRecord,
}
# The files that decide the bits of a run.
DECIDING = (CONFIG_FILE, DATA_FILE, ENVIRONMENT_FILE)


def digest_of(name: str, content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what in one of the deciding files decides bits.

    Its layout does not count, nor the place of the images, nor a setting that is free.
    """
    if name == CONFIG_FILE:
        free = fields_with(Rule.FREE)
        content = {key: entry["value"] for key, entry in content.items() if key not in free}
    elif name == DATA_FILE:
        content = {key: value for key, value in content.items() if key != "data"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
