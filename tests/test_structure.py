"""The packages of condgen import each other in one direction, and only one module uses private APIs of Lightning."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import condgen

ROOT = Path(condgen.__file__).parent
ORDER = (  # a package may import only the packages before it
    "errors", "noise", "files", "metrics", "nn", "data", "generators", "checkpoints", "sampling", "evaluation",
    "training", "export", "demo", "cli", "__main__",
)  # fmt: skip
ALLOWED = {  # packages with stricter rules than ORDER
    "metrics": {"noise"},  # so that the metrics can be used without the rest of condgen
    "generators": {"condgen", "errors", "noise", "metrics", "nn"},
}


def imports_of(package: str) -> dict[str, set[str]]:
    """Map each module of `package` to the other packages of condgen that it imports; `import condgen` is "condgen"."""
    found = {}
    for file in [*(ROOT / package).rglob("*.py"), *ROOT.glob(f"{package}.py")]:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not any(node.level for node in froms), f"{file} has a relative import"
        names = [f"{node.module}.{alias.name}" for node in froms for alias in node.names]
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        parts = (name.split(".") for name in names)
        imported = {part[:2][-1] for part in parts if part[0] == "condgen"}
        found[str(file.relative_to(ROOT))] = imported - {package}
    return found


@pytest.mark.parametrize("package", ORDER)
def test_package_imports_only_packages_before_it(package):
    allowed = ALLOWED.get(package, {"condgen", *ORDER[: ORDER.index(package)]})
    assert {module: wrong for module, names in imports_of(package).items() if (wrong := names - allowed)} == {}


def test_condgen_has_at_most_three_modules_besides_its_packages():
    modules = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert len(modules) <= 3
    assert modules | packages == set(ORDER)


def test_private_apis_are_used_only_in_lightning_internals():
    """Search for private attributes of objects other than ``self`` and ``cls``, and for private names in imports."""
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
