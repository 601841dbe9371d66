"""The loggers of a run directory, and a function that logs images. A resumed run appends to its existing log files."""

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
    """Reads a ``metrics.csv``. An incomplete last row is ignored, because a killed process can leave one.

    Args:
        path: Path to the file.

    Returns:
        The column names, the readable rows, and whether the whole file is readable.
    """
    try:
        text = read_limited(path, MAX_METRICS_BYTES).decode("utf-8-sig")
        table = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error):
        return [], [], False
    if not table:
        return [], [], True  # the process was killed, or the disk was full, before the first row was written
    header, *body = table
    if not text.endswith("\n"):
        body = body[:-1]
    if "step" not in header or len(set(header)) < len(header):
        return [], [], not body
    rows = [dict(zip(header, row, strict=True)) for row in body if len(row) == len(header)]
    rows = [row for row in rows if re.fullmatch("[0-9]{1,18}", row["step"])]
    return header if rows else [], rows, len(rows) == len(body)


class MetricsLogger(Logger):
    """Writes metrics to ``metrics.csv``, each row as soon as it is logged.

    The logger does not write hyperparameters, because they are in the run's ``config.yaml``.

    Args:
        run: Run directory.
        first_step: First step of this training run. If the run is resumed, existing rows from this step on are dropped,
            because they are logged again.
        extra_rows: Names of columns. Existing rows of the step before ``first_step`` with a value in one of these
            columns are dropped too, because they were logged only because training stopped there.
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
        """Drops the existing rows that the resumed run logs again. It has an effect only the first time.

        It is called before the first new checkpoint is written, because that checkpoint no longer records which rows to
        drop.
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
    """Renames a damaged file, so that its content is not lost. Returns the new path."""
    paths = (path.with_name(f"{path.stem}.damaged-{number}{path.suffix}") for number in itertools.count())
    return path.rename(next(free for free in paths if not os.path.lexists(free)))


class RunTensorBoardLogger(TensorBoardLogger):
    """Writes TensorBoard events into the run directory, and the hyperparameters for TensorBoard's HPARAMS tab.

    Args:
        run: Run directory.
        first_step: First step of this training run. If the run is resumed, TensorBoard hides the events that were
            logged from this step on before the interruption.
    """

    def __init__(self, run: Path, first_step: int) -> None:
        super().__init__(run.parent, name="", version=run.name, purge_step=first_step or None)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Writes the hyperparameters once, and declares the logged ``val_loss`` as their metric."""
        from torch.utils.tensorboard.summary import hparams  # slow to import, and only needed for training

        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in dict(params).items()}
        for summary in hparams(plain, {"val_loss": 0.0}):
            self.experiment.file_writer.add_summary(summary)

    def save(self) -> None:
        self.experiment.flush()


def log_image(logger: Logger, name: str, image: Tensor, step: int) -> None:
    """Logs an image to TensorBoard, W&B, MLflow or Comet.

    If another logger has a method ``log_image``, it is called as ``log_image(name, [array], step=step)``. The array has
    shape (H, W, 3) and dtype uint8.

    Args:
        logger: Logger that gets the image.
        name: Name of the image in the logger.
        image: Image with shape (3, H, W) and dtype uint8.
        step: Step of the image.
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


def run_loggers(run: Path, first_step: int, extra_rows: Sequence[str] = ()) -> list[Logger]:
    """Returns the loggers that write into a run directory.

    Args:
        run: Run directory.
        first_step: First step of this training run, 0 for a new run.
        extra_rows: Names of columns of existing rows to drop; see :class:`MetricsLogger`.
    """
    return [MetricsLogger(run, first_step, extra_rows), RunTensorBoardLogger(run, first_step)]
