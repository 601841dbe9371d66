"""What the shipped configs reach on the full MNIST, with their own seed and with another: hours on 2 cores.

    pytest -m slow -n 0 -s tests/test_targets.py

takes the full MNIST from data/ and leaves the runs, their scores and the README's second picture in targets/. A run
that is there is not trained again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from condgen.__main__ import main

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "targets"
SEEDS = (1, 2)
# minutes of training on 2 cores and Fréchet distance over the DNN's at most, accuracy and coverage at least, diversity
TARGETS = {
    "gan": {"minutes": 30, "accuracy": 0.975, "coverage": 0.80, "diversity": (0.9, 1.1), "distance": 0.15},
    "vae": {"minutes": 20, "accuracy": 0.95, "coverage": 0.75, "diversity": (0.85, 9.0), "distance": 0.4},
    "energy_imle": {"minutes": 30, "accuracy": 0.90, "coverage": 0.60, "diversity": (0.85, 9.0), "distance": 0.5},
    "diffusion": {"minutes": 30, "accuracy": 0.985, "coverage": 0.92, "diversity": (0.95, 1.05), "distance": 0.04},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


def run(config: str, seed: int) -> Path:
    """The run of a config and a seed, trained and scored."""
    folder = FOLDER / f"{config}-{seed}"
    found = folder / "lightning_logs" / "version_0"
    common = ["--data.root", str(ROOT / "data"), "--trainer.default_root_dir", str(folder)]
    if not found.exists():
        arguments = ["fit", "--config", str(ROOT / "configs" / f"{config}.yaml"), *common, "--data.source", "full"]
        assert main([*arguments, "--seed_everything", str(seed)]) == 0
    if not (found / "scores.json").is_file():
        assert main(["test", *common]) == 0
    return found


def figures(config: str, seed: int) -> dict[str, float]:
    found = json.loads((run(config, seed) / "scores.json").read_text())
    dnn = json.loads((run("base", 1) / "scores.json").read_text())
    values = {name: score["value"] for name, score in found["scores"].items()}
    return {
        "minutes": found["cost"]["training_minutes"],
        **{name: values[name] for name in ("accuracy", "coverage", "diversity")},
        "distance": values["frechet_distance"] / dnn["scores"]["frechet_distance"]["value"],
    }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("config", TARGETS)
def test_a_config_reaches_its_targets(config, seed):
    found, target = figures(config, seed), TARGETS[config]
    print(f"\n{config}, seed {seed}, {os.cpu_count()} cores:", {name: round(value, 4) for name, value in found.items()})
    low, high = target["diversity"]
    assert low <= found["diversity"] <= high
    for name in ("accuracy", "coverage"):
        assert found[name] >= target[name]
    for name in ("minutes", "distance"):
        assert found[name] <= target[name]


def test_the_picture_of_all_families():
    runs = [str(run(config, 1)) for config in ("base", *TARGETS)]
    picture = FOLDER / "families.png"
    assert main(["compare", *runs, "--output", str(FOLDER / "scores.png"), "--samples", str(picture)]) == 0
    assert picture.is_file()
