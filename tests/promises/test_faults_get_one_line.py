"""Faults outside condgen get one line: full disks, missing permissions, non-finite numbers, damaged files, signals."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import condgen_process, finish, python_process
from helpers.runs import refused
from lightning.pytorch.callbacks import Callback

import condgen.files
from condgen.errors import UsageError
from condgen.files.staging import StagingDirectory


def error_line(output: str) -> str:
    """The error line of condgen in the output of a process, which must be the only one, without a traceback."""
    lines = [line for line in output.splitlines() if line.startswith("condgen: ")]
    assert "Traceback" not in output
    assert len(lines) == 1, output
    return lines[0]


def global_step(checkpoint: Path) -> int:
    """The global step in a checkpoint, which is loaded completely to see that it is intact."""
    return torch.load(checkpoint, weights_only=True)["global_step"]


# Full disks and missing permissions.


def on_small_disk(folder: Path, megabytes: int, script: str) -> str:
    """Run a shell script in `folder` on a file system of this size, which is mounted only for the script."""
    mount = f"mount -t tmpfs -o size={megabytes}m tmpfs {folder} && cd {folder} && {script}"
    unshared = subprocess.run(["unshare", "--mount", "--map-root-user", "true"], capture_output=True, check=False)
    if unshared.returncode:
        pytest.skip(f"no permission to mount a file system: {unshared.stderr.decode().strip()}")
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", mount],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
def test_full_disk_keeps_the_previous_checkpoint_and_the_run_can_be_resumed(mnist_root, tmp_path):
    """The disk has space for one and a half checkpoints, so the second cannot be written.

    Takes half a minute: pytest -m slow -n 0 tests/promises/test_faults_get_one_line.py
    """
    run = "lightning_logs/version_0/checkpoints"
    fit = f"{sys.executable} -m condgen fit --data.root {mnist_root} --checkpoint.every_n_train_steps 2"
    load = f'{sys.executable} -c \'import condgen; print(condgen.load("last").hparams.latent_dim, "loaded")\''
    output = on_small_disk(
        tmp_path, 120, f"{fit}; echo code $?; ls -a {run}; {load}; mount -o remount,size=400m {tmp_path} &&"
        f"{fit} --ckpt_path last --trainer.max_epochs 1; echo code $?",
    )  # fmt: skip
    first, after = output.split("code 1\n")
    error = error_line(first)
    assert f"{run}/last.ckpt cannot be written (No space left on device)" in error
    assert "the previous file is unchanged" in error
    assert after.startswith(".\n..\nlast.ckpt\n62 loaded\n")
    assert after.endswith("code 0\n")


def outputs_without_privileges(commands: list[list[str]], folder: Path) -> list[str]:
    """The output of each command, which must fail. Root drops its privileges first, because it ignores permissions."""
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"] if os.geteuid() == 0 else []
    script = f"from condgen.cli.main import main\nfor c in {commands}: print(f'code {{main(c)}}', flush=True)"
    output = subprocess.run(
        [*drop, sys.executable, "-c", script], cwd=folder, text=True, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ).stdout  # fmt: skip
    return output.split("code 1\n")[:-1]


@pytest.fixture
def read_only_run(trained, tmp_path):
    """A finished run in a read-only folder."""
    shutil.copytree(trained / "lightning_logs", tmp_path / "lightning_logs")
    folders = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield tmp_path / "lightning_logs" / "version_0"
    for folder in folders:
        folder.chmod(0o755)


def test_fit_resume_and_predict_name_a_read_only_folder(read_only_run, mnist_root):
    folder = read_only_run.parent.parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    commands = ["fit"], ["fit", "--ckpt_path", "last", "--trainer.max_epochs", "3"], ["predict"]
    outputs = outputs_without_privileges([[*command, "--data.root", str(mnist_root)] for command in commands], folder)
    assert len(outputs) == len(commands)
    for output in outputs:
        error = error_line(output)
        assert "lightning_logs/version_" in error
        assert "Permission denied" in error
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# Non-finite losses and gradients.


class InfiniteGradient(Callback):
    """Sets one element of a parameter's gradient to infinity in one step."""

    def __init__(self, name: str, in_step: int) -> None:
        self.name, self.in_step = name, in_step

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.in_step:
            pl_module.get_parameter(self.name).grad.view(-1)[3] = float("inf")


