"""docs/tour.ipynb: the notebook runs, and the outputs that are saved in it are those of its code."""

import nbformat
import pytest
from helpers.pages import ROOT
from nbclient import NotebookClient

TOUR = ROOT / "docs" / "tour.ipynb"


@pytest.fixture(scope="module")
def saved() -> nbformat.NotebookNode:
    return nbformat.read(TOUR, as_version=4)


def kinds_of_outputs(notebook: nbformat.NotebookNode) -> list[set[str]]:
    """The kinds of outputs of each code cell."""
    return [
        {"picture" if "image/png" in output.get("data", {}) else output.output_type for output in cell.outputs}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def scores(notebook: nbformat.NotebookNode) -> dict[str, dict[str, float]]:
    """The table that the last code cell prints."""
    cell = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    heads, *rows = "".join(output.text for output in cell.outputs).splitlines()
    return {row[:12].strip(): dict(zip(heads.split(), map(float, row[12:].split()), strict=True)) for row in rows}


def test_tour_runs_with_the_outputs_and_findings_that_are_saved(saved, tmp_path):
    """About a minute on an idle machine."""
    notebook = nbformat.read(TOUR, as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert kinds_of_outputs(notebook) == kinds_of_outputs(saved)
    assert list(tmp_path.iterdir()) == []
    for table in (scores(saved), scores(notebook)):  # the text says so
        assert table["DNN"]["accuracy"] > 0.95
        assert table["DNN"]["diversity"] < 0.3
        assert table["DNN"]["coverage"] < 0.3
        assert table["GAN"]["diversity"] > 0.8
        assert table["GAN"]["coverage"] > table["DNN"]["coverage"] + 0.2


def test_tour_saves_small_outputs_without_errors_or_paths_of_a_machine(saved):
    outputs = [str(output) for cell in saved.cells if cell.cell_type == "code" for output in cell.outputs]
    assert max(map(len, outputs)) < 30_000
    assert TOUR.stat().st_size < 120_000
    for word in ("Traceback", "Warning", "/tmp", "/home", "/root"):
        assert all(word not in output for output in outputs)
    assert all(cell.metadata == {} for cell in saved.cells)
