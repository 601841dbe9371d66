"""What the shipped configs reach on the full MNIST, with their own seed and with another: hours on 2 cores.

    pytest -m slow -n 0 -s tests/promises/test_quality_targets.py

takes the full MNIST from data/ and leaves the runs, their scores and the README's second picture in targets/. A run
that is there is not trained again.
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
# minutes of training on 2 cores and Fréchet distance over the DNN's at most, accuracy and coverage at least, diversity
TARGETS = {
    "gan": {"minutes": 30, "accuracy": 0.975, "coverage": 0.80, "diversity": (0.9, 1.1), "distance": 0.15},
    "vae": {"minutes": 20, "accuracy": 0.95, "coverage": 0.75, "diversity": (0.85, 9.0), "distance": 0.4},
    "drifting": {"minutes": 30, "accuracy": 0.90, "coverage": 0.60, "diversity": (0.85, 9.0), "distance": 0.5},
    "diffusion": {"minutes": 15, "accuracy": 0.985, "coverage": 0.92, "diversity": (0.95, 1.05), "distance": 0.04},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


def trained(config: str, seed: int) -> Path:
    """The run of a config and a seed."""
    folder = FOLDER / f"{config}-{seed}"
    found = folder / "lightning_logs" / "version_0"
    if not found.exists():
        arguments = ["fit", "--config", str(ROOT / "configs" / f"{config}.yaml"), *within(folder)]
        assert main([*arguments, "--data.source", "full", "--seed_everything", str(seed)]) == 0
    return found


def run(config: str, seed: int) -> Path:
    """The run of a config and a seed, trained and scored."""
    return scored(trained(config, seed))


def guided() -> Path:
    """The diffusion's run again, its samples drawn with guidance in 19 evaluations."""
    of = run("diffusion", 1)
    found = FOLDER / "guided" / "lightning_logs" / "version_0"
    if not found.exists():
        shutil.copytree(of, found, ignore=shutil.ignore_patterns("scores.json"))
    return scored(found, "--model.guidance", "1.4", "--model.solver", "heun", "--model.sampling_steps", "7")


def within(folder: Path) -> list[str]:
    return ["--data.root", str(ROOT / "data"), "--trainer.default_root_dir", str(folder)]


def scored(found: Path, *options: str) -> Path:
    if not (found / "scores.json").is_file():
        assert main(["test", *within(found.parent.parent), *options]) == 0
    return found


def check(name: str, found: Path, target: dict[str, Any]) -> None:
    """Prints the figures of a scored run, and compares them with its targets."""
    content, dnn = (json.loads((path / "scores.json").read_text()) for path in (found, run("base", 1)))
    figures = {score: content["scores"][score]["value"] for score in ("accuracy", "coverage", "diversity")}
    figures["minutes"] = content["cost"]["training_minutes"]
    distances = [of["scores"]["frechet_distance"]["value"] for of in (content, dnn)]
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
def test_a_config_reaches_its_targets(config, seed):
    check(f"{config}, seed {seed}", run(config, seed), TARGETS[config])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_fast_config_reaches_the_articles_loss(seed):
    with open(trained("fast", seed) / "metrics.csv", newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    print(f"\nfast, seed {seed}: val_loss {losses}")
    assert losses[-1] <= 0.7100


def test_guidance_draws_clearer_digits():
    target = {"minutes": 30, "accuracy": 0.998, "coverage": 0.93, "diversity": (0.95, 9.0), "distance": 0.04}
    check("diffusion, guidance 1.4", guided(), target)


def test_the_picture_of_all_families():
    runs = [str(run(config, 1)) for config in ("base", *TARGETS)]
    picture = FOLDER / "families.png"
    assert main(["compare", *runs, "--output", str(FOLDER / "scores.png"), "--samples", str(picture)]) == 0
    assert picture.is_file()
