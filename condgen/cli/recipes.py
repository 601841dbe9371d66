"""The configs that come with condgen: one recipe for each family, and others by name."""

from __future__ import annotations

import re
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "configs"


def find_config(path: str) -> Path:
    """The config file that is meant: the file itself, or if there is none, the one of that name in condgen.

    Args:
        path: a file, or ``gan``, ``gan.yaml`` or ``configs/gan.yaml`` for condgen's own ``gan.yaml``.
    """
    name = re.fullmatch(r"(?:configs/)?(\w+)(?:\.yaml)?", path)
    recipe = RECIPES / f"{name[1]}.yaml" if name else None
    return recipe if recipe is not None and recipe.is_file() and not Path(path).exists() else Path(path)


def recipe_of(family: str) -> Path | None:
    """The config of one of condgen's families, by its short name."""
    recipe = RECIPES / ("base.yaml" if family == "DNN" else f"{family.lower()}.yaml")
    return recipe if family.isidentifier() and recipe.is_file() else None


def recipe_names() -> list[str]:
    """The names by which ``--config`` finds condgen's own configs."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))
