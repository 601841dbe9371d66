"""Loggers that write to the run directory. When a run is resumed, they append to the existing files."""

import csv
import io
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor

from condgen.files.atomic import atomic_write
from condgen.files.reading import read_limited

MAX_METRICS_BYTES = 2**28


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]], bool]:
    """Reads a ``metrics.csv`` file. Ignores the last row if it is incomplete, in case the process was killed.

    Returns:
        The column names, all valid rows, and whether the entire file is valid.
    """
    try:
        text = read_limited(path, MAX_METRICS_BYTES).decode("utf-8-sig")
        table = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error):
        return [], [], False
    if not table:
        return [], [], True  # killed or out of disk space before the first row was written
    header, *body = table
    if not text.endswith("\n"):
        body = body[:-1]
    if "step" not in header or len(set(header)) < len(header):
        return [], [], not body
    rows = [dict(zip(header, row, strict=True)) for row in body if len(row) == len(header)]
    rows = [row for row in rows if re.fullmatch("[0-9]{1,18}", row["step"])]
    return header if rows else [], rows, len(rows) == len(body)


class MetricsLogger(Logger):
    """Logs metrics to ``metrics.csv``, without any buffering.

    Hyperparameters are not logged, since they are already in ``config.yaml``.

    Args:
        run: The run directory.
        first_step: The step to start from. When resuming, existing rows from this step onwards are dropped because they
            will be logged again.
        extra_rows: Column names. If a row from the step before ``first_step`` has a value in any of these columns, it
            was only logged because training stopped at that point, so it is dropped as well.
    """

    def __init__(self, run: Path, first_step: int, extra_rows: Sequence[str] = ()) -> None:
        super().__init__()
        self.path, self.first_step, self.extra_rows = run / "metrics.csv", first_step, extra_rows
        self._header: list[str] = []
        self._is_resumed = False

    @property
    def save_dir(self) -> str:
        return str(self.path.parent.parent)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return self.path.parent.name

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        self.resume()
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        row["step"] = step or 0
        if row.keys() <= set(self._header):
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, self._header).writerow(row)
            return
        rows = read_rows(self.path)[1] if self._header else []
        self._header = sorted({*self._header, *row})
        self._write([*rows, row])

    @rank_zero_only
    def resume(self) -> None:
        """Drops any existing rows that will be logged again. Only has an effect on the first call.

        This needs to happen before a new checkpoint is saved, since that no longer knows which rows to drop.
        """
        is_first_call, self._is_resumed = not self._is_resumed, True
        if not is_first_call or not os.path.lexists(self.path):
            return
        self._header, rows, is_whole = read_rows(self.path)
        if not is_whole:
            kept = _rename_damaged(self.path)
            rank_zero_warn(f"{self.path} is damaged: renamed to {kept.name}. {len(rows)} readable rows are kept.")
        if rows:
            self._write([row for row in rows if self._is_kept(row)])

    def _is_kept(self, row: dict[str, str]) -> bool:
        step = int(row["step"])
        is_extra = step == self.first_step - 1 and any(row.get(column) for column in self.extra_rows)
        return step < self.first_step and not is_extra

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with atomic_write(self.path) as file:
            text = io.TextIOWrapper(file, newline="")
            writer = csv.DictWriter(text, self._header)
            writer.writeheader()
            writer.writerows(rows)
            text.flush()
            text.detach()


def _rename_damaged(path: Path) -> Path:
    """Keeps a backup of a damaged file under a new name, which is returned."""
    paths = (path.with_name(f"{path.stem}.damaged-{number}{path.suffix}") for number in itertools.count())
    return path.rename(next(free for free in paths if not os.path.lexists(free)))


class RunTensorBoardLogger(TensorBoardLogger):
    """A TensorBoardLogger that logs to the run directory, including hyperparameters for the HPARAMS tab.

    Args:
        run: The run directory.
        first_step: The step to start from. When resuming, TensorBoard hides any earlier events from this step onwards.
    """

    def __init__(self, run: Path, first_step: int) -> None:
        super().__init__(run.parent, name="", version=run.name, purge_step=first_step or None)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Logs the hyperparameters once, with ``val_loss`` as the metric."""
        from torch.utils.tensorboard.summary import hparams  # slow import that is only needed for training

        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in dict(params).items()}
        for summary in hparams(plain, {"val_loss": 0.0}):
            self.experiment.file_writer.add_summary(summary)

    def save(self) -> None:
        self.experiment.flush()


def log_image(logger: Logger, name: str, image: Tensor, step: int) -> None:
    """Logs an image to TensorBoard, W&B, MLflow or Comet.

    Custom loggers are supported if they have a ``log_image`` method. It gets called as ``log_image(name, [array],
    step=step)`` with a uint8 array of shape (H, W, 3).

    Args:
        logger: The logger to use.
        name: The tag or key to log the image under.
        image: A uint8 tensor of shape (3, H, W).
        step: The global step.
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
