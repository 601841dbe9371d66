"""What is made of scores: the report of ``condgen test`` and of ``condgen score``, and ``condgen compare``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import condgen
from condgen.checkpoints.restore import restoring
from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.errors import UsageError, printable
from condgen.evaluation.evaluator import Judge, find_judge
from condgen.evaluation.figure_file import write_figure
from condgen.evaluation.sample_files import read_samples
from condgen.evaluation.scores import cell, score_samples, table, write_nearest
from condgen.evaluation.scores_file import read_scores, write_scores
from condgen.evaluation.side_by_side import draw_side_by_side
from condgen.generators import ConditionalGenerator


def about_data(data: ImageDataModule, judge: Judge) -> dict[str, Any]:
    """What scores depend on beside the samples, as it stands in ``scores.json``."""
    return {
        "data": data.full_name,
        "source": data.hparams["source"],
        "test_images": len(data.val_images),
        "judge": judge.sha256,
        "versions": {"condgen": condgen.__version__, "torch": str(torch.__version__)},
    }


def about_checkpoint(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Where a generator comes from, as it stands in ``scores.json``."""
    with restoring(path):
        state = checkpoint.get("callbacks", {}).get("RunCheckpoint", {})
        monitor = str(state.get("monitor"))
        images = "training" if monitor.startswith(("score_", "train_")) else "test"
        chosen = {
            "last.ckpt": "the last of its training, by no score",
            "best.ckpt": f"the epoch with the {state.get('mode')} {monitor}, which is measured on {images} images",
        }
        return {
            "path": str(path),
            "chosen": chosen.get(path.name, "given by its path"),
            "epochs": checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["started"],
            "steps": checkpoint["global_step"],
            "seed": checkpoint["condgen"]["seed"],
            "training_minutes": checkpoint["condgen"].get("train_seconds", 0) / 60 or None,
        }


def report(
    generator: ConditionalGenerator,
    data: ImageDataModule,
    judge: Judge,
    samples: Images,
    seconds: float,
    origin: dict[str, Any],
    run: Path | None,
    progress: bool = True,
) -> None:
    """Scores a generator by its samples, writes ``scores.json`` and ``nearest.png``, and prints the table.

    Args:
        generator: drew the samples.
        data: whose test images they are compared with.
        judge: of that data set.
        samples: as many of each label.
        seconds: that drawing them took.
        origin: see :func:`about_checkpoint`.
        run: the directory for the files; None for none.
        progress: whether to show a progress bar.
    """
    cost = {
        "parameters": sum(weights.numel() for weights in generator.sampler.parameters()),
        "nfe": generator.nfe,
        "milliseconds_per_sample": 1000 * seconds / len(samples),
        "training_minutes": origin["training_minutes"],
    }
    about = {
        "generator": type(generator).__name__,
        "settings": dict(generator.hparams),
        "checkpoint": origin,
        "samples": {"seed": data.sample_seed},
    }
    _report(origin["path"], samples, data, judge, cost, about, run, progress=progress)


def score(path: str, data: ImageDataModule, output: str | None = None) -> None:
    """Scores samples in files, made by any program: writes scores.json and a picture, nearest.png, prints a table.

    Args:
        path: a folder of ``condgen predict``, an npz file with images and labels, or a folder with a folder of pictures
            for each label.
        data: the data set that they are compared with; if not given, that of the run in whose directory they lie, or
            MNIST.
        output: the folder for scores.json and nearest.png; the folder of the samples if not given.
    """
    source, judge = Path(path), find_judge(data)
    samples = read_samples(source, data)
    data.prepare_data()
    data.setup("test")
    folder = Path(output) if output else source if source.is_dir() else source.parent
    before = f"{source.stem}." if source.is_file() else ""
    _report(str(source), samples, data, judge, {}, {"samples": {"path": str(source)}}, folder, before)


def _report(
    source: str,
    samples: Images,
    data: ImageDataModule,
    judge: Judge,
    cost: dict[str, float | None],
    about: dict[str, Any],
    folder: Path | None,
    before: str = "",
    progress: bool = True,
) -> None:
    """Scores samples, writes the files into a folder, with a prefix ``before`` their names, and prints the table."""
    scores, number = score_samples(samples, data, judge, progress)
    written = f"Nothing is written, because {source} lies in no run directory."
    try:
        if folder is not None:
            about = {**about, "samples": {"number": number, **about["samples"]}, **about_data(data, judge)}
            file, picture = (folder / f"{before}{name}" for name in ("scores.json", "nearest.png"))
            write_scores(file, scores, cost, about)
            write_nearest(samples, data, picture)
            written = f"Scores: {file}, {picture}"
    finally:  # print the table even if the files cannot be written: scoring takes minutes
        print(f"{source}: {number:,} samples against {len(data.val_images):,} test images of {data.full_name}")
        print(table(scores, cost))
    print(written)


