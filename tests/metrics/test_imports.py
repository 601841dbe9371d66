"""``condgen.metrics`` can be used alone."""

from __future__ import annotations

import ast
from pathlib import Path

import condgen.metrics

ALLOWED = ("condgen.metrics", "condgen.noise")


def test_metrics_import_nothing_of_condgen_but_noise():
    for path in Path(condgen.metrics.__file__).parent.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} has a relative import"
                names = [str(node.module)]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            own = [name for name in names if name.partition(".")[0] == "condgen"]
            assert all(name.startswith(ALLOWED) for name in own), f"{path} imports {own}"
