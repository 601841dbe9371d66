"""What goes wrong outside condgen: disks, permissions, numbers, files from elsewhere."""

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


def one_line(output: str) -> str:
    """The line with which a process ended, which has to be the only one of its kind, and no traceback."""
    lines = [line for line in output.splitlines() if line.startswith("condgen: ")]
    assert "Traceback" not in output
    assert len(lines) == 1, output
    return lines[0]


def steps(checkpoint: Path) -> int:
    """Reads a checkpoint, whole, as torch does."""
    return torch.load(checkpoint, weights_only=True)["global_step"]


# Disks.


def on_small_disk(folder: Path, megabytes: int, script: str) -> str:
    """Runs a shell script in ``folder``, on which a file system of this size is mounted, for this script alone."""
    mount = f"mount -t tmpfs -o size={megabytes}m tmpfs {folder} && cd {folder} && {script}"
    unshared = subprocess.run(["unshare", "--mount", "--map-root-user", "true"], capture_output=True, check=False)
    if unshared.returncode:
        pytest.skip(f"this machine lets nobody mount: {unshared.stderr.decode().strip()}")
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", mount],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_checkpoint(mnist_root, tmp_path):
    """One and a half checkpoints fit: the second does not.

    Half a minute: pytest -m slow -n 0 tests/promises/test_faults_get_one_line.py
    """
    run = "lightning_logs/version_0/checkpoints"
    fit = f"{sys.executable} -m condgen fit --data.root {mnist_root} --checkpoint.every_n_train_steps 2"
    load = f'{sys.executable} -c \'import condgen; print(condgen.load("last").hparams.latent_dim, "loaded")\''
    output = on_small_disk(
        tmp_path, 120, f"{fit}; echo code $?; ls -a {run}; {load}; mount -o remount,size=400m {tmp_path} &&"
        f"{fit} --ckpt_path last --trainer.max_epochs 1; echo code $?",
    )  # fmt: skip
    first, after = output.split("code 1\n")
    said = one_line(first)
    assert f"{run}/last.ckpt cannot be written (No space left on device)" in said
    assert "the former file is unchanged" in said
    assert after.startswith(".\n..\nlast.ckpt\n62 loaded\n")
    assert after.endswith("code 0\n")


def without_rights(commands: list[list[str]], folder: Path) -> list[str]:
    """What condgen, which has to fail, says to somebody whom permissions bind: a superuser gives up his rights."""
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"] if os.geteuid() == 0 else []
    script = f"from condgen.cli.main import main\nfor c in {commands}: print(f'code {{main(c)}}', flush=True)"
    output = subprocess.run(
        [*drop, sys.executable, "-c", script], cwd=folder, text=True, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ).stdout  # fmt: skip
    return output.split("code 1\n")[:-1]


@pytest.fixture
def read_only_run(trained, tmp_path):
    """A finished run that may be read only."""
    shutil.copytree(trained / "lightning_logs", tmp_path / "lightning_logs")
    folders = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield tmp_path / "lightning_logs" / "version_0"
    for folder in folders:
        folder.chmod(0o755)


def test_a_folder_that_may_not_be_written_is_named(read_only_run, mnist_root):
    folder = read_only_run.parent.parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    commands = ["fit"], ["fit", "--ckpt_path", "last", "--trainer.max_epochs", "3"], ["predict"]
    answers = without_rights([[*command, "--data.root", str(mnist_root)] for command in commands], folder)
    assert len(answers) == len(commands)
    for answer in answers:
        said = one_line(answer)
        assert "lightning_logs/version_" in said
        assert "Permission denied" in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# Numbers.


class Spoiling(Callback):
    """Makes one number of a parameter's gradient infinite."""

    def __init__(self, name: str, in_step: int) -> None:
        self.name, self.in_step = name, in_step

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.in_step:
            pl_module.get_parameter(self.name).grad.view(-1)[3] = float("inf")


def test_a_loss_that_is_no_number_stops_the_run(fit_args, tmp_path, capsys):
    diverging = [*fit_args, "--trainer.default_root_dir", str(tmp_path), "--model.optimizer", "SGD"]
    said = refused([*diverging, "--model.lr", "1e38"], capsys)
    assert "nan in step" in said
    assert "lower --model.lr" in said


