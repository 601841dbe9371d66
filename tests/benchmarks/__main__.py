"""Benchmarks condgen against the article's script, bare PyTorch loops and the machine's limit, on the full MNIST.

    python tests/benchmarks --data data --article dnn_article.py --output benchmarks.json

prints a table and writes it as JSON. Each row is a ratio of two measurements that are taken in turn, several times: its
median, minimum and maximum. Do not run anything else on the machine at the same time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from machine import description
from programs import article, startup
from rows import Settings
from sampling import sampling
from training import more_data, overhead, steps, two_processes

GROUPS = {
    "starting": startup,
    "steps": steps,
    "overhead": overhead,
    "sampling": sampling,
    "processes": two_processes,
    "data": more_data,
    "article": article,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data root: the folder that contains MNIST/raw/")
    parser.add_argument("--article", type=Path, help="the article's script; its rows are skipped if it is not given")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of measurements per ratio (default: 5)")
    parser.add_argument("--rows", nargs="+", choices=GROUPS, default=list(GROUPS), help="run only these groups of rows")
    parser.add_argument("--output", type=Path, help="write the table to this JSON file")
    arguments = parser.parse_args()
    machine = description()
    print(" · ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        script = arguments.article and arguments.article.absolute()
        settings = Settings(arguments.data.absolute(), script, arguments.pairs, Path(folder))
        for group in arguments.rows:
            for row in GROUPS[group](settings):
                result = "" if not row.target else "  met" if row.is_met else "  NOT MET"
                print(f"{row.name:70}  {row.ratio!s:40}  {row.target:7}{result}", flush=True)
                rows.append({**asdict(row), "median": row.ratio.median})
                if arguments.output:
                    arguments.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
