"""Prints the lower bounds of pyproject.toml as exact versions, for pip's ``--constraint``.

To run the fast tests with the lowest versions that condgen allows, in a virtual environment of its own::

    python tests/lowest_versions.py > lowest.txt
    pip install --editable '.[test]' --constraint lowest.txt
    pytest
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit("This needs Python 3.11, which reads TOML.")
import tomllib

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def lower_bounds() -> dict[str, str]:
    """The highest of the lower bounds of each package: extras may ask for more than condgen does."""
    found: dict[str, str] = {}
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    for requirement in [*PROJECT["dependencies"], *extras]:
        if match := re.match(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)", requirement):
            name, version = match.groups()
            found[name] = max(found.get(name, "0"), version, key=lambda text: [int(part) for part in text.split(".")])
    return found


if __name__ == "__main__":
    for name, version in lower_bounds().items():
        print(f"{name}=={version}")
