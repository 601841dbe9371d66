"""The configs that are included in condgen: one for each model family, and some others."""

import re
from pathlib import Path
from typing import Any

from condgen.errors import UsageError
from condgen.files.config import read_config

RECIPES = Path(__file__).parents[1] / "configs"


def read_recipe(path: str) -> tuple[str, dict[str, Any]]:
    """Reads the config that ``--config`` refers to.

    Args:
        path: Path to a config file. If the file does not exist, ``gan``, ``gan.yaml`` and ``configs/gan.yaml`` refer to
            the ``gan.yaml`` that is included in condgen.

    Returns:
        The path of the config file and its settings.

    Raises:
        UsageError: If the file does not exist, cannot be read or contains no settings.
    """
    name = re.fullmatch(r"(?:configs/)?(\w+)(?:\.yaml)?", path)
    if name and not Path(path).exists() and (RECIPES / f"{name[1]}.yaml").is_file():
        path = str(RECIPES / f"{name[1]}.yaml")
    try:
        return path, read_config(path)
    except UsageError as error:
        raise UsageError(f"--config {error}") from error


def recipe_of(family: str) -> Path | None:
    """Returns the path of the config for one of condgen's model families, or None if there is no config.

    Args:
        family: Short name of the model class, such as ``GAN``.
    """
    recipe = RECIPES / ("base.yaml" if family == "DNN" else f"{family.lower()}.yaml")
    return recipe if family.isidentifier() and recipe.is_file() else None