@pytest.mark.parametrize("name", ["network.fc.0.weight", "network.fc.0.bias"])
def test_a_gradient_that_is_no_number_stops_the_run_before_it_gets_into_the_weights(name, fit_args, tmp_path, capsys):
    spoiling = ["--trainer.callbacks+", "test_faults_get_one_line.Spoiling", "--trainer.callbacks.name", name]
    options = [*spoiling, "--trainer.callbacks.in_step", "7", "--checkpoint.every_n_train_steps", "3"]
    said = refused([*fit_args, "--trainer.default_root_dir", str(tmp_path), *options], capsys)
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    assert f"The gradient of {name} is inf in step 7 (epoch 1)" in said
    assert f"the last good checkpoint is {last}" in said
    assert steps(last) == 6
    assert all(weights.isfinite().all() for weights in torch.load(last, weights_only=True)["state_dict"].values())


def test_nor_is_it_validated_or_drawn_from_in_the_last_step_of_an_epoch(fit_args, tmp_path, capsys):
    spoiling = [
        "--trainer.callbacks+",
        "test_faults_get_one_line.Spoiling",
        "--trainer.callbacks.name",
        "network.fc.0.weight",
    ]
    options = [*spoiling, "--trainer.callbacks.in_step", "4"]
    said = refused([*fit_args, "--trainer.default_root_dir", str(tmp_path), *options], capsys)
    assert "is inf in step 4 (epoch 0)" in said
    run = tmp_path / "lightning_logs" / "version_0"
    assert "nan" not in (run / "metrics.csv").read_text()
    assert not list(run.rglob("*.png"))


# Files.


def damaged(change):
    """A checkpoint whose content was changed."""

    def write(last: str, path: Path) -> None:
        checkpoint = torch.load(last, weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, path)

    return write


def first_bytes(share: float):
    return lambda last, path: path.write_bytes(Path(last).read_bytes()[: int(share * Path(last).stat().st_size)])


DAMAGE = {
    "empty": (first_bytes(0), "not a whole checkpoint"),
    "half": (first_bytes(0.5), "not a whole checkpoint"),
    "all but the end": (first_bytes(0.9999), "not a whole checkpoint"),
    "text": (lambda last, path: path.write_text("weights"), "checkpoint"),
    "a zip": (lambda last, path: shutil.make_archive(str(path)[:-5], "zip", path.parent), "checkpoint"),
    "a list": (lambda last, path: torch.save([1, 2], path), "not a checkpoint of condgen's"),
    "a state dict": (lambda last, path: torch.save({"w": torch.zeros(2)}, path), "not a checkpoint of condgen's"),
    "Lightning's": (damaged(lambda c: c.pop("condgen")), "not a checkpoint of condgen's"),
    "no weights": (damaged(lambda c: c.pop("state_dict")), "not a checkpoint of condgen's"),
    "one weight less": (damaged(lambda c: c["state_dict"].pop("network.fc.0.bias")), "network.fc.0.bias"),
    "a weight more": (damaged(lambda c: c["state_dict"].update(x=torch.zeros(1))), "does not fit DNN"),
    "weights of another shape": (
        damaged(lambda c: c["state_dict"].update({"network.fc.0.bias": torch.zeros(7)})),
        "network.fc.0.bias has the shape torch.Size.\\[7",
    ),
    "weights that are text": (damaged(lambda c: c["state_dict"].update({"network.fc.0.bias": "x"})), "does not fit"),
    "a list of weights": (damaged(lambda c: c.update(state_dict=[1])), "not a checkpoint of condgen's"),
    "settings that are text": (damaged(lambda c: c.update(hyper_parameters="x")), "not a checkpoint of condgen's"),
    "a newer setting": (damaged(lambda c: c["hyper_parameters"].update(wings=2)), "wings"),
    "an impossible setting": (damaged(lambda c: c["hyper_parameters"].update(latent_dim=-3)), "latent_dim is -3"),
    "a setting of another type": (damaged(lambda c: c["hyper_parameters"].update(latent_dim="x")), "latent_dim"),
    "another latent": (damaged(lambda c: c["hyper_parameters"].update(latent_dim=3)), "does not fit DNN"),
    "other classes": (
        damaged(lambda c: c["hyper_parameters"].update(num_classes=7)),
        "generates 7 classes|does not fit DNN",
    ),
    "another image shape": (
        damaged(lambda c: c["hyper_parameters"].update(image_shape=[3, 32, 32])),
        "32, 32|does not fit DNN",
    ),
    "another family": (damaged(lambda c: c["condgen"].update(model="condgen.data.datasets.MNIST")), "does not know"),
    "an unknown family": (damaged(lambda c: c["condgen"].update(model="their.Net")), "their.Net"),
    "a family that is a number": (damaged(lambda c: c["condgen"].update(model=5)), "not a checkpoint of condgen's"),
    "an unknown data set": (damaged(lambda c: c["condgen"].update(data="their.Data")), "their.Data"),
    "a newer condgen": (
        damaged(lambda c: (c["condgen"].update(version="9.1"), c["state_dict"].update(x=torch.zeros(1)))),
        f"written by condgen 9.1, this is {condgen.__version__}",
    ),
}


