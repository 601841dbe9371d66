"""``condgen score`` and the report of ``condgen test``: ``scores.json``, ``nearest.png`` and a table."""

from pathlib import Path
from typing import Any

import torch

import condgen
from condgen.checkpoints.read import raise_as_incompatible
from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.evaluation.evaluator import Evaluator, find_evaluator
from condgen.evaluation.sample_files import read_samples
from condgen.evaluation.scores import PER_LABEL, cell, score_samples, table, with_errors, write_nearest
from condgen.evaluation.scores_file import write_scores
from condgen.generators import ConditionalGenerator


def about_checkpoint(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Where a generator comes from, as it stands in ``scores.json``."""
    with raise_as_incompatible(path):
        state = checkpoint.get("callbacks", {}).get("LastAndBestCheckpoint", {})
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
    evaluator: Evaluator,
    samples: Images,
    seconds: float,
    origin: dict[str, Any],
    run: Path | None,
    progress: bool = True,
) -> None:
    """Scores a generator by its samples, writes ``scores.json`` and ``nearest.png``, and prints the table.

    Args:
        generator: of the samples.
        data: whose test images they are compared with.
        evaluator: of that data set.
        samples: of every label.
        seconds: time of generating them.
        origin: see :func:`about_checkpoint`.
        run: the directory for the files; None for none.
        progress: whether to show a progress bar.
    """
    about = {
        "generator": type(generator).__name__,
        "settings": dict(generator.hparams),
        "checkpoint": origin,
        "samples": {"seed": data.sample_seed},
    }
    cost = {
        "parameters": sum(weights.numel() for weights in generator.sampler.parameters()),
        "nfe": generator.nfe,
        "milliseconds_per_sample": 1000 * seconds / len(samples),
        "training_minutes": origin["training_minutes"],
    }
    prefix = None if run is None else f"{run}/"
    _report(origin["path"], samples, data, evaluator, about, cost, prefix, progress)


def score(path: str, data: ImageDataModule, output: str | None = None) -> None:
    """Scores samples in files, made by any program: writes scores.json and nearest.png, and prints a table.

    Args:
        path: a folder of ``condgen predict``, an npz file with images and labels, or a folder with a folder of pictures
            for each label.
        data: the data set that they are compared with; if not given, that of the run in whose directory they lie, or
            MNIST.
        output: the folder for scores.json and nearest.png; the folder of the samples if not given.
    """
    source, evaluator = Path(path), find_evaluator(data)
    samples = read_samples(source, data)
    data.prepare_data()
    data.setup("test")
    folder = Path(output) if output else source if source.is_dir() else source.parent
    prefix = f"{folder}/{source.stem}." if source.is_file() else f"{folder}/"
    _report(str(source), samples, data, evaluator, {"samples": {"path": str(source)}}, {}, prefix)


def _report(
    source: str,
    samples: Images,
    data: ImageDataModule,
    evaluator: Evaluator,
    about: dict[str, Any],
    cost: dict[str, float | None],
    prefix: str | None,
    progress: bool = True,
) -> None:
    """Scores samples, writes the files, whose paths begin with ``prefix``, and prints the table."""
    scores, number = score_samples(samples, data, evaluator, progress)
    about = {
        **about,
        "samples": {"number": number, **about["samples"]},
        "data": data.full_name,
        "source": data.hparams["source"],
        "test_images": len(data.val_images),
        "evaluator": evaluator.sha256,
        "versions": {"condgen": condgen.__version__, "torch": str(torch.__version__)},
    }
    written = f"Nothing is written, because {source} lies in no run directory."
    try:
        if prefix is not None:
            write_scores(Path(f"{prefix}scores.json"), scores, cost, about)
            write_nearest(samples, data, Path(f"{prefix}nearest.png"))
            written = f"Scores: {Path(f'{prefix}scores.json')}, {Path(f'{prefix}nearest.png')}"
    finally:  # print the table even if the files cannot be written: scoring takes minutes
        print(f"{source}: {number:,} samples against {len(data.val_images):,} test images of {data.full_name}")
        rows = [(name, with_errors(found)) for name, found in scores.items()]
        costs = [(name, [cell(number)]) for name, number in cost.items() if number is not None]
        print(table(["samples", "real images"], [*rows, *costs]))
    if (each := number // data.num_classes) < PER_LABEL:
        reached = " and ".join(f"{scores[name]['real']:.3f}" for name in ("coverage", "gan_train_accuracy"))
        print(
            f"Only {each:,} samples of a label: coverage and gan_train_accuracy depend on it. Real images reach "
            f"{reached} here. Compare these scores only with runs on the same data."
        )
    print(written)
