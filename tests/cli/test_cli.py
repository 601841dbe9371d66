"""The command line, run as a user runs it: the files of a run, resuming, precedence of settings, and errors."""

import csv
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.processes import condgen_process, finish, wait_for
from helpers.runs import FAMILIES, SMALL, refused, rows_of, runs_in, same_weights
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import condgen
from condgen.cli.main import main
from condgen.training.checkpointing import LastAndBestCheckpoint

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def family_of(config: Path) -> str:
    return yaml.safe_load(config.read_text())["model"]["class_path"]


# Files of a run.


def test_fit_writes_config_metrics_checkpoints_and_sample_grids(trained):
    run = trained / "lightning_logs" / "version_0"
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("events.out.tfevents")}
    assert files - events == {
        "config.yaml", "metrics.csv", "samples.gif", "checkpoints/last.ckpt", "checkpoints/best.ckpt",
        "samples/epoch=000.png", "samples/epoch=001.png",
    }  # fmt: skip
    assert len(events) == 1
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["source"] == "full"
    accumulator = EventAccumulator(str(run)).Reload()
    assert {"train_loss", "val_loss", "val_loss_floor", "variance_ratio"} <= set(accumulator.Tags()["scalars"])
    assert len(accumulator.Images("samples")) == 2


def test_train_loss_is_shown_and_monitored_even_if_no_step_is_logged(fit_args, tmp_path, capsys):
    options = ["--trainer.log_every_n_steps", "0", "--checkpoint.monitor", "train_loss", "--trainer.max_epochs", "1"]
    assert main([*fit_args, *options, "--trainer.default_root_dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"5/5 \[.*train_loss=[01]\.\d+, val_loss=", out + err)
    run = tmp_path / "lightning_logs" / "version_0"
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert not any(row.get("train_loss") for row in rows_of(run))


def test_dnn_val_loss_stays_above_its_floor_and_variance_ratio_below_one(trained):
    epochs = [row for row in rows_of(trained / "lightning_logs" / "version_0") if row["val_loss"]]
    assert [row["epoch"] for row in epochs] == ["0", "1"]
    for row in epochs:
        assert float(row["val_loss"]) > float(row["val_loss_floor"]) > 0
        assert 0 < float(row["variance_ratio"]) < 1
    assert float(epochs[1]["train_loss_epoch"]) < float(epochs[0]["train_loss_epoch"])


def test_val_loss_floor_is_the_loss_of_the_clipped_mean_image_of_each_label(trained, mnist_root):
    data = condgen.data.MNIST(root=str(mnist_root))
    data.setup("fit")
    train, val = data.train_images, data.val_images
    target = lambda images: (images.double() / 255 - 0.1307) / 0.3081  # noqa: E731
    best = torch.stack([target(train.images[train.labels == label]).mean(0).clamp(0, 1) for label in range(10)])
    floor = (best[val.labels] - target(val.images)).square().mean().item()
    logged = [
        row["val_loss_floor"] for row in rows_of(trained / "lightning_logs" / "version_0") if row["val_loss_floor"]
    ]
    assert [float(value) for value in logged] == pytest.approx([floor, floor], rel=1e-5)


def test_sample_grid_shows_the_samples_of_the_saved_generator(trained, last):
    generator = condgen.load(last).to("cuda" if torch.cuda.is_available() else "cpu")
    labels, noise = torch.arange(10).repeat_interleave(10), generator.sample_noise(0, range(100))
    with torch.no_grad():
        images = generator.generate(labels.to(generator.device), noise.to(generator.device)).cpu()
    picture = np.asarray(
        Image.open(trained / "lightning_logs" / "version_0" / "samples" / "epoch=001.png").convert("L")
    )
    assert picture.shape == (302, 302)
    for number, image in enumerate(images):
        top, left = 2 + 30 * (number // 10), 2 + 30 * (number % 10)
        expected = (image[0] * 255 + 0.5).clamp(0, 255).to(torch.uint8).numpy()
        assert np.array_equal(picture[top : top + 28, left : left + 28], expected)


def test_trained_weights_do_not_depend_on_sample_grids_or_checkpoint_frequency(fit_args, last, tmp_path):
    """Compare the default run with a run that has no grids and more checkpoints."""
    options = ["--sample_grids.every_n_epochs", "9", "--checkpoint.every_n_train_steps", "2"]
    assert main([*fit_args, "--trainer.default_root_dir", str(tmp_path), *options]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert not (run / "samples").exists()
    assert same_weights(run / "checkpoints" / "last.ckpt", Path(last))


def test_seed_determines_the_trained_weights_with_any_number_of_loader_workers(fit_args, last, tmp_path):
    for seed, same in (("1", True), ("2", False)):
        folder = tmp_path / seed
        arguments = ["--trainer.default_root_dir", str(folder), "--seed_everything", seed, "--data.num_workers", "4"]
        assert main([*fit_args, *arguments]) == 0
        assert same_weights(folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", Path(last)) is same


def test_fit_without_loggers_still_saves_checkpoints(fit_args, tmp_path):
    options = ["--trainer.default_root_dir", str(tmp_path), "--trainer.logger", "false", "--trainer.max_epochs", "1"]
    assert main([*fit_args, *options]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert not (run / "metrics.csv").exists()
    assert not list(run.glob("events.*"))
    assert (run / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_trains_and_predicts(config, mnist_root, tmp_path):
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2"]
    few += ["--training_scores.every_n_epochs", "null", "--data.batch_size", "64"]
    common = ["--data.root", str(mnist_root), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", str(config), *few, *common]) == 0
    assert main(["predict", "--trainer.default_root_dir", str(tmp_path), "--data.samples_per_label", "1"]) == 0


def test_every_family_has_a_shipped_config():
    assert {family_of(config) for config in CONFIGS} == set(FAMILIES)


def test_base_config_equals_the_defaults(capsys):
    printed = []
    for arguments in (["fit", "--print_config"], ["fit", "--config", str(CONFIGS[0]), "--print_config"]):
        assert main(arguments) == 0
        printed.append(yaml.safe_load(capsys.readouterr().out))
    assert printed[0] == printed[1]


# Resuming, stopping and checkpoints.


@pytest.mark.parametrize(
    ("limit", "advice"),
    [
        (
            ["--trainer.max_epochs", "2"],
            "has already been trained for 2 epochs: to train longer, use --trainer.max_epochs 4.",
        ),
        (
            ["--trainer.max_epochs", "-1", "--trainer.max_steps", "10"],
            "10 steps: to train longer, use --trainer.max_steps 20.",
        ),
        (
            ["--trainer.max_steps", "8"],
            "trained for 2 epochs and 10 steps: to train longer, use --trainer.max_epochs 4 --trainer.max_steps 20.",
        ),
    ],
)
def test_resume_of_a_finished_run_is_rejected_and_suggests_a_larger_limit(limit, advice, fit_args, last, capsys):
    assert advice in refused([*fit_args, "--ckpt_path", last, *limit], capsys)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["--trainer.max_epochs", "1"], []),
        (["--trainer.max_epochs", "1", "--trainer.max_steps", "10"], ["--trainer.max_steps", "10"]),
        (["--trainer.max_steps", "5"], ["--trainer.max_steps", "10"]),
        (["--trainer.max_steps", "7"], ["--trainer.max_steps", "10"]),
        (["--trainer.max_steps", "7"], ["--trainer.max_steps", "-1"]),
        (["--trainer.max_steps", "3", "--trainer.max_epochs", "1"], ["--trainer.max_steps", "20"]),
    ],
    ids=lambda limits: ",".join(limits[1::2]),
)
def test_resume_after_a_limit_matches_uninterrupted_run_in_the_same_directory(
    first, then, fit_args, trained, last, tmp_path
):
    """The limit stops the first run either at the end of an epoch or within one."""
    common = ["--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *common, *first]) == 0
    assert main([*fit_args, *common, *then, "--ckpt_path", "last"]) == 0
    assert runs_in(tmp_path) == ["version_0"]
    run, uninterrupted = tmp_path / "lightning_logs" / "version_0", trained / "lightning_logs" / "version_0"
    assert same_weights(run / "checkpoints" / "last.ckpt", Path(last))
    assert (run / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()
    for picture in ("samples/epoch=000.png", "samples/epoch=001.png", "samples.gif"):
        assert (run / picture).read_bytes() == (uninterrupted / picture).read_bytes()
    accumulator = EventAccumulator(str(run)).Reload()
    assert [event.step for event in accumulator.Scalars("val_loss")] == [4, 9]


@pytest.fixture
def killed_at_step_8(monkeypatch, tmp_path):
    """A function that trains to step 10 and then puts back the checkpoint of step 8, as if the run had been killed.

    It returns the run and a copy of the complete run. The run keeps the metrics and grids that were written after
    step 8, so that a resume must replace them.
    """

    def train(arguments: list[str]) -> tuple[Path, Path]:
        run, step_8 = tmp_path / "lightning_logs" / "version_0", tmp_path / "after-step-8.ckpt"
        save = LastAndBestCheckpoint.on_train_batch_start

        def save_and_copy(self, trainer, *args):
            save(self, trainer, *args)
            if trainer.global_step == 8:
                shutil.copy(run / "checkpoints" / "last.ckpt", step_8)

        with monkeypatch.context() as patch:
            patch.setattr(LastAndBestCheckpoint, "on_train_batch_start", save_and_copy)
            common = ["--trainer.default_root_dir", str(tmp_path), "--checkpoint.every_n_train_steps", "4"]
            assert main([*arguments, *common]) == 0
        uninterrupted = Path(shutil.copytree(run, tmp_path / "uninterrupted"))
        step_8.rename(run / "checkpoints" / "last.ckpt")
        best = run / "checkpoints" / "best.ckpt"
        if best.is_file() and torch.load(best, weights_only=True)["global_step"] > 8:
            best.unlink()
        return run, uninterrupted

    return train


@pytest.mark.parametrize(
    "options",
    [
        ["--data.num_workers", "2"],
        ["--trainer.val_check_interval", "3"],
        ["--trainer.val_check_interval", "7", "--trainer.check_val_every_n_epoch", "null"],
        ["--training_scores.every_n_epochs", "3", "--checkpoint.monitor", "score_coverage", "--checkpoint.mode", "max"],
        *(["--config", str(c), *SMALL.get(family, [])] for family, c in {family_of(c): c for c in CONFIGS}.items()),
    ],
    ids=lambda options: Path(options[1]).stem,
)
def test_resume_mid_epoch_matches_uninterrupted_run(options, fit_args, tmp_path, killed_at_step_8):
    """Also with loader workers, mid-epoch validation, a monitor without a value yet, and every family's config."""
    run, uninterrupted = killed_at_step_8([*fit_args, *options])
    common = ["--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *options, *common, "--ckpt_path", "last"]) == 0
    resumed, expected = ({path.name: path for path in (r / "checkpoints").iterdir()} for r in (run, uninterrupted))
    assert resumed.keys() == expected.keys()
    assert all(same_weights(path, expected[name]) for name, path in resumed.items())
    assert (run / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()
    assert (run / "samples.gif").read_bytes() == (uninterrupted / "samples.gif").read_bytes()
    accumulator = EventAccumulator(str(run)).Reload()
    assert [event.step for event in accumulator.Scalars("train_loss")] == [1, 3, 5, 7, 9]


def test_learning_rate_schedule_added_on_resume_decays_to_zero(fit_args, tmp_path):
    arguments = [*fit_args, "--trainer.default_root_dir", str(tmp_path)]
    assert main([*arguments, "--trainer.max_epochs", "1"]) == 0
    assert main([*arguments, "--ckpt_path", "last", "--model.schedule", "linear"]) == 0
    checkpoint = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == 0


def test_checkpoint_waits_for_the_end_of_gradient_accumulation(fit_args, tmp_path, monkeypatch):
    """Gradients of two batches are accumulated and an epoch has five batches, so batches 3 and 6 end no step."""
    steps = []
    save_checkpoint = Strategy.save_checkpoint
    monkeypatch.setattr(
        Strategy,
        "save_checkpoint",
        lambda self, content, *args, **also: (
            steps.append(content["global_step"]),
            save_checkpoint(self, content, *args, **also),
        ),
    )
    options = ["--trainer.accumulate_grad_batches", "2", "--checkpoint.every_n_train_steps", "3"]
    assert main([*fit_args, *options, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert steps == [2, 3, 4, 5, 6]  # after batches 4, 5 (the epoch's end), 7, 9 and 10


class StopsAfterOneBatch(Callback):
    """Requests a stop like EarlyStopping. `trainer.max_time` is checked later and must not cancel the request."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or batch_idx == 0


def test_stop_request_during_gradient_accumulation_finishes_the_optimizer_step(fit_args, tmp_path):
    options = [*fit_args, "--trainer.accumulate_grad_batches", "2", "--trainer.default_root_dir"]
    stopped, max_time = [*options, str(tmp_path / "stopped")], ["--trainer.max_time", "01:00:00:00"]
    assert main([*options, str(tmp_path / "uninterrupted")]) == 0
    assert main([*stopped, "--trainer.callbacks", "test_cli.StopsAfterOneBatch", *max_time]) == 0
    last = [
        tmp_path / name / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
        for name in ("uninterrupted", "stopped")
    ]
    assert torch.load(last[1], weights_only=True)["global_step"] == 1  # a step of two batches
    (tmp_path / "nothing.yaml").write_text("{}")  # replaces the run's config.yaml, which has the callback
    assert main([*stopped, "--config", str(tmp_path / "nothing.yaml"), "--ckpt_path", "last"]) == 0
    assert same_weights(*last)


def test_resume_mid_epoch_rejects_data_of_another_size(fit_args, tmp_path, killed_at_step_8, capsys):
    killed_at_step_8(fit_args)
    other = [*fit_args, "--data.source", "sample", "--trainer.default_root_dir", str(tmp_path), "--ckpt_path", "last"]
    assert "with the same data" in refused(other, capsys)


def test_rejected_resume_leaves_the_run_config_unchanged(fit_args, tmp_path, capsys):
    arguments = [*fit_args, "--trainer.default_root_dir", str(tmp_path)]
    assert main([*arguments, "--trainer.max_epochs", "1"]) == 0
    config = tmp_path / "lightning_logs" / "version_0" / "config.yaml"
    before = config.read_text()
    too_large = ["--ckpt_path", "last", "--trainer.val_check_interval", "99"]
    assert "val_check_interval" in refused([*arguments, *too_large], capsys)
    assert config.read_text() == before


def test_run_directory_is_locked_for_other_trainings_until_the_process_ends(fit_args, tmp_path, capsys):
    """Sampling is allowed during the training. A killed process frees the lock even if its loader workers still run."""
    endless = [*fit_args, "--data.num_workers", "2", "--trainer.default_root_dir", str(tmp_path)]
    endless += ["--trainer.max_epochs", "500"]
    process = condgen_process(endless, tmp_path)
    checkpoint = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    try:
        wait_for(checkpoint, process)
        assert "being written by another process" in refused([*endless, "--ckpt_path", "last"], capsys)
        assert main(["predict", "--trainer.default_root_dir", str(tmp_path)]) == 0
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    one_more = torch.load(checkpoint, weights_only=True)["global_step"] // 5 + 1
    assert main([*endless, "--ckpt_path", "last", "--trainer.max_epochs", str(one_more)]) == 0


def test_sigterm_to_training_and_its_loader_workers_saves_a_checkpoint(fit_args, tmp_path):
    """`timeout 60 condgen fit` or Ctrl-C in a terminal sends the signal to the process group."""
    endless = ["--trainer.max_epochs", "500", "--trainer.limit_train_batches", "20", "--data.num_workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "condgen", *fit_args, *endless],
        cwd=tmp_path,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for(tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", process)
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, output
    assert "condgen fit --ckpt_path" in output


def test_resume_with_cosine_schedule_matches_uninterrupted_run_and_decays_to_zero(fit_args, tmp_path, killed_at_step_8):
    arguments = [*fit_args, "--model.schedule", "cosine", "--model.warmup_steps", "2"]
    run, uninterrupted = killed_at_step_8(arguments)
    assert main([*arguments, "--trainer.default_root_dir", str(tmp_path), "--ckpt_path", "last"]) == 0
    assert same_weights(run / "checkpoints" / "last.ckpt", uninterrupted / "checkpoints" / "last.ckpt")
    content = torch.load(uninterrupted / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-10


SCHEDULES = {  # factor of the learning rate; progress is 0 at the end of the warm-up and 1 at the end of the training
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rate_follows_warm_up_and_schedule(fit_args, tmp_path, schedule):
    options = ["--model.lr", "0.002", "--model.schedule", schedule, "--model.warmup_steps", "2"]
    monitor = ["--trainer.callbacks", "lightning.pytorch.callbacks.LearningRateMonitor"]
    every_step = ["--trainer.log_every_n_steps", "1", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *options, *monitor, *every_step]) == 0
    with open(tmp_path / "lightning_logs" / "version_0" / "metrics.csv", newline="") as file:
        rates = [float(row["lr-Adam"]) / 0.002 for row in csv.DictReader(file) if row["lr-Adam"]]
    assert rates == pytest.approx([0.5, 1.0, *(SCHEDULES[schedule](step / 8) for step in range(8))], abs=1e-6)


def test_ctrl_c_saves_a_checkpoint_and_resume_matches_uninterrupted_run(fit_args, tmp_path):
    arguments = [*fit_args, "--trainer.max_epochs", "60"]
    process = condgen_process(arguments, tmp_path)
    checkpoint = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(checkpoint, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"condgen fit --ckpt_path {checkpoint.parent.parent.relative_to(tmp_path)}" in output
    stopped_at = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 5 <= stopped_at < 300
    epochs = str(-(-stopped_at // 5) + 1)
    uninterrupted = tmp_path / "uninterrupted"
    uninterrupted.mkdir()
    resumed = condgen_process([*arguments, "--ckpt_path", "last", "--trainer.max_epochs", epochs], tmp_path)
    finish(condgen_process([*arguments, "--trainer.max_epochs", epochs], uninterrupted))
    finish(resumed)
    assert same_weights(checkpoint, uninterrupted / checkpoint.relative_to(tmp_path))
    assert runs_in(tmp_path) == ["version_0"]


def test_resume_from_another_checkpoint_starts_a_new_run_that_records_its_origin(fit_args, trained, tmp_path):
    best = str(trained / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt")
    arguments = ["--trainer.default_root_dir", str(tmp_path), "--ckpt_path", best, "--trainer.max_epochs", "3"]
    assert main([*fit_args, *arguments]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] == best
    assert [path.name for path in (run / "samples").iterdir()] == ["epoch=002.png"]


def test_flags_override_the_checkpoint_and_the_checkpoint_overrides_the_config(fit_args, last, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("model: {class_path: DNN, init_args: {lr: 0.5, latent_dim: 9}}\nseed_everything: 5\n")
    best = last.replace("last", "best")
    common = ["--config", str(config), "--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "3"]
    assert main([*fit_args, *common, "--ckpt_path", best, "--model.lr", "0.002"]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["seed_everything"] == 1
    assert settings["model"]["init_args"]["latent_dim"] == 62
    assert settings["model"]["init_args"]["lr"] == 0.002
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == 0.002


def test_validate_and_test_report_the_val_loss_of_the_training(trained, mnist_root, capsys):
    logged = [row["val_loss"] for row in rows_of(trained / "lightning_logs" / "version_0") if row["val_loss"]][-1]
    before = runs_in(trained)
    for subcommand in ("validate", "test"):
        capsys.readouterr()
        assert main([subcommand, "--trainer.default_root_dir", str(trained)]) == 0
        printed = [float(number) for number in re.findall(r"\d\.\d{6,}", capsys.readouterr().out)]
        assert pytest.approx(float(logged), rel=1e-6) in printed
    assert runs_in(trained) == before


def test_load_accepts_a_run_directory_or_a_checkpoint(trained, last, monkeypatch):
    monkeypatch.chdir(trained)
    generators = [condgen.load(), condgen.load("best"), condgen.load(last), condgen.load(Path(last).parent.parent)]
    assert not any(generator.training for generator in generators)
    assert torch.equal(generators[0].network.fc[0].weight, generators[3].network.fc[0].weight)


def test_fit_and_predict_accept_a_model_class_of_another_module(fit_args, tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere.py").write_text(
        "from condgen.generators import DNN\nclass Net(DNN):\n    def __init__(self, latent_dim=5, **settings):\n"
        "        super().__init__(latent_dim=latent_dim, **settings)\n        self.save_hyperparameters()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    common = ["--trainer.default_root_dir", str(tmp_path)]
    model = ["--model", "elsewhere.Net"]
    error = refused([*fit_args, *common, *model, "--model.latent", "3"], capsys)
    assert "model.latent" in error
    assert "elsewhere.Net" in error
    assert main([*fit_args, *common, *model, "--model.latent_dim", "3"]) == 0
    run = str(tmp_path / "lightning_logs" / "version_0")
    finish(condgen_process(["predict", "--ckpt_path", run, "--data.samples_per_label", "1", *model], tmp_path))
    assert len(list((tmp_path / "lightning_logs" / "version_0" / "predictions").glob("*.png"))) == 11


def test_fast_dev_run_writes_no_files(fit_args, tmp_path, capsys):
    assert main([*fit_args, "--trainer.default_root_dir", str(tmp_path), "--trainer.fast_dev_run", "true"]) == 0
    assert "Nothing is saved" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


# Errors.


@pytest.mark.parametrize("subcommand", ["fit", "predict", "validate", "test"])
def test_ckpt_path_last_without_a_run_is_rejected(subcommand, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "No run under lightning_logs has a checkpoint last.ckpt" in refused(
        [subcommand, "--ckpt_path", "last"], capsys
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fitt"], "fitt"),
        (["fit", "--model.latent_dims", "3"], "latent_dims"),
        (["fit", "--trainer.max_epoch", "3"], "max_epoch"),
        (["fit", "--model.latent_dim", "-1"], "latent_dim is -1"),
        (["fit", "--model", "DNM"], "DNM"),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["fit", "--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
        (["fit", "--ckpt_path"], "ckpt_path"),
        (["fit", "--data.source", "sample", "--data", "KMNIST"], "KMNIST"),
        (["fit", "--trainer.devices", "2", "--trainer.accelerator", "cpu", "--data.batch_size", "63"], "63"),
        (["fit", "--data.batch_size", "100000"], "100000"),
        (["fit", "--trainer.accelerator", "tpu"], "tpu"),
        (["fit", "--checkpoint.every_n_train_steps", "0"], "every_n_train_steps is 0"),
        (["fit", "--weights_only", "false"], "weights_only"),
    ],
)
def test_wrong_command_line_gets_one_line_and_writes_no_files(
    arguments, expected, mnist_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(
        [*arguments, "--data.root", str(mnist_root)] if arguments[0] == "fit" else arguments, capsys
    )
    assert not list(tmp_path.iterdir())


def test_progress_bar_shows_the_number_of_epochs_until_max_steps(fit_args, tmp_path, capsys):
    options = ["--trainer.max_epochs", "9", "--trainer.max_steps", "5", "--trainer.accumulate_grad_batches", "2"]
    assert main([*fit_args, *options, "--trainer.default_root_dir", str(tmp_path)]) == 0
    output = capsys.readouterr()
    assert "Epoch 2/2" in output.out + output.err  # three steps in the first epoch, two in the second


@pytest.mark.parametrize(
    ("limits", "longer"),
    [
        (["--trainer.max_epochs", "1"], "--trainer.max_epochs 2"),
        (["--trainer.max_steps", "7"], "--trainer.max_steps 14"),
        (["--trainer.max_steps", "10"], "--trainer.max_epochs 4 --trainer.max_steps 20"),
    ],
)
def test_last_line_of_fit_is_a_command_that_trains_longer(limits, longer, fit_args, tmp_path, capsys):
    common = [*fit_args, "--trainer.default_root_dir", str(tmp_path)]
    assert main([*common, *limits]) == 0
    *_, last_line = capsys.readouterr().out.rstrip().splitlines()
    assert last_line.endswith(f"version_0 {longer}")
    assert longer in refused([*common, *limits, "--ckpt_path", "last"], capsys)
    assert main([*common, "--ckpt_path", "last", *longer.split()]) == 0


def test_predict_rejects_a_dataset_with_another_number_of_classes(trained, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    assert "generates 10 classes" in refused(["predict", "--data", "EMNIST", "--data.split", "letters"], capsys)


@pytest.mark.parametrize("command", ["predict", "test", "fit"])
def test_checkpoint_of_other_class_names_is_refused(command, trained, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    message = refused([command, "--ckpt_path", "last", "--data", "FashionMNIST"], capsys)
    assert "label 0 is 0" in message
    assert "T-shirt" in message


# Help.


def test_help_and_version_do_not_import_torch():
    for option, expected in (("--help", "condgen fit --config"), ("--version", condgen.__version__)):
        code = f"import sys; from condgen.cli.main import main; main([{option!r}]); assert 'torch' not in sys.modules"
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert expected in output


@pytest.mark.slow
def test_shell_completion_contains_the_subcommands(capsys):
    """Takes half a minute: pytest -m slow -n 0 tests/cli/test_cli.py"""
    assert main(["--print_completion", "shtab-bash"]) == 0
    script = capsys.readouterr().out
    assert all(subcommand in script for subcommand in ("fit", "validate", "predict"))
