"""Trackers: condgen's two loggers, and others that are added to them."""

from __future__ import annotations

import json

import pytest
from helpers.runs import rows_of, runs_in
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from condgen.cli.main import main


class Gallery(CSVLogger):
    """A logger of a user's own that takes images, with the method that W&B's logger has."""

    def log_image(self, key, images, step):
        with open(f"{self.root_dir}.json", "a") as file:
            file.write(json.dumps([key, step, [image.shape for image in images]]) + "\n")

    def log_hyperparams(self, params):
        with open(f"{self.root_dir}-settings.json", "w") as file:
            json.dump({name: str(value) for name, value in params.items()}, file)


@pytest.fixture
def with_gallery(fit_args, tmp_path):
    options = ["--trainer.logger", "test_loggers.Gallery", "--trainer.logger.save_dir", str(tmp_path / "gallery")]
    options += ["--trainer.logger.name", "mine", "--trainer.logger.version", "x"]
    (tmp_path / "gallery").mkdir()
    return [*fit_args, *options, "--trainer.default_root_dir", str(tmp_path)]


def test_logger_is_added_to_the_runs_own(with_gallery, tmp_path):
    assert main(with_gallery) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert rows_of(run)[-1]["val_loss"]
    assert list(run.glob("events.out.tfevents*"))
    assert "val_loss" in (tmp_path / "gallery" / "mine" / "x" / "metrics.csv").read_text()


def test_logger_that_takes_images_gets_the_sample_grids(with_gallery, tmp_path):
    assert main([*with_gallery, "--model", "VAE", "--model.flow_steps", "2"]) == 0
    logged = [json.loads(line) for line in (tmp_path / "gallery" / "mine.json").read_text().splitlines()]
    assert [(name, step) for name, step, _ in logged] == [
        ("samples", 4), ("reconstructions", 4), ("samples", 9), ("reconstructions", 9)
    ]  # fmt: skip
    assert logged[0][2] == [[302, 302, 3]]


def test_hyperparameters_reach_every_logger(with_gallery, tmp_path):
    assert main([*with_gallery, "--model.latent_dim", "7"]) == 0
    assert json.loads((tmp_path / "gallery" / "mine-settings.json").read_text())["latent_dim"] == "7"
    run = tmp_path / "lightning_logs" / "version_0"
    plugins = EventAccumulator(str(run)).Reload().SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(plugins).session_start_info
    assert start.hparams["latent_dim"].number_value == 7
    assert start.hparams["batch_size"].number_value == 16


def test_last_lines_name_commands_that_work(with_gallery, tmp_path, capsys):
    assert main([*with_gallery, "--trainer.max_epochs", "1"]) == 0
    lines = [
        line.split("condgen ", 1)[1].split() for line in capsys.readouterr().out.splitlines() if " condgen " in line
    ]
    resume = next(line for line in lines if line[0] == "fit")
    assert main(resume) == 0
    assert runs_in(tmp_path) == ["version_0"]
    assert {line[0] for line in lines} == {"plot", "predict", "test", "fit"}
    assert main(next(line for line in lines if line[0] == "plot")) == 0


def test_last_lines_without_loggers_name_no_curves(fit_args, tmp_path, capsys):
    options = ["--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "1"]
    assert main([*fit_args, *options]) == 0
    said = capsys.readouterr().out
    assert "condgen plot" not in said
    assert "tensorboard" not in said
    assert "condgen predict" in said
