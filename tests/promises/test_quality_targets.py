"""Scores of the shipped configs on the full MNIST, each with two seeds. Takes hours on 2 cores.

    pytest -m slow -n 0 -s tests/promises/test_quality_targets.py

reads the full MNIST from data/ and writes the runs, their scores and the README's second picture to targets/. Runs that
exist there are not trained again.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from condgen.cli.main import main

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "targets"
SEEDS = (1, 2)
# Upper bounds: minutes of training on 2 cores, and "distance", the Fréchet distance divided by that of the DNN.
# Lower bounds: accuracy and coverage. Range: diversity.
TARGETS = {
    "gan": {"minutes": 30, "accuracy": 0.975, "coverage": 0.80, "diversity": (0.9, 1.1), "distance": 0.15},
    "vae": {"minutes": 20, "accuracy": 0.95, "coverage": 0.75, "diversity": (0.85, 9.0), "distance": 0.4},
    "drifting": {"minutes": 30, "accuracy": 0.90, "coverage": 0.60, "diversity": (0.85, 9.0), "distance": 0.5},
    "diffusion": {"minutes": 15, "accuracy": 0.985, "coverage": 0.92, "diversity": (0.95, 1.05), "distance": 0.04},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


def trained(config: str, seed: int) -> Path:
    """The run of a config with a seed, which is trained if it does not exist."""
    folder = FOLDER / f"{config}-{seed}"
    found = folder / "lightning_logs" / "version_0"
    if not found.exists():
        arguments = ["fit", "--config", str(ROOT / "configs" / f"{config}.yaml"), *directories(folder)]
        assert main([*arguments, "--data.source", "full", "--seed_everything", str(seed)]) == 0
    return found


def run(config: str, seed: int) -> Path:
    """The run of a config with a seed, trained and scored."""
    return scored(trained(config, seed))


def guided() -> Path:
    """A copy of the diffusion run, scored with classifier-free guidance and 19 network evaluations per sample."""
    original = run("diffusion", 1)
    found = FOLDER / "guided" / "lightning_logs" / "version_0"
    if not found.exists():
        shutil.copytree(original, found, ignore=shutil.ignore_patterns("scores.json"))
    return scored(found, "--model.guidance", "1.4", "--model.solver", "heun", "--model.sampling_steps", "7")


def directories(folder: Path) -> list[str]:
    """Options for the data and run directories."""
    return ["--data.root", str(ROOT / "data"), "--trainer.default_root_dir", str(folder)]


def scored(found: Path, *options: str) -> Path:
    """The same run, after it has been scored."""
    if not (found / "scores.json").is_file():
        assert main(["test", *directories(found.parent.parent), *options]) == 0
    return found


def check(name: str, found: Path, target: dict[str, Any]) -> None:
    """Print the scores of a run and compare them with its targets."""
    content, dnn = (json.loads((path / "scores.json").read_text()) for path in (found, run("base", 1)))
    figures = {score: content["scores"][score]["value"] for score in ("accuracy", "coverage", "diversity")}
    figures["minutes"] = content["cost"]["training_minutes"]
    distances = [scores["scores"]["frechet_distance"]["value"] for scores in (content, dnn)]
    figures["distance"] = distances[0] / distances[1]
    print(f"\n{name}, {os.cpu_count()} cores:", {name: round(value, 4) for name, value in figures.items()})
    low, high = target["diversity"]
    assert low <= figures["diversity"] <= high
    for score in ("accuracy", "coverage"):
        assert figures[score] >= target[score]
    for score in ("minutes", "distance"):
        assert figures[score] <= target[score]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("config", TARGETS)
def test_config_reaches_its_target_scores(config, seed):
    check(f"{config}, seed {seed}", run(config, seed), TARGETS[config])


@pytest.mark.parametrize("seed", SEEDS)
def test_fast_config_reaches_the_val_loss_of_the_article(seed):
    with open(trained("fast", seed) / "metrics.csv", newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    print(f"\nfast, seed {seed}: val_loss {losses}")
    assert losses[-1] <= 0.7100


def test_diffusion_with_guidance_reaches_its_target_scores():
    target = {"minutes": 30, "accuracy": 0.998, "coverage": 0.93, "diversity": (0.95, 9.0), "distance": 0.04}
    check("diffusion, guidance 1.4", guided(), target)


def test_compare_writes_the_picture_of_all_families():
    runs = [str(run(config, 1)) for config in ("base", *TARGETS)]
    picture = FOLDER / "families.png"
    assert main(["compare", *runs, "--output", str(FOLDER / "scores.png"), "--samples", str(picture)]) == 0
    assert picture.is_file()
