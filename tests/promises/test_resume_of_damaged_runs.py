"""Resume after a stop within an epoch, with other callbacks, and with damaged metrics, config or sample grids."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers.runs import refused, rows_of, runs_in, same_weights
from lightning.pytorch.callbacks import Callback
from PIL import Image

from condgen.cli.main import main


class StopsAfterStep(Callback):
    """Requests a stop within an epoch, like ``trainer.max_time``."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


@pytest.fixture(scope="module")
def uninterrupted(fit_args, tmp_path_factory):
    """An uninterrupted run of three epochs."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert main([*fit_args, "--trainer.default_root_dir", str(folder), "--trainer.max_epochs", "3"]) == 0
    return folder / "lightning_logs" / "version_0"


@pytest.fixture
def resume(trained, fit_args, tmp_path):
    """A function that resumes a run of two epochs and trains the third."""
    shutil.copytree(trained / "lightning_logs", tmp_path / "lightning_logs")
    (tmp_path / "nothing.yaml").write_text("{}")  # replaces the run's config.yaml
    three = ["--config", str(tmp_path / "nothing.yaml"), "--trainer.max_epochs", "3"]

    def resume(*more: str) -> Path:
        common = ["--trainer.default_root_dir", str(tmp_path), "--ckpt_path", "last"]
        assert main([*fit_args, *common, *three, *more]) == 0
        assert runs_in(tmp_path) == ["version_0"]
        return tmp_path / "lightning_logs" / "version_0"

    resume.run = tmp_path / "lightning_logs" / "version_0"
    return resume


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "half a header": lambda path: path.write_bytes(b"epoch,st"),
    "half a row": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "binary": lambda path: path.write_bytes(os.urandom(1000)),
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "more cells than columns": lambda path: path.write_bytes(path.read_bytes() + b"1,2,3,4,5,6,7,8,9\r\n"),
    "a long field": lambda path: path.write_bytes(path.read_bytes() + b"1," + b"9" * 200_000 + b",,,,,\r\n"),
    "a step that is not a number": lambda path: path.write_bytes(path.read_bytes().replace(b",3,", ",²,".encode())),
    "semicolons": lambda path: path.write_bytes(path.read_bytes().replace(b",", b";")),
    "the same column twice": lambda path: path.write_bytes(path.read_bytes().replace(b"val_loss,", b"train_loss,")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
}
NOT_RENAMED = {"empty", "missing", "half a header", "half a row"}


@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("damage", DAMAGE)
def test_resume_with_damaged_metrics_trains_and_renames_the_damaged_file(damage, resume, uninterrupted):
    DAMAGE[damage](resume.run / "metrics.csv")
    before = (resume.run / "metrics.csv").read_bytes() if (resume.run / "metrics.csv").is_file() else None
    run = resume()
    assert same_weights(run / "checkpoints" / "last.ckpt", uninterrupted / "checkpoints" / "last.ckpt")
    assert rows_of(run)[-1] == rows_of(uninterrupted)[-1]
    renamed = run / "metrics.damaged-0.csv"
    assert renamed.exists() is (damage not in NOT_RENAMED)
    if renamed.is_file():
        assert renamed.read_bytes() == before


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_resume_keeps_the_valid_rows_of_damaged_metrics(resume, uninterrupted):
    DAMAGE["more cells than columns"](resume.run / "metrics.csv")
    assert (resume() / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()


@pytest.mark.parametrize(
    "content", [b"", b"- a\n- b\n", b"\x00\xff\x00", b"[" * 5000], ids=["empty", "list", "binary", "deep"]
)
def test_resume_with_explicit_config_ignores_a_damaged_run_config(content, resume):
    (resume.run / "config.yaml").write_bytes(content)
    assert "max_epochs: 3" in (resume() / "config.yaml").read_text()


def test_resume_from_inside_the_run_directory_continues_the_run(resume, uninterrupted, fit_args, monkeypatch):
    for folder, path in ((resume.run / "checkpoints", "last.ckpt"), (resume.run, "checkpoints/last.ckpt")):
        monkeypatch.chdir(folder)
        epochs = str(len(list((resume.run / "samples").glob("epoch=*.png"))) + 1)
        assert main(["fit", "--ckpt_path", path, "--trainer.max_epochs", epochs]) == 0
        assert len(list((resume.run / "samples").glob("epoch=*.png"))) == int(epochs)
        assert not (folder / "lightning_logs").exists()


def test_resume_through_a_symlink_continues_the_run(resume, tmp_path):
    (tmp_path / "link.ckpt").symlink_to(resume.run / "checkpoints" / "last.ckpt")
    assert main(["fit", "--ckpt_path", str(tmp_path / "link.ckpt"), "--trainer.max_epochs", "3"]) == 0
    assert (resume.run / "samples" / "epoch=002.png").is_file()
    assert runs_in(tmp_path) == ["version_0"]


@pytest.mark.parametrize("step", [3, 7])
def test_resume_after_stop_request_mid_epoch_matches_uninterrupted_run(step, fit_args, uninterrupted, tmp_path):
    common = [*fit_args, "--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "3"]
    stop = ["--trainer.callbacks", "test_resume_of_damaged_runs.StopsAfterStep", "--trainer.callbacks.step", str(step)]
    assert main([*common, *stop]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert rows_of(run)[-1]["step"] == str(step - 1)
    assert rows_of(run)[-1]["val_loss"]
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert main(["fit", "--ckpt_path", str(run), "--trainer.callbacks", "null", "--trainer.max_epochs", "3"]) == 0
    assert (run / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()
    for name in ("last.ckpt", "best.ckpt"):
        assert same_weights(run / "checkpoints" / name, uninterrupted / "checkpoints" / name)


def test_metrics_rows_of_a_mid_epoch_stop_are_dropped_even_if_the_resumed_run_fails(fit_args, tmp_path):
    common = [*fit_args, "--trainer.log_every_n_steps", "5", "--trainer.default_root_dir"]
    assert main([*common, str(tmp_path / "uninterrupted")]) == 0
    run, resumed = tmp_path / "lightning_logs" / "version_0", [*common, str(tmp_path), "--ckpt_path", "last"]
    (tmp_path / "nothing.yaml").write_text("{}")
    resumed += ["--config", str(tmp_path / "nothing.yaml"), "--checkpoint.every_n_train_steps", "1"]
    stop = ["--trainer.callbacks", "test_resume_of_damaged_runs.StopsAfterStep", "--trainer.callbacks.step", "3"]
    assert main([*common, str(tmp_path), *stop]) == 0
    assert rows_of(run)[-1]["step"] == "2"
    fail = ["--trainer.callbacks", "test_kills_lose_nothing.Failing", "--trainer.callbacks.in_step", "5"]
    with pytest.raises(ZeroDivisionError):
        main([*resumed, *fail])
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert main(resumed) == 0
    uninterrupted = tmp_path / "uninterrupted" / "lightning_logs" / "version_0"
    assert (run / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()


def test_resume_after_max_time_needs_a_longer_max_time(fit_args, tmp_path, capsys):
    common = [*fit_args, "--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "1000"]
    assert main([*common, "--trainer.max_time", "00:00:00:01"]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert "--trainer.max_time 00:00:00:02" in capsys.readouterr().out
    assert "--trainer.max_time 00:00:00:02" in refused(["fit", "--ckpt_path", str(run)], capsys)
    before = len(rows_of(run))
    longer = ["--trainer.max_time", "00:01:00:00", "--trainer.max_steps", str(int(rows_of(run)[-1]["step"]) + 10)]
    assert main(["fit", "--ckpt_path", str(run), *longer]) == 0
    assert len(rows_of(run)) > before


@pytest.mark.filterwarnings("ignore:.*is left out of samples.gif")
@pytest.mark.parametrize("content", [b"", b"no image", b"half"], ids=["empty", "text", "truncated"])
def test_resume_omits_a_damaged_sample_grid_from_the_gif(content, resume):
    grid = resume.run / "samples" / "epoch=000.png"
    grid.write_bytes(grid.read_bytes()[:500] if content == b"half" else content)
    with Image.open(resume() / "samples.gif") as gif:
        assert gif.n_frames == 2


@pytest.mark.parametrize(("limit", "is_valid"), [("2", False), ("3", False), ("4", True)])
def test_resume_mid_epoch_rejects_limit_train_batches_below_the_resumed_batch(
    limit, is_valid, fit_args, tmp_path, capsys
):
    common = [*fit_args, "--trainer.default_root_dir", str(tmp_path)]
    stop = ["--trainer.callbacks", "test_resume_of_damaged_runs.StopsAfterStep", "--trainer.callbacks.step", "3"]
    assert main([*common, *stop]) == 0
    (tmp_path / "nothing.yaml").write_text("{}")
    more = [*common, "--config", str(tmp_path / "nothing.yaml"), "--ckpt_path", "last"]
    if is_valid:
        assert main([*more, "--trainer.limit_train_batches", limit]) == 0
    else:
        assert "trainer.limit_train_batches" in refused([*more, "--trainer.limit_train_batches", limit], capsys)


@pytest.mark.parametrize("finder", ["LearningRateFinder", "BatchSizeFinder"])
def test_resume_rejects_finder_callbacks_because_they_reset_the_training(finder, resume, capsys):
    before = (resume.run / "metrics.csv").read_bytes()
    more = ["fit", "--ckpt_path", str(resume.run), "--trainer.max_epochs", "3", "--trainer.callbacks", finder]
    assert finder in refused(more, capsys)
    assert (resume.run / "metrics.csv").read_bytes() == before


def test_checkpoint_of_a_run_with_lr_finder_has_the_training_time(fit_args, tmp_path):
    finder = ["--trainer.callbacks", "LearningRateFinder", "--trainer.limit_train_batches", "20"]
    assert main([*fit_args, *finder, "--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "1"]) == 0
    last = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert 0 < last["condgen"]["train_seconds"] < 60


def test_resume_with_a_callback_that_cannot_restore_its_state_names_the_callback(fit_args, tmp_path, capsys):
    spike = ["--trainer.callbacks", "SpikeDetection", "--trainer.callbacks.mode", "min"]
    assert main([*fit_args, *spike, "--trainer.default_root_dir", str(tmp_path)]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    more = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run), "--trainer.max_epochs", "5"]
    assert "SpikeDetection" in refused(["fit", *more], capsys)


def test_stochastic_weight_averaging_saves_the_averaged_weights_and_resumes(fit_args, tmp_path):
    average = ["--trainer.callbacks", "StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.01"]
    options = ["--model", "Diffusion", "--model.unet_channels", "[8,16]", "--trainer.max_epochs", "4"]
    start = ["--trainer.callbacks.swa_epoch_start", "1", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *options, *average, *start]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == last["global_step"]  # the last epoch is the best
    averages = last["callbacks"]["StochasticWeightAveraging"]["average_model_state"]
    for name, weights in last["state_dict"].items():
        is_weight = weights.is_floating_point() and not name.startswith(("ema", "posterior"))
        assert torch.equal(weights, averages[name]) or not is_weight
        assert torch.equal(weights, best["state_dict"][name])
    config = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run), "--trainer.max_epochs", "5"]
    assert main(["fit", *config]) == 0


@pytest.mark.parametrize("flags", [["--trainer.callbacks", "LearningRateMonitor"], ["--trainer.callbacks", "null"]])
def test_resume_needs_explicit_callbacks_if_the_run_config_has_some(flags, fit_args, tmp_path, capsys):
    common = [*fit_args, "--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "1"]
    assert main([*common, "--trainer.callbacks", "LearningRateMonitor"]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    more = ["fit", "--ckpt_path", str(run), "--trainer.max_epochs", "2"]
    assert "trainer.callbacks" in refused(more, capsys)
    assert main([*more, *flags]) == 0
