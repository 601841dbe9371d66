"""Several processes: started by Lightning, and by torchrun as two machines start them."""

import csv
import re
import signal
from pathlib import Path

import pytest
import torch
from helpers.processes import DDP, ON_THE_CPU, ForkedPython, condgen_process, finish, free_port, two_processes, wait_for
from lightning.pytorch.callbacks import Callback


def values(run: Path, name: str) -> list[float]:
    with open(run / "metrics.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


class Recording(Callback):
    """Writes down which images and random numbers a process sees, step by step, into ``seen-RANK.pt``."""

    def on_train_start(self, trainer, pl_module):
        self.seen: list[tuple[torch.Tensor, ...]] = []
        numbers = pl_module._batch_numbers

        def recorded(*arguments):
            self.numbers = numbers(*arguments)
            return self.numbers

        pl_module._batch_numbers = recorded

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((*batch, self.numbers))

    def on_train_end(self, trainer, pl_module):
        torch.save(self.seen, f"seen-{trainer.global_rank}.pt")


@pytest.fixture(scope="module")
def ddp_run(fit_args, tmp_path_factory):
    """A run of two processes, which Lightning started."""
    folder = tmp_path_factory.mktemp("ddp")
    finish(condgen_process([*fit_args, *DDP], folder))
    return folder / "lightning_logs" / "version_0"


def test_two_processes_train_one_run(ddp_run, trained):
    """They see the images and latents that one process sees, but batch norm sees half batches: losses are near."""
    assert [path.name for path in ddp_run.parent.iterdir()] == ["version_0"]
    one = values(trained / "lightning_logs" / "version_0", "val_loss")
    assert values(ddp_run, "val_loss") == pytest.approx(one, rel=0.05)
    assert len(list((ddp_run / "samples").iterdir())) == 2


def test_two_processes_see_in_every_step_what_one_sees(fit_args, tmp_path):
    recording = [*fit_args, "--trainer.callbacks", "test_any_number_of_processes.Recording"]
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
    finish(condgen_process([*recording, *ON_THE_CPU], tmp_path / "one"))
    finish(*two_processes(recording, tmp_path / "two"))
    one = torch.load(tmp_path / "one" / "seen-0.pt", weights_only=True)
    shares = [torch.load(tmp_path / "two" / f"seen-{rank}.pt", weights_only=True) for rank in range(2)]
    assert len(one) == len(shares[0]) == len(shares[1]) == 10
    for whole, *parts in zip(one, *shares, strict=True):
        for everyone, even, odd in zip(whole, *parts, strict=True):  # images, labels, numbers
            assert torch.equal(everyone, torch.stack([even, odd], dim=1).flatten(0, 1))


def test_two_processes_measure_the_variance_of_the_samples_that_one_draws(tmp_path):
    """The diffusion draws for some of the validation images only."""
    fit = ["fit", "--model", "Diffusion", "--model.channels", "[8,16]", "--training_scores.every_n_epochs", "null"]
    fit += ["--data.source", "sample", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    finish(condgen_process([*fit, *ON_THE_CPU, "--trainer.default_root_dir", "one"], tmp_path))
    finish(*two_processes([*fit, "--trainer.default_root_dir", "two"], tmp_path))
    one, two = (values(tmp_path / name / "lightning_logs" / "version_0", "variance_ratio") for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize(("form", "batch_size"), [("png", "7"), ("npz", "1000")])
def test_two_processes_write_the_files_of_one(trained, tmp_path, form, batch_size):
    """Also where there are fewer blocks than processes."""
    run = str(trained / "lightning_logs" / "version_0")
    request = ["predict", "--ckpt_path", run, "--data.batch_size", batch_size, "--predictions.format", form]
    finish(condgen_process([*request, *ON_THE_CPU, "--predictions.dirpath", "one"], tmp_path))
    finish(*two_processes([*request, "--predictions.dirpath", "two"], tmp_path))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_two_processes_measure_what_one_measures(trained, tmp_path, verb):
    run = trained / "lightning_logs" / "version_0"
    output = finish(*two_processes([verb, "--ckpt_path", str(run)], tmp_path))
    printed = [float(number) for number in re.findall(r"\d\.\d{6,}", output)]
    assert pytest.approx(values(run, "val_loss")[-1], rel=1e-5) in printed


def torchrun_nodes(arguments: list[str], folder: Path) -> list[ForkedPython]:
    """Two machines of one process each, on loopback."""
    port = free_port()
    launch = ["torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    return [
        ForkedPython(
            [*launch, "--node_rank", str(node), "--master_addr", "127.0.0.1", "--master_port", port,
             "-m", "condgen", *arguments, *ON_THE_CPU, "--trainer.devices", "1",
             "--trainer.num_nodes", "2", "--trainer.strategy", "ddp"],
            folder,
        )
        for node in range(2)
    ]  # fmt: skip


@pytest.mark.slow
def test_two_machines_started_by_torchrun_train_the_same_run(ddp_run, fit_args, tmp_path):
    """Half a minute: pytest -m slow -n 0 tests/promises/test_any_number_of_processes.py"""
    finish(*torchrun_nodes(fit_args, tmp_path))
    run = tmp_path / "lightning_logs" / "version_0"
    assert (run / "metrics.csv").read_bytes() == (ddp_run / "metrics.csv").read_bytes()


class FixedBatchNorm(Callback):
    """Batch norm sees half batches in two processes: without its statistics the two trainings are comparable."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.network.eval()


def test_drifting_trains_the_same_network_with_two_processes(fit_args, tmp_path):
    options = [
        "--model",
        "Drifting",
        "--model.fake_ratio",
        "0.5",
        "--trainer.callbacks",
        "test_any_number_of_processes.FixedBatchNorm",
    ]
    arguments = [*fit_args, *options, "--data.batch_size", "64", "--trainer.max_epochs", "1"]
    finish(condgen_process([*arguments, *ON_THE_CPU, "--trainer.default_root_dir", "one"], tmp_path))
    finish(*two_processes([*arguments, "--trainer.default_root_dir", "two"], tmp_path))
    one, two = (
        torch.load(tmp_path / name / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    for name, weights in one.items():
        assert torch.allclose(weights, two[name], rtol=1e-3, atol=1e-4), name


class RecordsBuffers(Callback):
    """Keeps the buffers with which each process samples for the scores during training."""

    def setup(self, trainer, pl_module, stage):
        predict_step = pl_module.predict_step

        def recorded(batch):
            torch.save([buffer.clone() for buffer in pl_module.buffers()], f"buffers-{trainer.global_rank}.pt")
            return predict_step(batch)

        pl_module.predict_step = recorded


def test_scores_during_training_use_the_same_batch_norm_statistics_on_all_processes(fit_args, tmp_path):
    scores = [
        "--training_scores.every_n_epochs",
        "1",
        "--trainer.callbacks",
        "test_any_number_of_processes.RecordsBuffers",
    ]
    finish(*two_processes([*fit_args, *scores, "--trainer.max_epochs", "1"], tmp_path))
    first, second = (torch.load(tmp_path / f"buffers-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert len(first) == len(second) > 0
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


class SpoiledBatch(Callback):
    """Makes the images of one process NaN in step 7."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 7:
            batch[0].fill_(float("nan"))


def test_loss_that_is_nan_on_one_process_stops_all_with_one_line(fit_args, tmp_path):
    spoiled = [
        "--trainer.callbacks",
        "test_any_number_of_processes.SpoiledBatch",
        "--checkpoint.every_n_train_steps",
        "3",
    ]
    both = two_processes([*fit_args, *spoiled], tmp_path)
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [1, 1], outputs
    assert sum(line.startswith("condgen: ") for output in outputs for line in output.splitlines()) == 1
    assert not any("Traceback" in output for output in outputs)
    last = torch.load(tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6
    assert all(weights.isfinite().all() for weights in last["state_dict"].values())


def test_ctrl_c_stops_all_processes_after_saving(fit_args, tmp_path):
    arguments = [*fit_args, "--trainer.max_epochs", "500", *DDP]
    process = condgen_process(arguments, tmp_path)
    checkpoint = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(checkpoint, process)
    process.send_signal(signal.SIGINT)  # to the first process alone
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    assert torch.load(checkpoint, weights_only=True)["global_step"] >= 5