def compare(
    paths: list[str], output: str = "scores.png", samples: str | None = None, labels: list[int] | None = None
) -> None:
    """Puts the scores of several runs side by side: as a table, and as a picture over coverage and accuracy.

    Args:
        paths: run directories that ``condgen test`` has scored, or files scores.json.
        output: the picture.
        samples: a second picture: ten samples of the same labels by each run, with its scores beside them.
        labels: of the second picture; three of them if not given.
    """
    for option, name in (("output", output), ("samples", samples)):
        if name is not None and not name.endswith(".png"):
            raise UsageError(f"{option} is {name}: give a name that ends in .png.")
    found = {str(path).rstrip("/"): read_scores(Path(path)) for path in paths}
    for what, values in zip(BASIS, zip(*map(basis, found.values()), strict=True), strict=True):
        if len(set(values)) > 1:
            raise UsageError(
                f"These scores have another {what} each ({', '.join(sorted(set(values)))}): compare what is comparable."
            )
    names = run_names({path: str(content.get("generator", "")) for path, content in found.items()})
    if samples is not None:
        runs = {names[path]: (Path(path), content) for path, content in found.items()}
        draw_side_by_side(runs, labels, Path(samples))
    first = next(iter(found.values()))
    _draw({names[path]: content["scores"] for path, content in found.items()}, first["data"], Path(output))
    width = max(16, *(len(name) + 2 for name in names.values()))
    print(" " * 28 + "".join(f"{name:>{width}}" for name in [*names.values(), "real images"]))
    for row, of in first["scores"].items():
        cells = [cell(content["scores"].get(row, {}).get("value")) for content in found.values()]
        cells.append(cell(of["floor"]))
        print(f"{row:28}" + "".join(f"{cell:>{width}}" for cell in cells))
    for row in dict.fromkeys(name for content in found.values() for name in content["cost"]):
        print(f"{row:28}" + "".join(f"{cell(content['cost'].get(row)):>{width}}" for content in found.values()))
    print("Picture:", ", ".join(name for name in (output, samples) if name))


BASIS = ("data", "source", "judge", "number of samples")


def basis(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be equal if scores are compared, see :data:`BASIS`, from the content of a ``scores.json``."""
    number = scores.get("samples", {}).get("number")
    return (*(str(scores.get(what)) for what in BASIS[:-1]), str(number))


def run_names(families: Mapping[str, str]) -> dict[str, str]:
    """A name for each path, the shortest that tells them apart: the family, the family and the run, or the path.

    Args:
        families: the family of each path; empty if it is not known.
    """
    if "" not in families.values() and len(set(families.values())) == len(families):
        return dict(families)
    names = {path: printable(f"{family} {_name(Path(path))}".strip()) for path, family in families.items()}
    return names if len(set(names.values())) == len(families) else {path: printable(path) for path in families}


def _name(path: Path) -> str:
    return (
        path.resolve().parent.name if path.name == "scores.json" else path.resolve().name.removesuffix(".scores.json")
    )


def _draw(scores: dict[str, dict[str, Any]], data: str, path: Path) -> None:
    from matplotlib.figure import Figure  # here: only those who want a picture wait for it

    figure = Figure(figsize=(6, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    floor = next(iter(scores.values()))
    points = {name: ("value", "uncertainty", of) for name, of in scores.items()}
    points["real images"] = ("floor", "floor_uncertainty", floor)
    for name, (value, error, of) in points.items():
        x, y = of["coverage"], of["accuracy"]
        axes.errorbar(
            x[value], y[value], xerr=2 * (x.get(error) or 0), yerr=2 * (y.get(error) or 0), capsize=3, markersize=9,
            fmt="k*" if name == "real images" else "o", label=name,
        )  # fmt: skip
    axes.legend(loc="best")
    low = min(0.9, *(of["accuracy"][kind] - 0.03 for of in scores.values() for kind in ("value", "floor")))
    axes.set(
        xlabel="coverage: real images that have a sample near", ylabel="label accuracy of the samples",
        xlim=(-0.05, 1.15), ylim=(low, 1.01), title=data,
    )  # fmt: skip
    write_figure(figure, path)
