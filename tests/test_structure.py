"""The packages of condgen import each other in one direction."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import condgen

ROOT = Path(condgen.__file__).parent
ORDER = (  # each imports only those before it
    "errors", "noise", "files", "metrics", "nn", "data", "generators", "checkpoints", "sampling", "evaluation",
    "training", "export", "demo", "cli", "__main__",
)  # fmt: skip
ALLOWED = {"metrics": {"noise"}, "generators": {"errors", "noise", "metrics", "nn"}}  # instead of all before them


def imports_of(package: str) -> dict[str, set[str]]:
    """The modules of a package, and the other packages of condgen that each of them imports."""
    found = {}
    for file in [*(ROOT / package).rglob("*.py"), *ROOT.glob(f"{package}.py")]:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        names = [f"{node.module}.{alias.name}" for node in froms for alias in node.names]
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        parts = (name.split(".") for name in names if name.startswith("condgen."))
        found[str(file.relative_to(ROOT))] = {part[1] for part in parts} - {package}
    return found


@pytest.mark.parametrize("package", ORDER)
def test_package_imports_only_packages_before_it(package):
    allowed = ALLOWED.get(package, set(ORDER[: ORDER.index(package)]))
    assert {module: wrong for module, names in imports_of(package).items() if (wrong := names - allowed)} == {}


def test_condgen_has_at_most_four_modules_beside_its_packages():
    modules = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert len(modules) <= 3
    assert modules | packages == set(ORDER)


def test_private_attributes_of_lightning_are_used_only_in_lightning_internals():
    """Attributes of other objects than ``self`` and ``cls``, and private names that are imported from Lightning."""
    found = []
    for file in ROOT.rglob("*.py"):
        if file.name == "lightning_internals.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr) and node.attr != "_replace":
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                if owner not in ("self", "cls", "os"):
                    found.append(f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                ("lightning", "torch", "jsonargparse")
            ):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                found += [f"{file.relative_to(ROOT)}:{node.lineno} {name}" for name in private]
    assert found == []
