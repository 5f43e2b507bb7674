"""Check that a resumed run reproduces the uninterrupted one bit by bit, and report what changed.

A run is a pure function of recipe, data and environment. Without a difference in these a resumed
run ends in the bits of the uninterrupted one; with `--force` it continues and says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnets.config_fields import Rule, flag_of
from resnets.errors import UserError
from resnets.training.recipe import Recipe, fields_with
from resnets.training.run_dir import RunDir


@dataclass(frozen=True)
class RunFingerprint:
    """Everything that decides the bits of a run."""

    recipe: Recipe
    data: Mapping[str, Any]  # the content of data.json
    environment: Mapping[str, Any]  # the content of environment.json

    @classmethod
    def stored(cls, run_dir: RunDir) -> "RunFingerprint":
        """Return the fingerprint that the run folder recorded."""
        recipe = stored_recipe(run_dir)
        return cls(recipe, run_dir.read_json("data.json"), run_dir.read_json("environment.json"))

    def facts(self) -> dict[str, Any]:
        """Return all that is compared, by the names that the user knows."""
        data, environment = self.data, self.environment
        free = fields_with(Rule.FREE)
        recipe = {k: v for k, v in self.recipe.flat().items() if k not in free}
        versions = {k: v for k, v in environment["versions"].items() if k != "safetensors"}
        sizes = ", ".join(f"{count:,} {split}" for split, count in data["sizes"].items())
        return {
            f"the images in {data['data']}": f"{sizes} (index {data['fingerprint'][:8]})",
            f"the content of images in {data['data']}": data.get("content", "")[:8],
            **{flag_of(name): value for name, value in recipe.items()},
            **versions,
            "the device": f"{environment['device']} ({environment['device_name']})",
            "the number of threads": environment["threads"],
            "the number of ranks": environment.get("ranks", 1),
        }


def stored_recipe(run_dir: RunDir) -> Recipe:
    """Return the resolved recipe that the run folder recorded."""
    config = run_dir.read_json("config.json")
    return Recipe().override(**{name: entry["value"] for name, entry in config.items()})


def check_unchanged(
    before: RunFingerprint, after: RunFingerprint, *, run_dir: RunDir, force: bool
) -> list[str]:
    """Return what has changed, a phrase each; raise UserError if that may not change."""
    resume = f"--resume {run_dir.path}"
    old_values, new_values = before.recipe.flat(), after.recipe.flat()
    for name in fields_with(Rule.FIXED):
        if old_values[name] != new_values[name]:
            raise UserError(f"{resume}: {flag_of(name)} cannot change; start a new run")
    if before.data["classes"] != after.data["classes"]:
        old, new = (", ".join(found.data["classes"]) for found in (before, after))
        raise UserError(f"{resume}: the classes changed from {old} to {new}; start a new run")
    old_facts = before.facts()
    changed = [
        f"{name} changed from {old_facts.get(name)} to {value}"
        for name, value in after.facts().items()
        if old_facts.get(name) != value
    ]
    if changed and not force:
        raise UserError(
            f"{resume}: {'; '.join(changed)}; the result would not be that of the "
            "uninterrupted run. Undo the change, or add --force to continue anyway"
        )
    return changed


def update_run_config(
    run_dir: RunDir, before: RunFingerprint, after: RunFingerprint, *, changed: list[str], step: int
) -> None:
    """Write into the run folder what changed at `step`."""
    config = run_dir.read_json("config.json")
    old_values = before.recipe.flat()
    for name, value in after.recipe.flat().items():
        if value != old_values[name]:
            config[name] = {"value": value, "origin": f"flag at step {step}"}
    run_dir.write_json("config.json", config)
    run_dir.write_json("data.json", after.data)
    forced = before.environment.get("forced", [])
    if changed:
        forced = [*forced, {"step": step, "changes": changed}]
    environment = {**after.environment, "forced": forced} if forced else after.environment
    run_dir.write_json("environment.json", environment)


def reproducibility_caveats(run_dir: RunDir) -> list[str]:
    """Return a caution for each time that the run was resumed with --force."""
    return [
        f"not bitwise reproducible: resumed with --force at step {entry['step']:,} although "
        + "; ".join(entry["changes"])
        for entry in run_dir.read_json("environment.json").get("forced", ())
    ]
