"""Provide the named recipes and those of users: TOML files of the fields that a recipe sets.

The named ones lie in `resnets/recipes`. The comment on top of each is a promise: source, command,
figure, and who measured it. This module imports neither torch nor numpy.
"""

from pathlib import Path
from typing import Any

from resnets.errors import UserError, unknown
from resnets.parsing import read_toml
from resnets.training.recipe import Recipe

RECIPES = {path.stem: path for path in sorted(Path(__file__).parents[1].glob("recipes/*.toml"))}


def named_recipe(name: str) -> dict[str, Any]:
    """Return the fields that the recipe of that name sets; raise UserError if there is none."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return read_toml(RECIPES[name], name=f"recipe {name}")


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe from a TOML file: lines `field = value`, and perhaps `recipe = NAME`.

    The result is the fields that it sets, over those of the named recipe.
    """
    values = read_toml(path, name=f"--recipe-file {path}")
    try:
        base = named_recipe(str(values.pop("recipe", "default")))
        own = {name.replace("-", "_"): value for name, value in values.items()}
        for length, other in (("epochs", "steps"), ("steps", "epochs")):
            if own.get(length) is not None and other not in own:
                base.pop(other, None)
        Recipe().override(**base).override(**own)
    except UserError as error:
        raise UserError(f"--recipe-file {path}: {error}") from None
    return base | own
