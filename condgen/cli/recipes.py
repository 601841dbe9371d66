"""The configs that ship with condgen. There is one for each model family, plus a few others."""

import re
from pathlib import Path
from typing import Any

from condgen.errors import UsageError
from condgen.files.config import read_config

RECIPES = Path(__file__).parents[1] / "configs"


def read_recipe(path: str) -> tuple[str, dict[str, Any]]:
    """Reads the config given by ``--config``.

    Args:
        path: Path to a config file. If it doesn't exist, we also look for a config that ships with condgen, so that
            e.g. ``gan``, ``gan.yaml`` and ``configs/gan.yaml`` all work.

    Returns:
        The path to the config file and its content.

    Raises:
        UsageError: If the file doesn't exist, is empty or can't be read.
    """
    name = re.fullmatch(r"(?:configs/)?(\w+)(?:\.yaml)?", path)
    if name and not Path(path).exists() and (RECIPES / f"{name[1]}.yaml").is_file():
        path = str(RECIPES / f"{name[1]}.yaml")
    try:
        return path, read_config(path)
    except UsageError as error:
        raise UsageError(f"--config {error}") from error


def recipe_of(family: str) -> Path | None:
    """Returns the path to the default config of a model family, or None if there isn't one.

    Args:
        family: The short name of the model class, e.g. ``GAN``.
    """
    recipe = RECIPES / ("base.yaml" if family == "DNN" else f"{family.lower()}.yaml")
    return recipe if family.isidentifier() and recipe.is_file() else None