def test_nan_loss_stops_the_run_and_suggests_a_lower_learning_rate(fit_args, tmp_path, capsys):
    diverging = [*fit_args, "--trainer.default_root_dir", str(tmp_path), "--model.optimizer", "SGD"]
    error = refused([*diverging, "--model.lr", "1e38"], capsys)
    assert "nan in step" in error
    assert "lower --model.lr" in error


@pytest.mark.parametrize("name", ["network.fc.0.weight", "network.fc.0.bias"])
def test_infinite_gradient_stops_the_run_before_the_optimizer_step(name, fit_args, tmp_path, capsys):
    callback = ["--trainer.callbacks+", "test_faults_get_one_line.InfiniteGradient", "--trainer.callbacks.name", name]
    options = [*callback, "--trainer.callbacks.in_step", "7", "--checkpoint.every_n_train_steps", "3"]
    error = refused([*fit_args, "--trainer.default_root_dir", str(tmp_path), *options], capsys)
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    assert f"The gradient of {name} is inf in step 7 (epoch 1)" in error
    assert f"the last good checkpoint is {last}" in error
    assert global_step(last) == 6
    assert all(weights.isfinite().all() for weights in torch.load(last, weights_only=True)["state_dict"].values())


def test_infinite_gradient_in_last_step_of_epoch_stops_before_validation_and_sample_grid(fit_args, tmp_path, capsys):
    callback = [
        "--trainer.callbacks+",
        "test_faults_get_one_line.InfiniteGradient",
        "--trainer.callbacks.name",
        "network.fc.0.weight",
    ]
    options = [*callback, "--trainer.callbacks.in_step", "4"]
    error = refused([*fit_args, "--trainer.default_root_dir", str(tmp_path), *options], capsys)
    assert "is inf in step 4 (epoch 0)" in error
    run = tmp_path / "lightning_logs" / "version_0"
    assert "nan" not in (run / "metrics.csv").read_text()
    assert not list(run.rglob("*.png"))


# Damaged checkpoints.


def damaged(change):
    """A function that writes a copy of a checkpoint after `change` has modified its content."""

    def write(last: str, path: Path) -> None:
        checkpoint = torch.load(last, weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, path)

    return write


def truncated(fraction: float):
    """A function that writes only the first part of a checkpoint's bytes."""
    return lambda last, path: path.write_bytes(Path(last).read_bytes()[: int(fraction * Path(last).stat().st_size)])


