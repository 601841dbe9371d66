"""Unusual environments: SLURM, closed streams, full devices, process limits, and invalid Trainer options."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.processes import condgen_process, python_process, wait_for
from helpers.runs import refused, rows_of, runs_in
from lightning.pytorch.loggers import CSVLogger

from condgen.cli.main import main

SLURM = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    "strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_spawn_find_unused_parameters_true", "fsdp", "deepspeed"]
)
def test_fit_rejects_an_unsupported_strategy_and_writes_no_run(strategy, fit_args, tmp_path, capsys):
    two = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", strategy]
    assert strategy in refused([*fit_args, *two, "--trainer.default_root_dir", str(tmp_path)], capsys)
    assert list(tmp_path.iterdir()) == []


def test_fit_uses_one_device_by_default(trained):
    assert "devices: 1\n" in (trained / "lightning_logs" / "version_0" / "config.yaml").read_text()


def test_fit_under_slurm_saves_on_sigusr1_and_a_new_fit_starts_from_scratch(fit_args, tmp_path):
    endless = [*fit_args, "--trainer.max_epochs", "1000", "--checkpoint.every_n_train_steps", "1"]
    process = condgen_process(endless, tmp_path, **SLURM)
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(last, process)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1, output
    assert [path.name for path in tmp_path.iterdir()] == ["lightning_logs"]  # Lightning would write hpc_ckpt_1.ckpt
    torch.save(torch.load(last, weights_only=True), tmp_path / "hpc_ckpt_1.ckpt")  # as another program may do
    process = condgen_process([*fit_args, "--trainer.max_epochs", "1"], tmp_path, **SLURM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert rows_of(tmp_path / "lightning_logs" / "version_1")[0]["step"] == "1"


@pytest.mark.parametrize("closed", [1, 2], ids=["stdout", "stderr"])
def test_fit_with_closed_stdout_or_stderr_succeeds(closed, fit_args, tmp_path):
    command = f"exec {sys.executable} -m condgen {' '.join(fit_args)} --trainer.max_epochs 1 {closed}>&-"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert runs_in(tmp_path) == ["version_0"]
    assert {path.name for path in tmp_path.iterdir()} == {"lightning_logs"}


def test_help_on_a_full_device_fails_with_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "condgen", "--help"], stdout=full, stderr=-1, text=True, check=False
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_error_with_characters_outside_the_output_encoding_has_no_traceback(last, tmp_path):
    process = python_process(["condgen", "nonsense–verb"], tmp_path, PYTHONIOENCODING="ascii")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in output


class FailingLogger(CSVLogger):
    def __init__(self, save_dir: str = ".") -> None:
        raise RuntimeError("no tracking server")


LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [
        f"fit --ckpt_path {LONG}", f"fit --data.source sample --trainer.default_root_dir {LONG}",
        f"fit --config {LONG}",
        f"fit --data.root {LONG}", f"predict --ckpt_path {LONG}", f"predict --predictions.dirpath {LONG}",
        f"validate --ckpt_path {LONG}", f"test --ckpt_path {LONG}", f"score {LONG}", f"compare {LONG}",
        f"plot {LONG}", f"plot --output {LONG}.png", f"export --ckpt_path {LONG}", f"export --output {LONG}",
        f"evaluator --dirpath {LONG} --data.source sample", f"demo {LONG}",
    ],
    ids=lambda command: command.replace(LONG, "LONG"),
)  # fmt: skip
def test_too_long_path_is_rejected_in_one_line(command, trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "lightning_logs").symlink_to(trained / "lightning_logs")
    monkeypatch.chdir(tmp_path)
    assert "x" * 100 in refused(command.split(), capsys)


def test_path_with_a_null_byte_is_rejected_in_one_line(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text('data: {class_path: MNIST, init_args: {root: "a\\0b"}}\n')
    common = ["--trainer.default_root_dir", str(tmp_path)]
    refused(["fit", "--config", str(tmp_path / "config.yaml"), *common], capsys)


def test_predict_over_the_file_size_limit_names_the_folder(last, tmp_path):
    request = f"predict --ckpt_path {last} --predictions.format npz --predictions.dirpath generated"
    command = f"ulimit -f 8; exec {sys.executable} -m condgen {request} --data.samples_per_label 100"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "generated" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_without_read_permission_is_rejected(last, tmp_path):
    copy = tmp_path / "secret.ckpt"
    copy.write_bytes(Path(last).read_bytes())
    copy.chmod(0)
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*drop, sys.executable, "-m", "condgen", "validate", "--ckpt_path", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--trainer.callbacks EarlyStoping", "EarlyStopping"),
        ("--trainer.callbacks EarlyStopping", "monitor"),
        ("--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val_los", "val_loss"),
        ("--trainer.callbacks ThroughputMonitor", "batch_size_fn"),
        ("--trainer.logger TensorBordLogger", "TensorBoardLogger"),
        ("--trainer.logger test_unusual_environments.FailingLogger", "no tracking server"),
        ("--trainer.plugins AsyncCheckpointIO", "AsyncCheckpointIO"),
        ("--trainer.plugins DoublePrecision", "trainer.precision"),
        ("--trainer.callbacks Timer --trainer.callbacks.duration foo", "foo"),
        ("--trainer.callbacks StochasticWeightAveraging --trainer.callbacks.swa_lrs -1", "StochasticWeightAveraging"),
        ("--trainer.callbacks condgen.training.checkpointing.LastAndBestCheckpoint", "LastAndBestCheckpoint"),
        ("--trainer.max_time nosuch", "max_time"),
        ("--trainer.max_time 00:00:00:00", "trainer.max_time"),
        ("--trainer.sync_batchnorm true --trainer.accelerator cpu", "trainer.sync_batchnorm"),
    ],
)
def test_unusable_trainer_option_is_rejected_in_one_line_and_writes_no_run(
    options, expected, fit_args, tmp_path, capsys
):
    assert expected in refused([*fit_args, *options.split(), "--trainer.default_root_dir", str(tmp_path)], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bar", ["RichProgressBar", "TQDMProgressBar"])
def test_progress_bar_callback_of_the_user_replaces_the_default(bar, fit_args, tmp_path):
    options = ["--trainer.callbacks", bar, "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *options]) == 0


@pytest.mark.parametrize("callback", ["Timer", "StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.01"])
def test_resume_with_config_of_a_run_with_a_callback_succeeds(callback, fit_args, tmp_path):
    common = ["--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, "--trainer.callbacks", *callback.split(), *common]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    more = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run), "--trainer.max_epochs", "5"]
    assert main(["fit", *more]) == 0
    assert runs_in(tmp_path) == ["version_0"]
