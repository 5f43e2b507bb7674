"""Check that a resumed run reproduces the uninterrupted one bit by bit, and report what changed.

A run is a pure function of recipe, data and environment. Without a difference in these a resumed
run ends in the bits of the uninterrupted one; with `--force` it continues and says so.
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnets.config_fields import Rule, flag_of
from resnets.errors import UserError
from resnets.training.checkpoint import Checkpoint
from resnets.training.recipe import Recipe, fields_with
from resnets.training.run_dir import BEST_FILE, MODEL_FILE, RunDir
from resnets.training.run_records import CONFIG_FILE, DATA_FILE, DIGESTS_FILE, ENVIRONMENT_FILE


@dataclass(frozen=True)
class RunFingerprint:
    """Everything that decides the bits of a run."""

    recipe: Recipe
    data: Mapping[str, Any]  # the content of data.json
    environment: Mapping[str, Any]  # the content of environment.json
    edited: Sequence[str] = ()  # files of the run folder that are not as the run wrote them

    @classmethod
    def stored(cls, run_dir: RunDir, *, force: bool = False) -> "RunFingerprint":
        """Return the fingerprint that the run folder recorded.

        Raises:
            UserError: A file is damaged, or was edited and there is no `force`.
        """
        recipe, edited = stored_recipe(run_dir), run_dir.edited_files()
        if edited and not force:
            raise UserError(
                f"{run_dir.path}: {', '.join(edited)} changed since the run wrote it (its SHA-256 "
                "differs); the result would not be that of the uninterrupted run. Restore the "
                "file, and pass changes as options; or resume with --force to continue anyway"
            )
        data, environment = run_dir.read_json(DATA_FILE), run_dir.read_json(ENVIRONMENT_FILE)
        return cls(recipe, data, environment, edited)

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
    config = run_dir.read_json(CONFIG_FILE)
    try:
        return Recipe().override(**{name: entry["value"] for name, entry in config.items()})
    except UserError as error:
        raise UserError(f"{run_dir.path / CONFIG_FILE}: {error}") from None


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
    changed = [f"{name} was edited by hand" for name in before.edited]
    changed += [
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


def check_same_run(checkpoint: Checkpoint, *, run_dir: RunDir, force: bool) -> list[str]:
    """Return a phrase if a checkpoint is of another run; without `force` raise UserError."""
    if checkpoint.run in ("", run_dir.digest_name()):
        return []
    if not force:
        raise UserError(
            f"{checkpoint.source}: it belongs to another run than {DIGESTS_FILE} (another folder's "
            "file was copied, or this one was lost); restore it, or add --force to continue anyway"
        )
    return [f"the checkpoint does not belong to {DIGESTS_FILE}"]


def check_best(
    checkpoint: Checkpoint, *, run_dir: RunDir, force: bool
) -> tuple[Checkpoint, list[str], list[str]]:
    """Check that the weights of the best validation are there, before hours are spent on a run.

    They are also in the checkpoint of their step, if that is still kept. With `force` a run without
    them keeps those of the best validation from now on.

    Returns:
        The checkpoint to resume from, what changed (a phrase), and what to notify.

    Raises:
        UserError: They are lost, and there is no `force`.
    """
    step, score = checkpoint.scalars["best_step"], checkpoint.scalars["best_score"]
    if score < 0:
        return checkpoint, [], []  # before the first validation
    shapes = {
        name.removeprefix("model."): tensor.shape
        for name, tensor in checkpoint.tensors.items()
        if name.startswith("model.")
    }
    try:
        best = run_dir.load_best()
        # A kill after the best weights were written leaves newer ones than the state's.
        fits = {name: tensor.shape for name, tensor in best.tensors.items()} == shapes
        if fits and best.run in ("", checkpoint.run) and best.scalars["step"] >= step:
            return checkpoint, [], []
        reason = "it is not of this checkpoint"
    except (UserError, KeyError, TypeError) as error:
        reason = str(error)
    same = run_dir.load_step(step)
    if same is not None and same.run == checkpoint.run and same.scalars.get("best_step") == step:
        averaged = any(name.startswith("average.module.") for name in same.tensors)
        prefix = "average.module." if averaged else "model."
        weights = {
            name.removeprefix(prefix): tensor
            for name, tensor in same.tensors.items()
            if name.startswith(prefix)
        }
        run_dir.save_best(weights, step=step, score=score)
        return checkpoint, [], [f"{BEST_FILE} was made again from step {step:,} ({reason})"]
    if not force:
        raise UserError(
            f"--resume {run_dir.path}: the weights of the best validation (step {step:,}) are lost "
            f"({reason}); restore {BEST_FILE}, or add --force to keep the best from now on"
        )
    # A validation of this very step is repeated: the last step of a run has no other.
    validated = min(checkpoint.scalars["validated"], checkpoint.scalars["step"] - 1)
    scalars = {**checkpoint.scalars, "best_score": -1.0, "best_step": 0, "validated": validated}
    lost = f"the weights of the best validation, after step {step:,}, were lost"
    return dataclasses.replace(checkpoint, scalars=scalars), [lost], []


def finished_error(run_dir: RunDir, changes: Mapping[str, Any]) -> UserError:
    """Return the error for a finished run that is to be resumed with other options."""
    model, what = run_dir.path / MODEL_FILE, f"--resume {run_dir.path}: this run is finished"
    if not changes:
        return UserError(f"{what}; use its {MODEL_FILE}")
    flags = " ".join(_as_flag(name, value) for name, value in changes.items())
    data = shlex.quote(str(run_dir.read_json(DATA_FILE)["data"]))
    return UserError(
        f"{what}: its schedule has ended, so {flags} would make another run. To train on from its "
        f"weights: resnets train {data} --weights {shlex.quote(str(model))} {flags}"
    )


def _as_flag(name: str, value: object) -> str:
    flag = flag_of(name)
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    values = value if isinstance(value, tuple | list) else [value]
    return " ".join([flag, *(shlex.quote(str(item)) for item in values)])


def update_run_config(
    run_dir: RunDir, before: RunFingerprint, after: RunFingerprint, *, changed: list[str], step: int
) -> None:
    """Write into the run folder what changed at `step`.

    The cautions come first: a kill between two files leaves changes that are asked about again.
    """
    forced = before.environment.get("forced", [])
    if changed:
        forced = [*forced, {"step": step, "changes": changed}]
    environment = {**after.environment, "forced": forced} if forced else after.environment
    run_dir.write_json(ENVIRONMENT_FILE, environment)
    config = run_dir.read_json(CONFIG_FILE)
    old_values = before.recipe.flat()
    for name, value in after.recipe.flat().items():
        if value != old_values[name]:
            config[name] = {"value": value, "origin": f"flag at step {step}"}
    run_dir.write_json(CONFIG_FILE, config)
    run_dir.write_json(DATA_FILE, after.data)


def reproducibility_caveats(run_dir: RunDir) -> list[str]:
    """Return a caution for each time that the run was resumed with --force."""
    return [
        f"not bitwise reproducible: resumed with --force at step {entry['step']:,} although "
        + "; ".join(entry["changes"])
        for entry in run_dir.read_json(ENVIRONMENT_FILE).get("forced", ())
    ]
