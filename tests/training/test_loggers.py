"""The loggers of a run, additional loggers of the user, and the last lines that `condgen fit` prints."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.runs import rows_of, runs_in
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from condgen.cli.main import main
from condgen.training.loggers import MetricsLogger


class ImageLogger(CSVLogger):
    """A logger of the user that accepts images, with the same method as W&B's logger."""

    def log_image(self, key, images, step):
        with open(f"{self.root_dir}.json", "a") as file:
            file.write(json.dumps([key, step, [image.shape for image in images]]) + "\n")

    def log_hyperparams(self, params):
        with open(f"{self.root_dir}-settings.json", "w") as file:
            json.dump({name: str(value) for name, value in params.items()}, file)


@pytest.fixture
def image_logger_args(fit_args, tmp_path):
    """Arguments of a short `condgen fit` with an additional ImageLogger."""
    options = ["--trainer.logger", "test_loggers.ImageLogger", "--trainer.logger.save_dir", str(tmp_path / "images")]
    options += ["--trainer.logger.name", "user", "--trainer.logger.version", "x"]
    (tmp_path / "images").mkdir()
    return [*fit_args, *options, "--trainer.default_root_dir", str(tmp_path)]


def test_logger_of_the_user_is_added_to_the_default_loggers(image_logger_args, tmp_path):
    assert main(image_logger_args) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert rows_of(run)[-1]["val_loss"]
    assert list(run.glob("events.out.tfevents*"))
    assert "val_loss" in (tmp_path / "images" / "user" / "x" / "metrics.csv").read_text()


def test_logger_with_log_image_gets_sample_grids_and_reconstructions(image_logger_args, tmp_path):
    assert main([*image_logger_args, "--model", "VAE", "--model.flow_steps", "2"]) == 0
    logged = [json.loads(line) for line in (tmp_path / "images" / "user.json").read_text().splitlines()]
    assert [(name, step) for name, step, _ in logged] == [
        ("samples", 4), ("reconstructions", 4), ("samples", 9), ("reconstructions", 9)
    ]  # fmt: skip
    assert logged[0][2] == [[302, 302, 3]]


def test_hyperparameters_are_logged_to_every_logger(image_logger_args, tmp_path):
    assert main([*image_logger_args, "--model.latent_dim", "7"]) == 0
    assert json.loads((tmp_path / "images" / "user-settings.json").read_text())["latent_dim"] == "7"
    run = tmp_path / "lightning_logs" / "version_0"
    plugins = EventAccumulator(str(run)).Reload().SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(plugins).session_start_info
    assert start.hparams["latent_dim"].number_value == 7
    assert start.hparams["batch_size"].number_value == 16


def test_commands_printed_at_the_end_of_fit_work(image_logger_args, tmp_path, capsys):
    assert main([*image_logger_args, "--trainer.max_epochs", "1"]) == 0
    lines = [
        line.split("condgen ", 1)[1].split() for line in capsys.readouterr().out.splitlines() if " condgen " in line
    ]
    resume = next(line for line in lines if line[0] == "fit")
    assert main(resume) == 0
    assert runs_in(tmp_path) == ["version_0"]
    assert {line[0] for line in lines} == {"plot", "predict", "test", "fit"}
    assert main(next(line for line in lines if line[0] == "plot")) == 0


def test_fit_without_loggers_does_not_suggest_plot_or_tensorboard(fit_args, tmp_path, capsys):
    options = ["--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "1"]
    assert main([*fit_args, *options]) == 0
    output = capsys.readouterr().out
    assert "condgen plot" not in output
    assert "tensorboard" not in output
    assert "condgen predict" in output


def test_metrics_logger_writes_each_row_immediately_and_adds_columns(tmp_path):
    logger = MetricsLogger(tmp_path, 0, [])
    logger.log_metrics({"train_loss": torch.tensor(0.5), "epoch": 0}, 3)
    assert rows_of(tmp_path) == [{"epoch": "0", "step": "3", "train_loss": "0.5"}]
    logger.log_metrics({"val_loss": 0.25, "epoch": 0}, 4)
    assert rows_of(tmp_path) == [
        {"epoch": "0", "step": "3", "train_loss": "0.5", "val_loss": ""},
        {"epoch": "0", "step": "4", "train_loss": "", "val_loss": "0.25"},
    ]


def test_metrics_logger_drops_the_rows_after_the_resumed_step(tmp_path):
    first = MetricsLogger(tmp_path, 0, [])
    for step in range(4):
        first.log_metrics({"train_loss": step}, step)
    first.log_metrics({"val_loss": 9}, 2)
    resumed = MetricsLogger(tmp_path, 3, ["val_loss"])
    resumed.resume()
    assert [row["step"] for row in rows_of(tmp_path)] == ["0", "1", "2"]
    resumed.log_metrics({"train_loss": 7}, 3)
    assert [(row["step"], row["train_loss"]) for row in rows_of(tmp_path)] == [
        ("0", "0"), ("1", "1"), ("2", "2"), ("3", "7")
    ]  # fmt: skip