@pytest.mark.parametrize(
    ("verb", "kind"),
    [(verb, kind) for verb in ("predict", "load") for kind in DAMAGE]
    + [("fit", "half"), ("fit", "a list"), ("fit", "a newer setting"), ("fit", "a newer condgen")],
)
def test_a_checkpoint_that_is_none_is_refused(kind, verb, last, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write, complaint = DAMAGE[kind]
    write(last, tmp_path / "odd.ckpt")
    if kind == "a zip":
        (tmp_path / "odd.zip").rename(tmp_path / "odd.ckpt")
    if verb == "load":
        if kind == "an unknown data set":
            return  # a generator is whole without its data
        with pytest.raises(UsageError) as raised:
            condgen.load("odd.ckpt")
        said = str(raised.value)
    else:
        said = refused(
            [verb, "--ckpt_path", "odd.ckpt", "--trainer.max_epochs", "9"][: 3 if verb != "fit" else 5], capsys
        )
    assert re.search(complaint, said)
    assert "odd.ckpt" in said
    assert [path.name for path in tmp_path.iterdir()] == ["odd.ckpt"]


TRAINING_STATE = {
    "no optimiser": lambda c: c.update(optimizer_states=[]),
    "moments of another shape": lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(3)),
    "an optimiser that is text": lambda c: c.update(optimizer_states="x"),
    "no loops": lambda c: c["loops"].pop("fit_loop"),
    "loops that are a number": lambda c: c.update(loops=3),
    "half a loop": lambda c: c["loops"]["fit_loop"].pop("epoch_progress"),
    "callbacks that are a list": lambda c: c.update(callbacks=[1]),
    "a callback's state that is text": lambda c: c.update(callbacks=dict.fromkeys(c["callbacks"], "x")),
    "a seed that is text": lambda c: c["condgen"].update(seed="x"),
    "losses that are text": lambda c: c["condgen"].update(train_loss="x"),
    "a step that is text": lambda c: c["condgen"].update(first_open_step="x"),
}


@pytest.mark.parametrize("change", TRAINING_STATE.values(), ids=TRAINING_STATE)
def test_a_training_state_that_does_not_fit_is_refused(change, fit_args, last, tmp_path, capsys):
    damaged(change)(last, tmp_path / "odd.ckpt")
    common = ["--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "3"]
    assert "odd.ckpt" in refused([*fit_args, *common, "--ckpt_path", str(tmp_path / "odd.ckpt")], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["odd.ckpt"]


# Several at once.


def test_two_fits_in_the_same_second_get_two_runs(fit_args, tmp_path):
    both = [condgen_process([*fit_args, "--trainer.max_epochs", "1"], tmp_path) for _ in range(2)]
    finish(*both)
    runs = sorted((tmp_path / "lightning_logs").iterdir())
    assert [run.name for run in runs] == ["version_0", "version_1"]
    assert (runs[0] / "metrics.csv").read_bytes() == (runs[1] / "metrics.csv").read_bytes()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_predict_leaves_no_folder_that_looks_whole(signum, last, tmp_path):
    request = ["predict", "--ckpt_path", last, "--predictions.dirpath", "drawn", "--data.samples_per_label", "3000"]
    process = condgen_process(request, tmp_path)
    while process.poll() is None and not (tmp_path / ".drawn.partial").exists():
        time.sleep(0.005)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signum], output
    assert not (tmp_path / "drawn").exists()
    assert (tmp_path / ".drawn.partial").exists() is (signum == signal.SIGKILL)
    if signum != signal.SIGKILL:
        return
    finish(condgen_process([*request[:-1], "2"], tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn"]
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 21


def test_staging_directory_interrupted_at_any_line_leaves_no_folder(tmp_path):
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


def test_a_reader_that_has_seen_enough_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "condgen", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_sigterm_ends_what_has_nothing_to_save_at_once(last, tmp_path):
    process = python_process(["condgen", "validate", "--ckpt_path", last], tmp_path)
    time.sleep(1.5)  # it is still importing torch
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 143
    assert "Traceback" not in output


def test_two_predicts_into_one_folder_do_not_mix(last, tmp_path):
    request = ["predict", "--ckpt_path", last, "--predictions.dirpath", "drawn", "--data.samples_per_label", "500"]
    both = [condgen_process([*request, "--data.sample_seed", seed], tmp_path) for seed in ("1", "2")]
    outputs = [process.communicate(timeout=100)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], outputs
    loser = outputs[[process.returncode for process in both].index(1)]
    assert "drawn" in one_line(loser)
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 5001
