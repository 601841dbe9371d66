"""Measures condgen against the article's script, bare loops and the machine itself, on the full MNIST.

    python tests/benchmarks --data data --article dnn_article.py --output benchmarks.json

prints a table, row after row, and writes it as JSON. Every row is a ratio of two contenders that take turns; beside its
median are the smallest and the largest. Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from drawing import sampling
from machine import description
from programs import starting, the_article
from rows import Settings
from training import beside_steps, more_data, steps, two_processes

GROUPS = {
    "starting": starting,
    "steps": steps,
    "beside": beside_steps,
    "sampling": sampling,
    "processes": two_processes,
    "data": more_data,
    "article": the_article,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder in which MNIST/raw/ is")
    parser.add_argument("--article", type=Path, help="the article's script; without it, its rows are left out")
    parser.add_argument("--pairs", type=int, default=5, help="how often the contenders take turns (default: 5)")
    parser.add_argument("--rows", nargs="+", choices=GROUPS, default=list(GROUPS), help="only these groups of rows")
    parser.add_argument("--output", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    machine = description()
    print(" · ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        article = arguments.article and arguments.article.absolute()
        settings = Settings(arguments.data.absolute(), article, arguments.pairs, Path(folder))
        for group in arguments.rows:
            for row in GROUPS[group](settings):
                verdict = "" if not row.target else "  met" if row.is_met else "  NOT MET"
                print(f"{row.name:70}  {row.ratio!s:40}  {row.target:7}{verdict}", flush=True)
                rows.append({**asdict(row), "median": row.ratio.median})
                if arguments.output:
                    arguments.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
