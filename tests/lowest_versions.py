"""Prints the lower bounds of pyproject.toml as exact versions, for pip's ``--constraint``.

Use it to run the fast tests with the lowest versions that condgen allows, in a new virtual environment::

    python tests/lowest_versions.py > lowest.txt
    pip install --editable '.[test]' --constraint lowest.txt
    pytest
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit("tests/lowest_versions.py needs Python 3.11 or newer, because it uses tomllib.")
import tomllib

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def lower_bounds() -> dict[str, str]:
    """The lower bound of each package: the highest one if condgen and its extras have different bounds."""
    bounds: dict[str, str] = {}
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    for requirement in [*PROJECT["dependencies"], *extras]:
        if match := re.match(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)", requirement):
            name, version = match.groups()
            bounds[name] = max(bounds.get(name, "0"), version, key=lambda text: [int(part) for part in text.split(".")])
    return bounds


if __name__ == "__main__":
    for name, version in lower_bounds().items():
        print(f"{name}=={version}")
