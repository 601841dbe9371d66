"""A row of the table, and the commands that the rows measure."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from processes import condgen, usage
from ratios import Ratio

ROOT = Path(__file__).parent.parent.parent
NO_SCORES = ("--training_scores.every_n_epochs", "null")


@dataclass
class Row:
    """A ratio with an optional target: at least or at most a number."""

    name: str
    ratio: Ratio
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        return f"≥ {self.at_least}" if self.at_least else f"≤ {self.at_most}" if self.at_most else ""

    @property
    def is_met(self) -> bool:
        median = self.ratio.median
        return (self.at_least or 0) <= median <= (self.at_most or float("inf"))


@dataclass
class Settings:
    """The data root, the article's script, the pairs of measurements per ratio, and a folder for the runs."""

    data: Path
    article: Path | None
    pairs: int
    folder: Path

    def fit(self, config: str, *options: str) -> list[str]:
        """A command that trains a config in a new run directory."""
        root = tempfile.mkdtemp(dir=self.folder)
        data = ("--data.root", str(self.data), "--data.source", "full")
        config_file = str(ROOT / "configs" / f"{config}.yaml")
        return condgen("fit", "--config", config_file, *data, "--trainer.default_root_dir", root, *options)

    def trained(self, config: str) -> Path:
        """A run of two training steps. Sampling from it takes as long as from a fully trained one."""
        few = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1")
        arguments = self.fit(config, *few, *NO_SCORES)
        usage(arguments, self.folder)
        return run_of(arguments)


def run_of(fit: list[str]) -> Path:
    """The run directory that a command of :meth:`Settings.fit` writes."""
    return Path(fit[fit.index("--trainer.default_root_dir") + 1]) / "lightning_logs" / "version_0"


def train_seconds(fit: list[str]) -> float:
    """Seconds of training and validation in a run of :meth:`Settings.fit`, without the start of the program."""
    checkpoint = run_of(fit) / "checkpoints" / "last.ckpt"
    return float(torch.load(checkpoint, weights_only=True, mmap=True)["condgen"]["train_seconds"])
