"""``condgen fit``: starts a new training run or resumes an existing one."""

import contextlib
import shlex
import shutil
from datetime import timedelta
from pathlib import Path

from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, Timer

from condgen.checkpoints.find import RUNS, claim_run, is_last
from condgen.checkpoints.read import raise_as_incompatible
from condgen.cli.lightning_cli import CondgenCLI
from condgen.cli.output import say
from condgen.cli.run_config import CLASS_SETTINGS
from condgen.errors import UsageError
from condgen.files.locks import directory_lock
from condgen.training.loggers import MetricsLogger, RunTensorBoardLogger
from condgen.training.runtime import describe_devices
from condgen.training.signals import StoppedBySignal

RUN_FOLDERS = ("checkpoints", "samples", "reconstructions")  # subfolders of the run directory that we write to


def fit(cli: CondgenCLI) -> None:
    """Trains a generator, then prints the commands for using and resuming the run.

    If training fails before the first step, the new run directory is deleted again.

    Raises:
        UsageError: If the checkpoint can't be resumed with the given settings.
    """
    trainer, path, trial = cli.trainer, cli.checkpoint_path, bool(cli.trainer.fast_dev_run)
    resumed = cli.run_directory() if path and is_last(path) else None
    first_step, extra_rows = _check_resume(cli, resumed) if path else (0, [])
    if trainer.is_global_zero:
        cli.datamodule.prepare_data()
        cli.datamodule.setup("fit")
        cli.datamodule.check_divisible(trainer.world_size)
    run = resumed or (claim_run(cli.root) if trainer.is_global_zero else None)
    trainer.run_directory = run
    with directory_lock(run, RUN_FOLDERS) if trainer.is_global_zero and run else contextlib.nullcontext():
        if cli.logs_into_run:
            folder = run or cli.root
            step, rows = (first_step, extra_rows) if resumed else (0, [])
            trainer.loggers = [MetricsLogger(folder, step, rows), RunTensorBoardLogger(folder, step), *trainer.loggers]
        try:
            for recipe in cli.recipes:
                say(f"Config: {recipe} (included in condgen)")
            size = sum(weights.numel() for weights in cli.model.parameters() if weights.requires_grad)
            origin = f", resumed from {path}" if path else ""
            devices = describe_devices(trainer.strategy.root_device, trainer.world_size)
            say(f"Run: {run} ({type(cli.model).__name__}, {size:,} parameters, on {devices}){origin}")
            trainer.fit(cli.model, **cli.trainer_arguments())
        except StoppedBySignal as stop:
            stop.resume_command = resume_command(cli, run)
            raise
        except BaseException:
            trained = trainer.global_step not in (0, cli.checkpoint["global_step"] if cli.checkpoint else 0)
            if run and not resumed and trainer.is_global_zero and not trained and not _has_results(run):
                _remove_run(run)
            raise
        if trial and run:
            _remove_run(run)
        say("trainer.fast_dev_run: the test run succeeded. Nothing is saved." if trial else _next_steps(cli, run))


