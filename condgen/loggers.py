"""Lightning's CSV and TensorBoard loggers, able to go on in the directory of an interrupted run."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from condgen.files import replacing


class MetricsFile(ExperimentWriter):
    """``metrics.csv``: rows that a kill cannot lose, and that a resumed run goes on with.

    Args:
        log_dir: the run directory.
        first_step: rows of this step and later ones are dropped: the training that goes on will write them again.
    """

    def __init__(self, log_dir: str, first_step: int) -> None:
        self.first_step = first_step
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        """Instead of deleting an existing file: keeps its rows up to the step that training goes on from."""
        path = Path(self.metrics_file_path)
        if path.is_file():
            with open(path, newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for row in reader if (row.get("step") or "").isdigit()]  # a kill may cut the last row
            self.metrics_keys = list(reader.fieldnames or [])
            self._write(self.metrics_keys, (row for row in rows if int(row["step"]) < self.first_step))

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with open(self.metrics_file_path, newline="") as file:
            rows = list(csv.DictReader(file))
        self._write(fieldnames, rows)

    def _write(self, fieldnames: list[str], rows: Iterable[dict[str, Any]]) -> None:
        with replacing(self.metrics_file_path) as file:
            text = io.TextIOWrapper(file, newline="")
            writer = csv.DictWriter(text, fieldnames)
            writer.writeheader()
            writer.writerows(rows)
            text.flush()
            text.detach()


class RunCSVLogger(CSVLogger):
    """Writes each row at once into ``metrics.csv``; the settings are in the run's ``config.yaml``."""

    def __init__(self, run: Path, first_step: int) -> None:
        super().__init__(run.parent, name="", version=run.name, flush_logs_every_n_steps=1)
        self.first_step = first_step

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsFile:
        if self._experiment is None:
            self._experiment = MetricsFile(self.log_dir, self.first_step)
        return self._experiment  # type: ignore[return-value]

    log_hyperparams: Callable[..., None] = lambda *_, **__: None


class RunTensorBoardLogger(TensorBoardLogger):
    """Writes events beside ``metrics.csv``; the settings are in the run's ``config.yaml``."""

    def __init__(self, run: Path, first_step: int) -> None:
        super().__init__(run.parent, name="", version=run.name, purge_step=first_step or None)

    log_hyperparams: Callable[..., None] = lambda *_, **__: None

    def save(self) -> None:
        self.experiment.flush()


def run_loggers(run: Path, first_step: int) -> list[CSVLogger | TensorBoardLogger]:
    """The loggers of a run directory, that go on at ``first_step`` (0: from the beginning)."""
    return [RunCSVLogger(run, first_step), RunTensorBoardLogger(run, first_step)]
