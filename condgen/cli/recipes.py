"""The configs that come with condgen: one for each family, and others by name."""

import re
from pathlib import Path
from typing import Any

from condgen.errors import UsageError
from condgen.files.config import read_config

RECIPES = Path(__file__).parents[1] / "configs"


def read_recipe(path: str) -> tuple[str, dict[str, Any]]:
    """Returns the path and the content of the file that ``--config PATH`` means.

    Args:
        path: a file; if there is none, ``gan``, ``gan.yaml`` or ``configs/gan.yaml`` for condgen's own ``gan.yaml``.

    Raises:
        UsageError: there is no such file, or it contains no settings.
    """
    name = re.fullmatch(r"(?:configs/)?(\w+)(?:\.yaml)?", path)
    if name and not Path(path).exists() and (RECIPES / f"{name[1]}.yaml").is_file():
        path = str(RECIPES / f"{name[1]}.yaml")
    try:
        return path, read_config(path)
    except UsageError as error:
        raise UsageError(f"--config {error}") from error


def recipe_of(family: str) -> Path | None:
    """Returns the config of one of condgen's families, by its short name."""
    recipe = RECIPES / ("base.yaml" if family == "DNN" else f"{family.lower()}.yaml")
    return recipe if family.isidentifier() and recipe.is_file() else None