DAMAGE = {
    "empty": (truncated(0), "not a complete checkpoint"),
    "truncated to half": (truncated(0.5), "not a complete checkpoint"),
    "truncated at the end": (truncated(0.9999), "not a complete checkpoint"),
    "text": (lambda last, path: path.write_text("weights"), "checkpoint"),
    "a zip archive": (lambda last, path: shutil.make_archive(str(path)[:-5], "zip", path.parent), "checkpoint"),
    "a list": (lambda last, path: torch.save([1, 2], path), "not a checkpoint of condgen"),
    "a state dict": (lambda last, path: torch.save({"w": torch.zeros(2)}, path), "not a checkpoint of condgen"),
    "written by plain Lightning": (damaged(lambda c: c.pop("condgen")), "not a checkpoint of condgen"),
    "no weights": (damaged(lambda c: c.pop("state_dict")), "not a checkpoint of condgen"),
    "a missing weight": (damaged(lambda c: c["state_dict"].pop("network.fc.0.bias")), "network.fc.0.bias"),
    "an additional weight": (damaged(lambda c: c["state_dict"].update(x=torch.zeros(1))), "does not match DNN"),
    "weights of another shape": (
        damaged(lambda c: c["state_dict"].update({"network.fc.0.bias": torch.zeros(7)})),
        "network.fc.0.bias has the shape torch.Size.\\[7",
    ),
    "weights that are text": (damaged(lambda c: c["state_dict"].update({"network.fc.0.bias": "x"})), "does not match"),
    "a list instead of weights": (damaged(lambda c: c.update(state_dict=[1])), "not a checkpoint of condgen"),
    "hyperparameters that are text": (
        damaged(lambda c: c.update(hyper_parameters="x")),
        "not a checkpoint of condgen",
    ),
    "an unknown hyperparameter": (damaged(lambda c: c["hyper_parameters"].update(wings=2)), "wings"),
    "a hyperparameter out of range": (
        damaged(lambda c: c["hyper_parameters"].update(latent_dim=-3)),
        "latent_dim is -3",
    ),
    "a hyperparameter of another type": (damaged(lambda c: c["hyper_parameters"].update(latent_dim="x")), "latent_dim"),
    "another latent_dim": (damaged(lambda c: c["hyper_parameters"].update(latent_dim=3)), "does not match DNN"),
    "another number of classes": (
        damaged(lambda c: c["hyper_parameters"].update(num_classes=7)),
        "generates 7 classes|does not match DNN",
    ),
    "another image shape": (
        damaged(lambda c: c["hyper_parameters"].update(image_shape=[3, 32, 32])),
        "32, 32|does not match DNN",
    ),
    "a dataset as the family": (
        damaged(lambda c: c["condgen"].update(model="condgen.data.datasets.MNIST")),
        "does not know",
    ),
    "an unknown family": (damaged(lambda c: c["condgen"].update(model="their.Net")), "their.Net"),
    "a family that is a number": (damaged(lambda c: c["condgen"].update(model=5)), "not a checkpoint of condgen"),
    "an unknown dataset": (damaged(lambda c: c["condgen"].update(data="their.Data")), "their.Data"),
    "a newer condgen": (
        damaged(lambda c: (c["condgen"].update(version="9.1"), c["state_dict"].update(x=torch.zeros(1)))),
        f"written by condgen 9.1, this is {condgen.__version__}",
    ),
}


@pytest.mark.parametrize(
    ("subcommand", "damage"),
    [(subcommand, damage) for subcommand in ("predict", "load") for damage in DAMAGE]
    + [
        ("fit", "truncated to half"),
        ("fit", "a list"),
        ("fit", "an unknown hyperparameter"),
        ("fit", "a newer condgen"),
    ],
)
def test_damaged_or_foreign_checkpoint_is_rejected_and_named(damage, subcommand, last, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write, expected = DAMAGE[damage]
    write(last, tmp_path / "odd.ckpt")
    if damage == "a zip archive":
        (tmp_path / "odd.zip").rename(tmp_path / "odd.ckpt")
    if subcommand == "load":
        if damage == "an unknown dataset":
            return  # condgen.load does not need the dataset
        with pytest.raises(UsageError) as raised:
            condgen.load("odd.ckpt")
        error = str(raised.value)
    else:
        max_epochs = ["--trainer.max_epochs", "9"] if subcommand == "fit" else []
        error = refused([subcommand, "--ckpt_path", "odd.ckpt", *max_epochs], capsys)
    assert re.search(expected, error)
    assert "odd.ckpt" in error
    assert [path.name for path in tmp_path.iterdir()] == ["odd.ckpt"]


TRAINING_STATE = {
    "no optimizer state": lambda c: c.update(optimizer_states=[]),
    "moments of another shape": lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(3)),
    "an optimizer state that is text": lambda c: c.update(optimizer_states="x"),
    "no loops": lambda c: c["loops"].pop("fit_loop"),
    "a number instead of loops": lambda c: c.update(loops=3),
    "an incomplete loop": lambda c: c["loops"]["fit_loop"].pop("epoch_progress"),
    "a list instead of callbacks": lambda c: c.update(callbacks=[1]),
    "a callback's state that is text": lambda c: c.update(callbacks=dict.fromkeys(c["callbacks"], "x")),
    "a seed that is text": lambda c: c["condgen"].update(seed="x"),
    "losses that are text": lambda c: c["condgen"].update(train_loss="x"),
    "a step that is text": lambda c: c["condgen"].update(first_open_step="x"),
}


