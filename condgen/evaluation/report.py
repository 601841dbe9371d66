"""The ``condgen score`` command, and the report that ``condgen test`` generates.

Both save ``scores.json`` and ``nearest.png``, and print a table with the scores.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import condgen
from condgen.checkpoints.read import raise_as_incompatible
from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.evaluation.evaluator import Evaluator, find_evaluator, no_evaluator
from condgen.evaluation.inversion import reconstruction_score
from condgen.evaluation.likelihood import Likelihoods
from condgen.evaluation.sample_files import read_samples
from condgen.evaluation.scores import PER_LABEL, cell, score_samples, table, with_errors, write_nearest
from condgen.evaluation.scores_file import write_scores
from condgen.files.atomic import say_replacing
from condgen.generators import ConditionalGenerator


def about_checkpoint(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Collects the checkpoint details for ``scores.json``, e.g. its path, step count, seed, and training time.

    Raises:
        UsageError: If the checkpoint is incompatible.
    """
    with raise_as_incompatible(path):
        state = checkpoint.get("callbacks", {}).get("LastAndBestCheckpoint", {})
        monitor = str(state.get("monitor"))
        images = "training" if monitor.startswith(("score_", "train_")) else "test"
        chosen = {
            "last.ckpt": "the last one of the training run, not chosen by a score",
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
    evaluator: Evaluator | None,
    samples: Images,
    seconds: float,
    origin: dict[str, Any],
    run: Path | None,
    likelihoods: Likelihoods | None = None,
    progress: bool = True,
) -> None:
    """Scores the given samples, saves ``scores.json`` and ``nearest.png``, and prints a table with the scores.

    Args:
        generator: The generator that the samples come from.
        data: The dataset with the test images to compare against.
        evaluator: The evaluator for this dataset, if there is one.
        samples: The samples to score. They have to include every label.
        seconds: How long it took to generate the samples, in seconds.
        origin: The checkpoint details returned by :func:`about_checkpoint`.
        run: The run directory to save the files to. If ``None``, nothing is saved.
        likelihoods: The likelihoods of test images, for families that have a likelihood.
        progress: Whether to show a progress bar.
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
    inverted = {"reconstruction_error": reconstruction_score(generator, data)}
    _report(origin["path"], samples, data, evaluator, about, cost, prefix, likelihoods, progress, inverted)


def score(path: str, data: ImageDataModule, output: str | None = None) -> None:
    """Scores samples from any program. Saves scores.json and nearest.png, and prints a table with the scores.

    Args:
        path: Path to the samples. Can be a folder created by ``condgen predict``, an npz file with images and labels,
            or a folder with one subfolder of images per label.
        data: The dataset to compare the samples with. Defaults to the dataset of the run that the samples belong to, or
            to MNIST if they are not in a run directory.
        output: The folder to save scores.json and nearest.png to. Defaults to the folder with the samples.
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
    evaluator: Evaluator | None,
    about: dict[str, Any],
    cost: dict[str, float | None],
    prefix: str | None,
    likelihoods: Likelihoods | None = None,
    progress: bool = True,
    more_scores: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """Scores the samples, saves the results, and prints a table with the scores.

    Args:
        source: Path to the checkpoint or to the samples, shown above the table.
        about: Details about the samples and the generator to include in ``scores.json``.
        cost: The training and sampling costs to include in ``scores.json``.
        prefix: The path prefix of the output files. If ``None``, nothing is saved.
        likelihoods: The likelihoods of test images, if there are any.
        more_scores: Scores of the generator itself to add to those of the samples.
    """
    scores, number = score_samples(samples, data, evaluator, progress)
    scores |= more_scores or {}
    if likelihoods is not None:
        scores |= likelihoods.scores()
    about = {
        **about,
        "samples": {"number": number, **about["samples"]},
        "data": data.full_name,
        "source": data.hparams["source"],
        "test_images": len(data.val_images),
        "evaluator": evaluator.sha256 if evaluator else "none",
        "versions": {"condgen": condgen.__version__, "torch": str(torch.__version__)},
    }
    written = f"No files were written, because {source} is not in a run directory."
    try:
        if prefix is not None:
            file, picture = Path(f"{prefix}scores.json"), Path(f"{prefix}nearest.png")
            say_replacing(file, picture)
            write_scores(file, scores, cost, about)
            write_nearest(samples, data, picture)
            written = f"Scores: {file}, {picture}"
    finally:  # still print the table if saving fails, since scoring takes minutes
        print(f"{source}: {number:,} samples against {len(data.val_images):,} test images of {data.full_name}")
        rows = [(name, with_errors(found)) for name, found in scores.items()]
        costs = [(name, [cell(number)]) for name, number in cost.items() if number is not None]
        print(table(["samples", "real images"], [*rows, *costs]))
    if (each := number // data.num_classes) < PER_LABEL:
        few = [name for name in ("coverage", "gan_train_accuracy") if name in scores]
        reached = " and ".join(f"{name} {scores[name]['real']:.3f}" for name in few)
        print(
            f"Only {each:,} samples of each label were scored, and {' and '.join(few)} depend on this number. "
            f"Real images reach {reached}. Compare these scores only with runs on the same data."
        )
    if likelihoods is not None and not likelihoods.has_converged:
        print(
            "bits_per_dimension and likelihood_accuracy are left out because they have not converged: "
            f"{likelihoods.steps // 2} and {likelihoods.steps} steps differ by {likelihoods.error:.3g} "
            "bits per dimension."
        )
    if evaluator is None:
        print(f"Eight more scores, such as accuracy, need an evaluator. {no_evaluator(data)}")
    print(written)
