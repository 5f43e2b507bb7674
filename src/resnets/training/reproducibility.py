"""What equal bits rest on, and what is said when it is not the same any more.

Enters: recipe, data and environment as the run folder recorded them, and as they are now. Leaves:
the differences in words. A run is a pure function of the three, so a resumed run without a
difference ends in the bits of an uninterrupted one; with one, that is promised no longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from resnets.errors import UserError
from resnets.training.checkpoint import RunFolder
from resnets.training.recipe import Recipe, override

FREE = ("workers", "checkpoint_every", "max_corrupt")
"""recipe fields that decide no bit"""
FIXED = (
    "model",
    "weights",
    "size",
    "resize_mode",
    "epochs",
    "optimizer",
    "ema",
    "val_fraction",
    "validate_on",
    "tta",
)
"""recipe fields with another value of which the checkpoints would be another run's"""


@dataclass(frozen=True)
class Basis:
    """All that decides the bits of a run; `data` and `environment` as in their JSON files."""

    recipe: Recipe
    data: Mapping[str, Any]
    environment: Mapping[str, Any]

    @classmethod
    def stored(cls, folder: RunFolder) -> Basis:
        """The basis that the run folder recorded."""
        recipe = stored_recipe(folder)
        return cls(recipe, folder.read_json("data.json"), folder.read_json("environment.json"))

    def facts(self) -> dict[str, Any]:
        """By the names that the user knows."""
        data, environment = self.data, self.environment
        recipe = {k: v for k, v in asdict(self.recipe).items() if k not in FREE}
        versions = {k: v for k, v in environment["versions"].items() if k != "safetensors"}
        sizes = ", ".join(f"{count:,} {part}" for part, count in data["sizes"].items())
        return {
            f"the images in {data['data']}": f"{sizes} (index {data['fingerprint'][:8]})",
            f"the content of images in {data['data']}": data.get("content", "")[:8],
            **{_flag(name): value for name, value in recipe.items()},
            **versions,
            "the device": f"{environment['device']} ({environment['device_name']})",
            "the number of threads": environment["threads"],
            "the number of ranks": environment.get("ranks", 1),
        }


def stored_recipe(folder: RunFolder) -> Recipe:
    """The resolved recipe that the run folder recorded."""
    config = folder.read_json("config.json")
    return override(Recipe(), {name: entry["value"] for name, entry in config.items()})


def differences(before: Basis, after: Basis, *, folder: RunFolder, force: bool) -> list[str]:
    """What has changed, a phrase each. Raises UserError where the run cannot go on with that."""
    for name in FIXED:
        if getattr(before.recipe, name) != getattr(after.recipe, name):
            raise UserError(f"--resume {folder.path}: {_flag(name)} cannot change: start anew")
    if before.data["classes"] != after.data["classes"]:
        old, new = (", ".join(basis.data["classes"]) for basis in (before, after))
        raise UserError(
            f"--resume {folder.path}: the classes changed from {old} to {new}: start anew"
        )
    facts = before.facts()
    changed = [
        f"{name} changed from {facts.get(name)} to {value}"
        for name, value in after.facts().items()
        if facts.get(name) != value
    ]
    if changed and not force:
        raise UserError(
            f"--resume {folder.path}: {'; '.join(changed)}; the run would end in other bits: undo "
            "that, or add --force to go on without the promise of equal bits"
        )
    return changed


def take_over(
    folder: RunFolder, before: Basis, after: Basis, *, changed: list[str], step: int
) -> None:
    """Write into the folder what the run goes on with from `step` on."""
    config = folder.read_json("config.json")
    for name, value in asdict(after.recipe).items():
        if value != getattr(before.recipe, name):
            config[name] = {"value": value, "origin": f"flag at step {step}"}
    folder.write_json("config.json", config)
    folder.write_json("data.json", after.data)
    past = before.environment.get("forced", [])
    now = [*past, {"step": step, "changes": changed}] if changed else past
    folder.write_json("environment.json", {**after.environment, **({"forced": now} if now else {})})


def cautions_of(folder: RunFolder) -> list[str]:
    """What must be said wherever the results of a run are that went on with --force."""
    return [
        f"equal bits are not promised: resumed with --force at step {entry['step']:,} although "
        + "; ".join(entry["changes"])
        for entry in folder.read_json("environment.json").get("forced", ())
    ]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
