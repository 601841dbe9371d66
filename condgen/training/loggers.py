"""Lightning's CSV and TensorBoard loggers, able to continue the files of an interrupted run."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import (
    CometLogger,
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
)
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor

from condgen.files.atomic import atomic_write
from condgen.files.reading import read_limited

MAX_METRICS_BYTES = 2**28


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]], bool]:
    """The header and the readable rows of a ``metrics.csv``, and whether these are all that it holds.

    A last row that is incomplete is left out without a word: that is what a kill leaves.
    """
    try:
        text = read_limited(path, MAX_METRICS_BYTES).decode("utf-8-sig")
        table = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error):
        return [], [], False
    if not table:
        return [], [], True  # a kill or a full disk came before the first row
    header, *body = table
    if not text.endswith("\n"):
        body = body[:-1]
    if "step" not in header or len(set(header)) < len(header):
        return [], [], not body
    found = [dict(zip(header, row, strict=True)) for row in body if len(row) == len(header)]
    rows = [row for row in found if re.fullmatch("[0-9]{1,18}", row["step"])]
    return header if rows else [], rows, len(rows) == len(body)


def _move_aside(path: Path) -> Path:
    """Renames a damaged file, so that what it holds is not lost, and returns its new path."""
    for number in itertools.count():
        kept = path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")
        if not os.path.lexists(kept):
            return path.rename(kept)
    raise AssertionError("unreachable")


class MetricsFile(ExperimentWriter):
    """``metrics.csv``: a kill loses no row, and a resumed run continues it.

    Args:
        log_dir: the run directory.
        first_step: rows of this step and later ones are dropped, because the resumed training writes them again.
        extra_rows: of the step before ``first_step``, the rows that have one of these columns are dropped, too: they
            were only logged because training stopped there.
    """

    def __init__(self, log_dir: str, first_step: int, extra_rows: Sequence[str]) -> None:
        self.first_step, self.extra_rows = first_step, extra_rows
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        """Instead of deleting an existing file: keeps its rows up to the step from which training resumes."""
        path = Path(self.metrics_file_path)
        if not os.path.lexists(path):
            return
        self.metrics_keys, rows, is_whole = read_rows(path)
        if not is_whole:
            kept = _move_aside(path)
            rank_zero_warn(f"{path} is damaged: renamed to {kept.name}. The run continues with {len(rows)} good rows.")
        if rows:
            self._write(self.metrics_keys, filter(self._is_kept, rows))

    def _is_kept(self, row: dict[str, str]) -> bool:
        step = int(row["step"])
        is_extra = step == self.first_step - 1 and any(row.get(column) for column in self.extra_rows)
        return step < self.first_step and not is_extra

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with open(self.metrics_file_path, newline="") as file:
            rows = list(csv.DictReader(file))
        self._write(fieldnames, rows)

    def _write(self, fieldnames: list[str], rows: Iterable[dict[str, Any]]) -> None:
        with atomic_write(self.metrics_file_path) as file:
            text = io.TextIOWrapper(file, newline="")
            writer = csv.DictWriter(text, fieldnames)
            writer.writeheader()
            writer.writerows(rows)
            text.flush()
            text.detach()


class RunCSVLogger(CSVLogger):
    """Writes each row at once into ``metrics.csv``; the settings are in the run's ``config.yaml``."""

    def __init__(self, run: Path, first_step: int, extra_rows: Sequence[str]) -> None:
        super().__init__(run.parent, name="", version=run.name, flush_logs_every_n_steps=1)
        self.first_step, self.extra_rows = first_step, extra_rows

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsFile:
        if self._experiment is None:
            self._experiment = MetricsFile(self.log_dir, self.first_step, self.extra_rows)
        return self._experiment  # type: ignore[return-value]

    log_hyperparams: Callable[..., None] = lambda *_, **__: None


class RunTensorBoardLogger(TensorBoardLogger):
    """Writes events beside ``metrics.csv``, and the hyperparameters for TensorBoard's HPARAMS tab."""

    def __init__(self, run: Path, first_step: int) -> None:
        super().__init__(run.parent, name="", version=run.name, purge_step=first_step or None)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Writes the hyperparameters once, with ``val_loss`` as their metric; its values are logged during training."""
        from torch.utils.tensorboard.summary import hparams  # here: only a training waits for it

        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in dict(params).items()}
        for summary in hparams(plain, {"val_loss": 0.0}):
            self.experiment.file_writer.add_summary(summary)

    def save(self) -> None:
        self.experiment.flush()


def log_image(logger: Logger, name: str, image: Tensor, step: int) -> None:
    """Logs an image (3, H, W) uint8 to a logger that takes images: TensorBoard, W&B, MLflow, Comet.

    A logger of your own gets it through ``log_image(name, [array (H, W, 3)], step=step)``, if it has this method.
    """
    array = image.permute(1, 2, 0).numpy()
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, image, step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, array, key=name, step=step)
    elif isinstance(logger, CometLogger):
        logger.experiment.log_image(array, name=name, step=step)
    elif hasattr(logger, "log_image"):  # W&B
        logger.log_image(name, [array], step=step)


def run_loggers(run: Path, first_step: int, extra_rows: Sequence[str] = ()) -> list[CSVLogger | TensorBoardLogger]:
    """The loggers of a run directory, which continue its files at ``first_step`` (0 for a new run).

    See :class:`MetricsFile` for ``extra_rows``.
    """
    return [RunCSVLogger(run, first_step, extra_rows), RunTensorBoardLogger(run, first_step)]