def _check_resume(cli: CondgenCLI, resumed: Path | None) -> tuple[int, list[str]]:
    """Makes sure that the checkpoint can be resumed with the given settings.

    Args:
        cli: The command line. Must have a checkpoint.
        resumed: The run directory of the checkpoint if we continue training in it.

    Returns:
        The first step to log and the columns used to identify the rows of the previous step that will be logged again.
        See :class:`condgen.training.loggers.MetricsLogger` for details.
    """
    assert cli.checkpoint is not None
    path, saved = cli.checkpoint_path, cli.checkpoint["condgen"]
    for callback in cli.trainer.callbacks:
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            name = type(callback).__name__
            raise UsageError(f"trainer.callbacks has {name}, which resets training: leave it out to resume {path}.")
    if cli.trainer.fast_dev_run:
        raise UsageError(f"trainer.fast_dev_run cannot resume {path}: leave out one of them.")
    for name in RUN_FOLDERS:
        if resumed and (resumed / name).is_symlink():  # otherwise we would write to some other folder
            raise UsageError(f"{resumed / name} is a symlink: replace it with a folder to resume this run.")
    with raise_as_incompatible(path):
        extra_rows = [str(column) for column in saved.get("extra_rows", [])]
        epochs = int(cli.checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
        seconds = float(cli.checkpoint["callbacks"].get("Timer", {}).get("time_elapsed", {}).get("train", 0))
    if reached := _limits_reached(cli, epochs, cli.checkpoint["global_step"], seconds):
        done, flags = " and ".join(reached), " ".join(reached.values())
        raise UsageError(f"{path} has already been trained for {done}: to train longer, use {flags}.")
    return saved.get("first_open_step", cli.checkpoint["global_step"]), extra_rows


def _next_steps(cli: CondgenCLI, run: Path | None) -> str:
    """Lists useful commands to run after training, one per line."""
    trainer = cli.trainer
    stopped_early = not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch  # stopped mid-epoch by a limit
    limits = _limits_reached(cli, trainer.current_epoch - stopped_early, trainer.global_step)
    path = shlex.quote(str(run))
    steps = (  # (purpose, command, file that must exist in the run directory)
        ("see the samples of every epoch", f"{run}/samples/, {run}/samples.gif", "samples.gif"),
        ("see the curves", f"condgen plot {path}", "metrics.csv"),
        ("compare them with other runs", f"tensorboard --logdir {shlex.quote(str(cli.root / RUNS))}", "metrics.csv"),
        ("generate samples", f"condgen predict --ckpt_path {path}", ""),
        ("score them", f"condgen test --ckpt_path {path}", ""),
        ("train longer", f"{resume_command(cli, run)} {' '.join(limits.values())}".rstrip(), ""),
    )
    possible = [f"  {purpose:<33} {command}" for purpose, command, file in steps if run and (run / file).exists()]
    return "\n".join([f"Run: {run}", *possible])


def resume_command(cli: CondgenCLI, run: Path | None) -> str:
    """Returns the command that resumes the run.

    It includes ``--config`` if the run uses callbacks or any other classes that are set in the config.
    """
    has_classes = any(cli.trainer_settings[name] not in (None, True, False, []) for name in CLASS_SETTINGS)
    config = f"--config {shlex.quote(str(run))}/config.yaml " if has_classes else ""
    return f"condgen fit {config}--ckpt_path {shlex.quote(str(run))}"


def _limits_reached(cli: CondgenCLI, epochs: int, steps: int, seconds: float | None = None) -> dict[str, str]:
    """Finds the training limits that have been reached and, for each of them, a flag that doubles it.

    Args:
        cli: The command line with the Trainer to check.
        epochs: The number of epochs trained so far.
        steps: The number of training steps so far.
        seconds: The training time to compare to ``trainer.max_time``. Defaults to the duration of the current run.
    """
    limits = {"epochs": (epochs, cli.trainer.max_epochs), "steps": (steps, cli.trainer.max_steps)}
    found = {
        f"{done} {unit}": f"--trainer.max_{unit} {2 * done}"
        for unit, (done, most) in limits.items()
        if most not in (None, -1) and done >= most
    }
    for timer in (callback for callback in cli.trainer.callbacks if type(callback) is Timer):  # trainer.max_time
        remaining, elapsed = timer.time_remaining(), timer.time_elapsed()
        if remaining is not None and (elapsed if seconds is None else seconds) >= (limit := round(remaining + elapsed)):
            hours, rest = divmod(2 * limit, 3600)
            flag = f"--trainer.max_time {hours // 24:02}:{hours % 24:02}:{rest // 60:02}:{rest % 60:02}"
            found[f"{timedelta(seconds=limit)} hours"] = flag
    return found


def _has_results(run: Path) -> bool:
    """Checks if there are any checkpoints or metrics, in which case the run must not be deleted."""
    metrics = run / "metrics.csv"
    return any(run.glob("checkpoints/*.ckpt")) or (metrics.is_file() and metrics.stat().st_size > 0)


def _remove_run(run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    with contextlib.suppress(OSError):
        run.parent.rmdir()  # only works if there are no other runs
