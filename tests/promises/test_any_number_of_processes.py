"""Two processes give the results of one: started by Lightning, by a cluster, or by torchrun on two machines."""

import csv
import re
import signal
from pathlib import Path

import pytest
import torch
from helpers.processes import DDP, ON_THE_CPU, ForkedPython, condgen_process, finish, free_port, two_processes, wait_for
from lightning.pytorch.callbacks import Callback


def logged_values(run: Path, name: str) -> list[float]:
    """The values of the metric `name` in a run's metrics.csv."""
    with open(run / "metrics.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


class RecordsBatches(Callback):
    """Saves the images, labels and random numbers of each training step in ``batches-RANK.pt``."""

    def on_train_start(self, trainer, pl_module):
        self.batches: list[tuple[torch.Tensor, ...]] = []
        batch_numbers = pl_module._batch_numbers

        def record(*arguments):
            self.numbers = batch_numbers(*arguments)
            return self.numbers

        pl_module._batch_numbers = record

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append((*batch, self.numbers))

    def on_train_end(self, trainer, pl_module):
        torch.save(self.batches, f"batches-{trainer.global_rank}.pt")


@pytest.fixture(scope="module")
def ddp_run(fit_args, tmp_path_factory):
    """A run of two processes that were started by Lightning."""
    folder = tmp_path_factory.mktemp("ddp")
    finish(condgen_process([*fit_args, *DDP], folder))
    return folder / "lightning_logs" / "version_0"


def test_ddp_writes_one_run_with_about_the_loss_of_one_process(ddp_run, trained):
    """Images and latents are the same, but batch norm sees half batches, so the losses differ slightly."""
    assert [path.name for path in ddp_run.parent.iterdir()] == ["version_0"]
    one = logged_values(trained / "lightning_logs" / "version_0", "val_loss")
    assert logged_values(ddp_run, "val_loss") == pytest.approx(one, rel=0.05)
    assert len(list((ddp_run / "samples").iterdir())) == 2


def test_ddp_trains_each_step_on_the_images_and_random_numbers_of_one_process(fit_args, tmp_path):
    arguments = [*fit_args, "--trainer.callbacks", "test_any_number_of_processes.RecordsBatches"]
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
    finish(condgen_process([*arguments, *ON_THE_CPU], tmp_path / "one"))
    finish(*two_processes(arguments, tmp_path / "two"))
    one = torch.load(tmp_path / "one" / "batches-0.pt", weights_only=True)
    two = [torch.load(tmp_path / "two" / f"batches-{rank}.pt", weights_only=True) for rank in range(2)]
    assert len(one) == len(two[0]) == len(two[1]) == 10
    for expected, *halves in zip(one, *two, strict=True):
        for whole, even, odd in zip(expected, *halves, strict=True):  # images, labels, random numbers
            assert torch.equal(whole, torch.stack([even, odd], dim=1).flatten(0, 1))


def test_ddp_logs_the_variance_ratio_of_one_process(tmp_path):
    """Diffusion computes the variance ratio from samples for a part of the validation images."""
    fit = ["fit", "--model", "Diffusion", "--model.unet_channels", "[8,16]", "--training_scores.every_n_epochs", "null"]
    fit += ["--data.source", "sample", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    finish(condgen_process([*fit, *ON_THE_CPU, "--trainer.default_root_dir", "one"], tmp_path))
    finish(*two_processes([*fit, "--trainer.default_root_dir", "two"], tmp_path))
    one, two = (
        logged_values(tmp_path / name / "lightning_logs" / "version_0", "variance_ratio") for name in ("one", "two")
    )
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize(("file_format", "batch_size"), [("png", "7"), ("npz", "1000")])
def test_predict_with_two_processes_writes_the_same_files_as_one(trained, tmp_path, file_format, batch_size):
    """With a batch size of 1,000 there is only one block of samples for two processes."""
    run = str(trained / "lightning_logs" / "version_0")
    request = ["predict", "--ckpt_path", run, "--data.batch_size", batch_size, "--predictions.format", file_format]
    finish(condgen_process([*request, *ON_THE_CPU, "--predictions.dirpath", "one"], tmp_path))
    finish(*two_processes([*request, "--predictions.dirpath", "two"], tmp_path))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("subcommand", ["validate", "test"])
def test_validate_and_test_with_two_processes_report_the_val_loss_of_one(trained, tmp_path, subcommand):
    run = trained / "lightning_logs" / "version_0"
    output = finish(*two_processes([subcommand, "--ckpt_path", str(run)], tmp_path))
    printed = [float(number) for number in re.findall(r"\d\.\d{6,}", output)]
    assert pytest.approx(logged_values(run, "val_loss")[-1], rel=1e-5) in printed


def torchrun_nodes(arguments: list[str], folder: Path) -> list[ForkedPython]:
    """Start two nodes with one process each by torchrun; both run on this machine."""
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
def test_torchrun_on_two_nodes_gives_the_metrics_of_two_local_processes(ddp_run, fit_args, tmp_path):
    """Takes half a minute: pytest -m slow -n 0 tests/promises/test_any_number_of_processes.py"""
    finish(*torchrun_nodes(fit_args, tmp_path))
    run = tmp_path / "lightning_logs" / "version_0"
    assert (run / "metrics.csv").read_bytes() == (ddp_run / "metrics.csv").read_bytes()


class FixedBatchNorm(Callback):
    """Puts the network into eval mode, because batch norm would see half batches in two processes."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.network.eval()


def test_drifting_trains_the_same_weights_with_two_processes_as_with_one(fit_args, tmp_path):
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
    """Saves the buffers, such as batch-norm statistics, that each process uses to sample for the training scores."""

    def setup(self, trainer, pl_module, stage):
        predict_step = pl_module.predict_step

        def record(batch):
            torch.save([buffer.clone() for buffer in pl_module.buffers()], f"buffers-{trainer.global_rank}.pt")
            return predict_step(batch)

        pl_module.predict_step = record


def test_training_scores_use_the_same_batch_norm_statistics_on_all_processes(fit_args, tmp_path):
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


class NaNBatch(Callback):
    """Replaces the images of rank 1 by NaN in step 7."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 7:
            batch[0].fill_(float("nan"))


def test_nan_loss_on_one_rank_stops_all_ranks_with_one_line(fit_args, tmp_path):
    options = [
        "--trainer.callbacks",
        "test_any_number_of_processes.NaNBatch",
        "--checkpoint.every_n_train_steps",
        "3",
    ]
    processes = two_processes([*fit_args, *options], tmp_path)
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 1], outputs
    assert sum(line.startswith("condgen: ") for output in outputs for line in output.splitlines()) == 1
    assert not any("Traceback" in output for output in outputs)
    last = torch.load(tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6
    assert all(weights.isfinite().all() for weights in last["state_dict"].values())


def test_ctrl_c_to_one_process_saves_a_checkpoint_and_stops_all(fit_args, tmp_path):
    arguments = [*fit_args, "--trainer.max_epochs", "500", *DDP]
    process = condgen_process(arguments, tmp_path)
    checkpoint = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(checkpoint, process)
    process.send_signal(signal.SIGINT)  # only to the first process
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    assert torch.load(checkpoint, weights_only=True)["global_step"] >= 5
