"""A run that is killed at random moments and resumed equals the uninterrupted run bit for bit."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.processes import DDP, ForkedPython, condgen_process, finish
from helpers.runs import FAMILIES, same_weights
from lightning.pytorch.callbacks import Callback


class Failing(Callback):
    """Raises an exception after one step."""

    def __init__(self, in_step: int) -> None:
        self.in_step = in_step

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.in_step:
            raise ZeroDivisionError("a bug of the user's")


def now(run: Path) -> bool:
    return True


def while_a_checkpoint_is_written(run: Path) -> bool:
    return any((run / "checkpoints").glob(".*.partial"))


def while_a_grid_is_written(run: Path) -> bool:
    return any((run / "samples").glob(".epoch=*.partial"))


def newest_run(folder: Path) -> Path:
    return max((folder / "lightning_logs").glob("version_*"), default=folder, key=lambda run: run.stat().st_mtime)


def send_signal(process: ForkedPython, folder: Path, signum: int, moment: Callable[[Path], bool], delay: float):
    """Send a signal when `moment(run)` is true, but not before `delay` seconds after the start of the training."""
    started = len(list(folder.rglob("events.out.*")))
    while process.poll() is None and len(list(folder.rglob("events.out.*"))) == started:
        time.sleep(0.01)
    until = time.monotonic() + delay
    while process.poll() is None and (time.monotonic() < until or not moment(newest_run(folder))):
        time.sleep(0.0005)
    if process.poll() is None:
        process.send_signal(signum)


def train_with_kills(
    kills: list[tuple[int, Callable[[Path], bool], float]], arguments: list[str], folder: Path, uninterrupted: Path
) -> int:
    """Train to the end, resuming after each kill, and assert that the run equals the uninterrupted one.

    Returns the number of kills. A signal that arrives after the end of the training is not counted.
    """
    killed = 0
    (folder / "nothing.yaml").write_text("{}")
    for signum, moment, delay in kills:
        process = condgen_process([*arguments, *resume_options(folder)], folder)
        send_signal(process, folder, signum, moment, delay)
        output, _ = process.communicate(timeout=120)
        if process.returncode == 0:  # the training ended before the signal
            break
        killed += 1
        expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signal.Signals(signum)]
        assert process.returncode == expected, output
    else:
        finish(condgen_process([*arguments, *resume_options(folder)], folder))
    run = newest_run(folder)
    assert same_weights(run / "checkpoints" / "last.ckpt", uninterrupted / "checkpoints" / "last.ckpt")
    assert same_weights(run / "checkpoints" / "best.ckpt", uninterrupted / "checkpoints" / "best.ckpt")
    assert (run / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()
    images = [path.relative_to(uninterrupted) for path in uninterrupted.rglob("*") if path.suffix in (".png", ".gif")]
    assert (
        len([image for image in images if image.parent.name != "reconstructions"]) == 5
    )  # only the VAE writes reconstructions
    assert all((run / image).read_bytes() == (uninterrupted / image).read_bytes() for image in images)
    assert not list(run.rglob(".*"))  # no partly written files
    return killed


def resume_options(folder: Path) -> list[str]:
    """Options that resume from the last checkpoint. A run that was killed before its first checkpoint starts again."""
    found = list((folder / "lightning_logs").glob("version_*/checkpoints/last.ckpt"))
    return ["--config", "nothing.yaml", *(["--ckpt_path", "last"] if found else [])]


@pytest.fixture(scope="module")
def training(mnist_root):
    """Arguments of a training of four epochs of five batches, with a checkpoint every two batches."""

    def arguments(*more: str) -> list[str]:
        few = ["--trainer.max_epochs", "4", "--trainer.log_every_n_steps", "1", "--checkpoint.every_n_train_steps", "2"]
        few += ["--training_scores.every_n_epochs", "null"]
        return ["fit", "--data.root", str(mnist_root), *few, *more]

    return arguments


@pytest.fixture(scope="module")
def uninterrupted(training, tmp_path_factory):
    """A function that trains without interruption, once for each set of options, and returns the run directory."""
    runs: dict[tuple[str, ...], Path] = {}

    def run(*more: str) -> Path:
        if more not in runs:
            folder = tmp_path_factory.mktemp("uninterrupted")
            (folder / "nothing.yaml").write_text("{}")
            finish(condgen_process([*training(*more), *resume_options(folder)], folder))
            runs[more] = folder / "lightning_logs" / "version_0"
        return runs[more]

    return run


@pytest.mark.parametrize("end", [[], ["--trainer.max_steps", "18"]], ids=lambda end: "".join(end[1:]))
def test_resume_after_three_kills_matches_uninterrupted_run(end, training, uninterrupted, tmp_path):
    kills = [
        (signal.SIGKILL, while_a_checkpoint_is_written, 0.3),
        (signal.SIGKILL, while_a_grid_is_written, 0.0),
        (signal.SIGTERM, now, 0.4),
    ]
    assert train_with_kills(kills, training(*end), tmp_path, uninterrupted(*end)) >= 2


def test_resume_after_an_exception_matches_uninterrupted_run(training, uninterrupted, tmp_path):
    failing = ["--trainer.callbacks", "test_kills_lose_nothing.Failing", "--trainer.callbacks.in_step", "9"]
    process = condgen_process(training(*failing), tmp_path)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "a bug of the user's" in output
    assert train_with_kills([], training(), tmp_path, uninterrupted()) == 0


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_resume_after_twenty_kills_matches_uninterrupted_run(family, processes, training, uninterrupted, tmp_path):
    """Takes two minutes per family on 2 cores, and six with two processes:
    pytest -m slow -n 0 -s tests/promises/test_kills_lose_nothing.py

    Prints the number of kills.
    """
    options = ["--model", family, *(DDP if processes == 2 else [])]
    rng = random.Random(f"{family} {processes}")
    killed, attempt = 0, 0
    while killed < 20:
        kills = [
            (
                rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]),
                rng.choice([now, now, while_a_checkpoint_is_written, while_a_grid_is_written]),
                rng.uniform(0, 0.8),
            )
            for _ in range(20 - killed)
        ]
        folder = tmp_path / str(attempt)
        folder.mkdir()
        killed += train_with_kills(kills, training(*options), folder, uninterrupted(*options))
        attempt += 1
    print(f"{family}, {processes} processes: {killed} kills in {attempt} trainings, all equal to the uninterrupted run")