@pytest.mark.parametrize("change", TRAINING_STATE.values(), ids=TRAINING_STATE)
def test_resume_rejects_a_checkpoint_with_invalid_training_state(change, fit_args, last, tmp_path, capsys):
    damaged(change)(last, tmp_path / "odd.ckpt")
    common = ["--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "3"]
    assert "odd.ckpt" in refused([*fit_args, *common, "--ckpt_path", str(tmp_path / "odd.ckpt")], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["odd.ckpt"]


# Concurrent and interrupted processes.


def test_two_simultaneous_fits_write_separate_run_directories(fit_args, tmp_path):
    finish(*[condgen_process([*fit_args, "--trainer.max_epochs", "1"], tmp_path) for _ in range(2)])
    runs = sorted((tmp_path / "lightning_logs").iterdir())
    assert [run.name for run in runs] == ["version_0", "version_1"]
    assert (runs[0] / "metrics.csv").read_bytes() == (runs[1] / "metrics.csv").read_bytes()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_interrupted_predict_leaves_no_predictions_folder(signum, last, tmp_path):
    request = ["predict", "--ckpt_path", last, "--predictions.dirpath", "generated", "--data.samples_per_label", "3000"]
    process = condgen_process(request, tmp_path)
    while process.poll() is None and not (tmp_path / ".generated.partial").exists():
        time.sleep(0.005)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signum], output
    assert not (tmp_path / "generated").exists()
    assert (tmp_path / ".generated.partial").exists() is (signum == signal.SIGKILL)
    if signum != signal.SIGKILL:
        return
    finish(condgen_process([*request[:-1], "2"], tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generated"]
    assert len(list((tmp_path / "generated").glob("*.png"))) == 21


def test_staging_directory_interrupted_at_any_line_is_discarded(tmp_path):
    def interrupt(frame, event, _):
        nonlocal lines
        if Path(frame.f_code.co_filename).parent != Path(condgen.files.__file__).parent:
            return None
        lines -= event == "line"
        if lines == 0:
            raise KeyboardInterrupt
        return interrupt

    for last_line in itertools.count(1):
        lines, folder = last_line, tmp_path / str(last_line) / "folder"
        staging = StagingDirectory(folder, re.compile("nothing"))
        sys.settrace(interrupt)
        try:
            staging.lock()
            staging.create()
            break
        except KeyboardInterrupt:
            sys.settrace(None)
            staging.discard()
            assert not staging.path.exists(), last_line
        finally:
            sys.settrace(None)
    assert last_line > 10
    with pytest.raises(UsageError, match="is being written by another process"):
        StagingDirectory(folder, re.compile("nothing")).lock()
    staging.put_in_place()
    StagingDirectory(folder, re.compile("nothing")).lock()


def test_help_into_a_closed_pipe_exits_with_sigpipe_and_no_error_message():
    with subprocess.Popen(
        [sys.executable, "-m", "condgen", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_sigterm_during_import_stops_validate_immediately(last, tmp_path):
    process = python_process(["condgen", "validate", "--ckpt_path", last], tmp_path)
    time.sleep(1.5)  # the process is still importing torch
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 143
    assert "Traceback" not in output


def test_one_of_two_simultaneous_predicts_into_one_folder_is_rejected(last, tmp_path):
    request = ["predict", "--ckpt_path", last, "--predictions.dirpath", "generated", "--data.samples_per_label", "500"]
    processes = [condgen_process([*request, "--data.sample_seed", seed], tmp_path) for seed in ("1", "2")]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 1], outputs
    rejected = outputs[[process.returncode for process in processes].index(1)]
    assert "generated" in error_line(rejected)
    assert [path.name for path in tmp_path.iterdir()] == ["generated"]
    assert len(list((tmp_path / "generated").glob("*.png"))) == 5001
