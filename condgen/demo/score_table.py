"""HTML tables for comparing the scores of several runs."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from condgen.demo.runs import Run
from condgen.errors import UsageError
from condgen.evaluation.compare import all_scores, basis

NO_SCORE = {"value": None, "uncertainty": None}


def score_tables(runs: Sequence[Run]) -> str:
    """Returns the HTML for the scores tab.

    There is one table for each set of runs that were scored against the same images. For a run without scores, the
    reason is shown instead.
    """
    tables: dict[tuple[str, ...], list[tuple[Run, dict[str, Any]]]] = {}
    problems = []
    for run in runs:
        try:
            scores = run.scores
        except UsageError as error:
            problems.append(f"<p>{escape(str(error))}</p>")
        else:
            tables.setdefault(basis(scores), []).append((run, scores))
    return "".join([*map(_table, tables.values()), *problems])


def _table(scored: Sequence[tuple[Run, dict[str, Any]]]) -> str:
    contents = [content for _, content in scored]
    heads = "".join(f"<th>{escape(run.family)}<br><small>{escape(run.name)}</small></th>" for run, _ in scored)
    rows = [f"<tr><th></th>{heads}<th>real images</th></tr>"]
    for name, real in all_scores(contents).items():
        scores = [content["scores"].get(name, NO_SCORE) for content in contents]
        distances = [_distance(score["value"], real["real"]) for score in scores]
        cells = [
            _cell(score["value"], score["uncertainty"], bold=distance == min(distances) < math.inf)
            for score, distance in zip(scores, distances, strict=True)
        ]
        rows.append(_row(name, [*cells, _cell(real["real"], real["real_uncertainty"])]))
    for name in contents[0]["cost"]:
        rows.append(_row(name, [*(_cell(content["cost"].get(name)) for content in contents), "<td></td>"]))
    title = f"{contents[0]['test_images']:,} test images of {contents[0]['data']}; bold: closest to real images"
    return f"<p>{escape(title)}</p><div class=table><table>{''.join(rows)}</table></div>"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"<tr><th>{escape(name.replace('_', ' '))}</th>{''.join(cells)}</tr>"


def _distance(value: float | None, real: float | None) -> float:
    return math.inf if value is None or real is None else abs(value - real)


def _cell(value: float | None, uncertainty: float | None = None, bold: bool = False) -> str:
    number = "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    error = "" if uncertainty is None else f" <small>± {uncertainty:.3f}</small>"
    return f"<td>{'<b>' * bold}{number}{'</b>' * bold}{error}</td>"
