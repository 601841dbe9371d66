"""The command line, driven as a person drives it: what it leaves, what it refuses, how it goes on."""

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


# What a run leaves.


def test_a_run_leaves_settings_numbers_checkpoints_and_pictures(trained):
    run = trained / "lightning_logs" / "version_0"
    left = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    events = {name for name in left if name.startswith("events.out.tfevents")}
    assert left - events == {
        "config.yaml", "metrics.csv", "samples.gif", "checkpoints/last.ckpt", "checkpoints/best.ckpt",
        "samples/epoch=000.png", "samples/epoch=001.png",
    }  # fmt: skip
    assert len(events) == 1
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["source"] == "full"
    accumulator = EventAccumulator(str(run)).Reload()
    assert {"train_loss", "val_loss", "val_loss_floor", "variance_ratio"} <= set(accumulator.Tags()["scalars"])
    assert len(accumulator.Images("samples")) == 2


def test_the_training_loss_is_on_the_bar_and_monitored_where_no_step_is_logged(fit_args, tmp_path, capsys):
    options = ["--trainer.log_every_n_steps", "0", "--checkpoint.monitor", "train_loss", "--trainer.max_epochs", "1"]
    assert main([*fit_args, *options, "--trainer.default_root_dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"5/5 \[.*train_loss=[01]\.\d+, val_loss=", out + err)
    run = tmp_path / "lightning_logs" / "version_0"
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert not any(row.get("train_loss") for row in rows_of(run))


def test_the_lesson_is_logged(trained):
    epochs = [row for row in rows_of(trained / "lightning_logs" / "version_0") if row["val_loss"]]
    assert [row["epoch"] for row in epochs] == ["0", "1"]
    for row in epochs:
        assert float(row["val_loss"]) > float(row["val_loss_floor"]) > 0
        assert 0 < float(row["variance_ratio"]) < 1
    assert float(epochs[1]["train_loss_epoch"]) < float(epochs[0]["train_loss_epoch"])


def test_the_floor_is_the_clipped_mean_image_of_each_label(trained, mnist_root):
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


def test_the_grid_is_what_the_generator_draws(trained, last):
    generator = condgen.load(last).to("cuda" if torch.cuda.is_available() else "cpu")
    labels, noise = torch.arange(10).repeat_interleave(10), generator.draw_noise(0, range(100))
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


def test_grids_and_saves_change_nothing_in_the_training(fit_args, last, tmp_path):
    """Here without the one and with more of the other."""
    beside = ["--sample_grids.every_n_epochs", "9", "--checkpoint.every_n_train_steps", "2"]
    assert main([*fit_args, "--trainer.default_root_dir", str(tmp_path), *beside]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert not (run / "samples").exists()
    assert same_weights(run / "checkpoints" / "last.ckpt", Path(last))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(fit_args, last, tmp_path):
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
def test_every_config_trains(config, mnist_root, tmp_path):
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2"]
    few += ["--training_scores.every_n_epochs", "null", "--data.batch_size", "64"]
    common = ["--data.root", str(mnist_root), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", str(config), *few, *common]) == 0
    assert main(["predict", "--trainer.default_root_dir", str(tmp_path), "--data.samples_per_label", "1"]) == 0


def test_every_family_has_a_config():
    assert {family_of(config) for config in CONFIGS} == set(FAMILIES)


def test_base_yaml_is_what_condgen_does_without_a_config(capsys):
    printed = []
    for arguments in (["fit", "--print_config"], ["fit", "--config", str(CONFIGS[0]), "--print_config"]):
        assert main(arguments) == 0
        printed.append(yaml.safe_load(capsys.readouterr().out))
    assert printed[0] == printed[1]


# Going on.


@pytest.mark.parametrize(
    ("limit", "way_out"),
    [
        (["--trainer.max_epochs", "2"], "has trained its 2 epochs: for more, give --trainer.max_epochs 4."),
        (
            ["--trainer.max_epochs", "-1", "--trainer.max_steps", "10"],
            "10 steps: for more, give --trainer.max_steps 20.",
        ),
        (
            ["--trainer.max_steps", "8"],
            "has trained its 2 epochs and 10 steps: for more, give --trainer.max_epochs 4 --trainer.max_steps 20.",
        ),
    ],
)
def test_a_finished_training_says_how_to_go_on(limit, way_out, fit_args, last, capsys):
    assert way_out in refused([*fit_args, "--ckpt_path", last, *limit], capsys)


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
def test_a_resumed_run_is_the_uninterrupted_one_in_one_directory(first, then, fit_args, trained, last, tmp_path):
    """Whatever limit ended it, at an epoch's end or within one."""
    common = ["--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *common, *first]) == 0
    assert main([*fit_args, *common, *then, "--ckpt_path", "last"]) == 0
    assert runs_in(tmp_path) == ["version_0"]
    run, whole = tmp_path / "lightning_logs" / "version_0", trained / "lightning_logs" / "version_0"
    assert same_weights(run / "checkpoints" / "last.ckpt", Path(last))
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    for picture in ("samples/epoch=000.png", "samples/epoch=001.png", "samples.gif"):
        assert (run / picture).read_bytes() == (whole / picture).read_bytes()
    accumulator = EventAccumulator(str(run)).Reload()
    assert [event.step for event in accumulator.Scalars("val_loss")] == [4, 9]


@pytest.fixture
def killed_at_step_8(monkeypatch, tmp_path):
    """Trains as told, then puts the run back to the checkpoint that it had after step 8 of 10: that, and a copy of the
    whole run.

    That is what a kill leaves; the rows and grids that were written later lie there too, and have to be replaced.
    """

    def train(arguments: list[str]) -> tuple[Path, Path]:
        run, kept = tmp_path / "lightning_logs" / "version_0", tmp_path / "after-step-8.ckpt"
        save = LastAndBestCheckpoint.on_train_batch_start

        def save_and_keep(self, trainer, *args):
            save(self, trainer, *args)
            if trainer.global_step == 8:
                shutil.copy(run / "checkpoints" / "last.ckpt", kept)

        with monkeypatch.context() as patch:
            patch.setattr(LastAndBestCheckpoint, "on_train_batch_start", save_and_keep)
            common = ["--trainer.default_root_dir", str(tmp_path), "--checkpoint.every_n_train_steps", "4"]
            assert main([*arguments, *common]) == 0
        whole = Path(shutil.copytree(run, tmp_path / "whole"))
        kept.rename(run / "checkpoints" / "last.ckpt")
        best = run / "checkpoints" / "best.ckpt"
        if best.is_file() and torch.load(best, weights_only=True)["global_step"] > 8:
            best.unlink()
        return run, whole

    return train


@pytest.mark.parametrize(
    "recipe",
    [
        ["--data.num_workers", "2"],
        ["--trainer.val_check_interval", "3"],
        ["--trainer.val_check_interval", "7", "--trainer.check_val_every_n_epoch", "null"],
        ["--training_scores.every_n_epochs", "3", "--checkpoint.monitor", "score_coverage", "--checkpoint.mode", "max"],
        *(["--config", str(c), *SMALL.get(family, [])] for family, c in {family_of(c): c for c in CONFIGS}.items()),
    ],
    ids=lambda recipe: Path(recipe[1]).stem,
)
def test_from_the_middle_of_an_epoch_too(recipe, fit_args, tmp_path, killed_at_step_8):
    """With loader workers, validation within epochs, a monitor yet to come, and for a config of every family."""
    run, whole = killed_at_step_8([*fit_args, *recipe])
    common = ["--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *recipe, *common, "--ckpt_path", "last"]) == 0
    saved = [{path.name: path for path in (folder / "checkpoints").iterdir()} for folder in (run, whole)]
    assert saved[0].keys() == saved[1].keys()
    assert all(same_weights(path, saved[1][name]) for name, path in saved[0].items())
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert (run / "samples.gif").read_bytes() == (whole / "samples.gif").read_bytes()
    accumulator = EventAccumulator(str(run)).Reload()
    assert [event.step for event in accumulator.Scalars("train_loss")] == [1, 3, 5, 7, 9]


def test_a_schedule_that_comes_later_falls_to_its_end_too(fit_args, tmp_path):
    arguments = [*fit_args, "--trainer.default_root_dir", str(tmp_path)]
    assert main([*arguments, "--trainer.max_epochs", "1"]) == 0
    assert main([*arguments, "--ckpt_path", "last", "--model.schedule", "linear"]) == 0
    reached = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert reached["optimizer_states"][0]["param_groups"][0]["lr"] == 0


def test_gathered_gradients_only_put_a_checkpoint_off(fit_args, tmp_path, monkeypatch):
    """Of windows of two batches, and five batches to an epoch: 3 and 6 end none."""
    steps = []
    written = Strategy.save_checkpoint
    monkeypatch.setattr(
        Strategy,
        "save_checkpoint",
        lambda self, content, *args, **also: (
            steps.append(content["global_step"]),
            written(self, content, *args, **also),
        ),
    )
    options = ["--trainer.accumulate_grad_batches", "2", "--checkpoint.every_n_train_steps", "3"]
    assert main([*fit_args, *options, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert steps == [2, 3, 4, 5, 6]  # after batches 4, 5 (the epoch's end), 7, 9 and 10


class StopsAfterOneBatch(Callback):
    """As early stopping does; `trainer.max_time` asks after it, and says no."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or batch_idx == 0


def test_who_is_told_to_stop_ends_with_a_step(fit_args, tmp_path):
    recipe = [*fit_args, "--trainer.accumulate_grad_batches", "2", "--trainer.default_root_dir"]
    stopped, later = [*recipe, str(tmp_path / "stopped")], ["--trainer.max_time", "01:00:00:00"]
    assert main([*recipe, str(tmp_path / "whole")]) == 0
    assert main([*stopped, "--trainer.callbacks", "test_cli.StopsAfterOneBatch", *later]) == 0
    last = [
        tmp_path / name / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt" for name in ("whole", "stopped")
    ]
    assert torch.load(last[1], weights_only=True)["global_step"] == 1  # of two batches
    (tmp_path / "nothing.yaml").write_text("{}")  # instead of the run's settings
    assert main([*stopped, "--config", str(tmp_path / "nothing.yaml"), "--ckpt_path", "last"]) == 0
    assert same_weights(*last)


def test_data_of_another_size_are_refused_within_an_epoch(fit_args, tmp_path, killed_at_step_8, capsys):
    killed_at_step_8(fit_args)
    other = [*fit_args, "--data.source", "sample", "--trainer.default_root_dir", str(tmp_path), "--ckpt_path", "last"]
    assert "with the same data" in refused(other, capsys)


def test_what_is_refused_on_going_on_is_not_kept(fit_args, tmp_path, capsys):
    arguments = [*fit_args, "--trainer.default_root_dir", str(tmp_path)]
    assert main([*arguments, "--trainer.max_epochs", "1"]) == 0
    settings = tmp_path / "lightning_logs" / "version_0" / "config.yaml"
    before = settings.read_text()
    too_rare = ["--ckpt_path", "last", "--trainer.val_check_interval", "99"]
    assert "val_check_interval" in refused([*arguments, *too_rare], capsys)
    assert settings.read_text() == before


def test_a_run_is_trained_by_one_process_at_a_time(fit_args, tmp_path, capsys):
    """While others draw with it; and it is free as soon as that process is no more, whatever its workers are."""
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


def test_a_signal_to_a_training_and_its_loader_workers_saves_too(fit_args, tmp_path):
    """As `timeout 60 condgen fit` sends it, or Ctrl-C in a terminal."""
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


def test_a_schedule_is_gone_on_with_to_its_end(fit_args, tmp_path, killed_at_step_8):
    arguments = [*fit_args, "--model.schedule", "cosine", "--model.warmup_steps", "2"]
    run, whole = killed_at_step_8(arguments)
    assert main([*arguments, "--trainer.default_root_dir", str(tmp_path), "--ckpt_path", "last"]) == 0
    assert same_weights(run / "checkpoints" / "last.ckpt", whole / "checkpoints" / "last.ckpt")
    reached = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    assert reached["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-10


SCHEDULES = {  # the part of the rate at a part of the way from the warm-up to the end
    "constant": lambda way: 1.0,
    "linear": lambda way: 1 - way,
    "cosine": lambda way: (1 + math.cos(math.pi * way)) / 2,
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_rise_over_the_warm_up_and_then_stay_or_fall_to_the_end(fit_args, tmp_path, schedule):
    rate = ["--model.lr", "0.002", "--model.schedule", schedule, "--model.warmup_steps", "2"]
    monitor = ["--trainer.callbacks", "lightning.pytorch.callbacks.LearningRateMonitor"]
    every_step = ["--trainer.log_every_n_steps", "1", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *rate, *monitor, *every_step]) == 0
    with open(tmp_path / "lightning_logs" / "version_0" / "metrics.csv", newline="") as file:
        rates = [float(row["lr-Adam"]) / 0.002 for row in csv.DictReader(file) if row["lr-Adam"]]
    assert rates == pytest.approx([0.5, 1.0, *(SCHEDULES[schedule](step / 8) for step in range(8))], abs=1e-6)


def test_ctrl_c_finishes_the_batch_saves_and_stops(fit_args, tmp_path):
    arguments = [*fit_args, "--trainer.max_epochs", "60"]
    process = condgen_process(arguments, tmp_path)
    checkpoint = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(checkpoint, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"condgen fit --ckpt_path {checkpoint.parent.parent.relative_to(tmp_path)}" in output
    reached = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 5 <= reached < 300
    epochs = str(-(-reached // 5) + 1)
    straight = tmp_path / "straight"
    straight.mkdir()
    resumed = condgen_process([*arguments, "--ckpt_path", "last", "--trainer.max_epochs", epochs], tmp_path)
    finish(condgen_process([*arguments, "--trainer.max_epochs", epochs], straight))
    finish(resumed)
    assert same_weights(checkpoint, straight / checkpoint.relative_to(tmp_path))
    assert runs_in(tmp_path) == ["version_0"]


def test_any_other_checkpoint_starts_a_run_that_names_its_origin(fit_args, trained, tmp_path):
    best = str(trained / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt")
    arguments = ["--trainer.default_root_dir", str(tmp_path), "--ckpt_path", best, "--trainer.max_epochs", "3"]
    assert main([*fit_args, *arguments]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] == best
    assert [path.name for path in (run / "samples").iterdir()] == ["epoch=002.png"]


def test_a_flag_beats_the_checkpoint_and_the_checkpoint_beats_the_config(fit_args, last, tmp_path):
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


def test_validate_and_test_repeat_the_trainings_numbers(trained, mnist_root, capsys):
    logged = [row["val_loss"] for row in rows_of(trained / "lightning_logs" / "version_0") if row["val_loss"]][-1]
    before = runs_in(trained)
    for verb in ("validate", "test"):
        capsys.readouterr()
        assert main([verb, "--trainer.default_root_dir", str(trained)]) == 0
        printed = [float(number) for number in re.findall(r"\d\.\d{6,}", capsys.readouterr().out)]
        assert pytest.approx(float(logged), rel=1e-6) in printed
    assert runs_in(trained) == before


def test_load_takes_a_run_or_a_checkpoint(trained, last, monkeypatch):
    monkeypatch.chdir(trained)
    generators = [condgen.load(), condgen.load("best"), condgen.load(last), condgen.load(Path(last).parent.parent)]
    assert not any(generator.training for generator in generators)
    assert torch.equal(generators[0].network.fc[0].weight, generators[3].network.fc[0].weight)


def test_a_family_from_elsewhere_is_taken_on_the_command_lines_word(fit_args, tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere.py").write_text(
        "from condgen.generators import DNN\nclass Net(DNN):\n    def __init__(self, latent_dim=5, **settings):\n"
        "        super().__init__(latent_dim=latent_dim, **settings)\n        self.save_hyperparameters()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    common = ["--trainer.default_root_dir", str(tmp_path)]
    named = ["--model", "elsewhere.Net"]
    said = refused([*fit_args, *common, *named, "--model.latent", "3"], capsys)
    assert "model.latent" in said
    assert "elsewhere.Net" in said
    assert main([*fit_args, *common, *named, "--model.latent_dim", "3"]) == 0
    run = str(tmp_path / "lightning_logs" / "version_0")
    finish(condgen_process(["predict", "--ckpt_path", run, "--data.samples_per_label", "1", *named], tmp_path))
    assert len(list((tmp_path / "lightning_logs" / "version_0" / "predictions").glob("*.png"))) == 11


def test_a_trial_of_one_batch_leaves_nothing(fit_args, tmp_path, capsys):
    assert main([*fit_args, "--trainer.default_root_dir", str(tmp_path), "--trainer.fast_dev_run", "true"]) == 0
    assert "nothing is kept" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


# What is refused, in one line.


@pytest.mark.parametrize("verb", ["fit", "predict", "validate", "test"])
def test_where_there_is_nothing_to_go_on_from_it_says_so(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "No run under lightning_logs has a checkpoint last.ckpt" in refused([verb, "--ckpt_path", "last"], capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
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
def test_a_mistake_is_named_in_one_line_and_leaves_nothing(arguments, said, mnist_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said in refused([*arguments, "--data.root", str(mnist_root)] if arguments[0] == "fit" else arguments, capsys)
    assert not list(tmp_path.iterdir())


def test_the_bar_counts_the_epochs_that_the_run_will_take(fit_args, tmp_path, capsys):
    options = ["--trainer.max_epochs", "9", "--trainer.max_steps", "5", "--trainer.accumulate_grad_batches", "2"]
    assert main([*fit_args, *options, "--trainer.default_root_dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "Epoch 2/2" in said.out + said.err  # three steps in the first, two in the second


@pytest.mark.parametrize(
    ("limits", "longer"),
    [
        (["--trainer.max_epochs", "1"], "--trainer.max_epochs 2"),
        (["--trainer.max_steps", "7"], "--trainer.max_steps 14"),
        (["--trainer.max_steps", "10"], "--trainer.max_epochs 4 --trainer.max_steps 20"),
    ],
)
def test_a_finished_run_says_how_to_train_on(limits, longer, fit_args, tmp_path, capsys):
    common = [*fit_args, "--trainer.default_root_dir", str(tmp_path)]
    assert main([*common, *limits]) == 0
    *_, said = capsys.readouterr().out.rstrip().splitlines()
    assert said.endswith(f"version_0 {longer}")
    assert longer in refused([*common, *limits, "--ckpt_path", "last"], capsys)
    assert main([*common, "--ckpt_path", "last", *longer.split()]) == 0


def test_a_generator_for_other_classes_is_refused(trained, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    assert "generates 10 classes" in refused(["predict", "--data", "EMNIST", "--data.split", "letters"], capsys)


def test_a_checkpoint_is_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"condgen": Payload(), "state_dict": {}, "hyper_parameters": {}}, tmp_path / "hostile.ckpt")
    for verb in ("fit", "predict"):
        assert "holds more than data" in refused([verb, "--ckpt_path", str(tmp_path / "hostile.ckpt")], capsys)
    with pytest.raises(condgen.errors.UsageError):
        condgen.load(tmp_path / "hostile.ckpt")
    assert not (tmp_path / "executed").exists()


def test_a_truncated_or_foreign_checkpoint_is_named(last, tmp_path, capsys):
    (tmp_path / "cut.ckpt").write_bytes(Path(last).read_bytes()[:100_000])
    assert "cut.ckpt is not a whole checkpoint" in refused(
        ["predict", "--ckpt_path", str(tmp_path / "cut.ckpt")], capsys
    )
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.ckpt")
    assert "not a checkpoint of condgen's" in refused(
        ["predict", "--ckpt_path", str(tmp_path / "foreign.ckpt")], capsys
    )


# Finding one's way.


def test_help_and_version_are_there_at_once():
    for option, expected in (("--help", "condgen fit --config"), ("--version", condgen.__version__)):
        code = f"import sys; from condgen.cli.main import main; main([{option!r}]); assert 'torch' not in sys.modules"
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert expected in output


@pytest.mark.slow
def test_shell_completion_knows_the_verbs(capsys):
    """Half a minute: pytest -m slow -n 0 tests/cli/test_cli.py"""
    assert main(["--print_completion", "shtab-bash"]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in ("fit", "validate", "predict"))
