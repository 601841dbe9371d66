"""``condgen plot`` plots the curves in ``metrics.csv``."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from helpers.runs import refused
from PIL import Image

from condgen.cli.main import main
from condgen.evaluation.plot import COLORS, read_curves


def count_pixels(picture: np.ndarray, color: str) -> int:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture.astype(int) - rgb).max(2) <= 2).sum())


def test_plot_without_arguments_writes_metrics_png_into_the_newest_run(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "lightning_logs", tmp_path / "lightning_logs")
    monkeypatch.chdir(tmp_path)
    assert main(["plot"]) == 0
    path = tmp_path / "lightning_logs" / "version_0" / "metrics.png"
    assert f"Picture: {path.relative_to(tmp_path)}" in capsys.readouterr().out
    assert main(["plot"]) == 0
    assert f"Replacing {path.relative_to(tmp_path)}" in capsys.readouterr().err
    image = Image.open(path)
    assert image.format == "PNG"
    picture = np.asarray(image.convert("RGBA"))
    assert (picture[0, 0] == 255).all()  # opaque and white, so that it is readable on a dark page
    assert (picture[..., 3] == 255).all()
    assert count_pixels(picture[..., :3], COLORS[0]) > 100
    assert count_pixels(picture[..., :3], COLORS[1]) == 0


def test_plot_accepts_runs_after_the_options(trained, tmp_path, capsys):
    picture = tmp_path / "curves.png"
    assert main(["plot", "--output", str(picture), str(trained / "lightning_logs" / "version_0")]) == 0
    assert Image.open(picture).format == "PNG"


def test_read_curves_returns_the_epoch_values_of_metrics_csv(trained):
    run = trained / "lightning_logs" / "version_0"
    with open(run / "metrics.csv", newline="") as file:
        ends = [row for row in csv.DictReader(file) if row["val_loss"]]
    curves = read_curves(run)
    assert curves.family == "DNN"
    for name in ("train_loss_epoch", "val_loss", "val_loss_floor", "variance_ratio"):
        assert curves.values[name] == [(int(row["epoch"]) + 1, float(row[name])) for row in ends]
    assert [epoch for epoch, _ in curves.values["val_loss"]] == [1, 2]
    assert "score_accuracy" not in curves.values  # the run was trained without scores


def test_plot_of_several_runs_shares_panels_and_names_the_runs(trained, tmp_path, monkeypatch):
    runs = []
    for name in ("first", "second"):
        runs.append(str(shutil.copytree(trained / "lightning_logs" / "version_0", tmp_path / name)))
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *runs]) == 0
    picture = np.asarray(Image.open(tmp_path / "metrics.png").convert("RGB"))
    assert count_pixels(picture, COLORS[1]) > 100  # the curves are equal, and the second run's are on top
    assert count_pixels(picture, COLORS[0]) > 20  # in the legend
    assert not (tmp_path / "first" / "metrics.png").exists()


def test_plot_refuses_a_run_without_a_finished_epoch(trained, tmp_path, capsys):
    run = shutil.copytree(trained / "lightning_logs" / "version_0", tmp_path / "run")
    lines = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join(lines[:2]) + "\n")
    assert "no completed epoch" in refused(["plot", str(run)], capsys)
    (run / "metrics.csv").write_text("epoch,step,val_loss\n0,4,many\n")
    assert "metrics.csv was not written by condgen" in refused(["plot", str(run)], capsys)
    assert not (run / "metrics.png").exists()


INVALID_METRICS = {
    "huge value": "epoch,val_loss\n0,1e308\n",
    "huge negative value": "epoch,val_loss,train_loss_epoch\n0,-1e308,1e308\n",
    "huge epoch": f"epoch,val_loss\n{10**400},0.5\n",
    "huge epoch as a float": "epoch,val_loss\n1e400,0.5\n",
    "negative epoch": "epoch,val_loss\n-5,0.5\n",
    "epoch with a superscript": "epoch,val_loss\n²,0.5\n",
    "very long number": f"epoch,val_loss\n{'7' * 5000},0.5\n",
    "no epoch": "step,val_loss\n0,0.5\n",
    "short row": "val_loss,epoch\n0.5\n",
    "very long cell": f"epoch,val_loss\n0,{'0' * 200_000}\n",
    "binary": "\x00\x01\x02\x03",
    "empty": "",
}


@pytest.mark.parametrize("content", INVALID_METRICS.values(), ids=INVALID_METRICS)
def test_plot_refuses_invalid_metrics_csv(content, trained, tmp_path, capsys):
    shutil.copy(trained / "lightning_logs" / "version_0" / "config.yaml", tmp_path)
    (tmp_path / "metrics.csv").write_text(content)
    assert str(tmp_path / "metrics.csv") in refused(["plot", str(tmp_path)], capsys)
    assert not (tmp_path / "metrics.png").exists()


@pytest.mark.parametrize("value", ["1e38", "-1e38", "0", "1e-300", "-1", "5e-324"])
@pytest.mark.parametrize("epoch", ["0", "999999999"])
def test_plot_accepts_extreme_values(value, epoch, trained, tmp_path):
    shutil.copy(trained / "lightning_logs" / "version_0" / "config.yaml", tmp_path)
    names = "train_loss_epoch,val_loss,val_loss_floor,variance_ratio,score_accuracy,score_frechet_distance"
    rows = f"epoch,{names}\n0{',0.5' * 6}\n{epoch}{f',{value}' * 6}\n"
    (tmp_path / "metrics.csv").write_text(rows)
    assert main(["plot", str(tmp_path)]) == 0
    assert Image.open(tmp_path / "metrics.png").format == "PNG"


@pytest.mark.parametrize("name", ["a$b$c", r"$\frac{$", "_hidden", "line\nbreak"])
def test_plot_does_not_parse_the_run_name(name, trained, tmp_path):
    runs = [str(shutil.copytree(trained / "lightning_logs" / "version_0", tmp_path / part)) for part in (name, "b")]
    assert main(["plot", *runs, "--output", str(tmp_path / "metrics.png")]) == 0


@pytest.mark.parametrize("family", [r"$\frac{$", "x" * 100_000, "\x1b[31mred"])
def test_plot_does_not_parse_the_family_name_or_refuses_it(family, trained, tmp_path, capsys):
    shutil.copy(trained / "lightning_logs" / "version_0" / "metrics.csv", tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps({"model": {"class_path": family}}))
    code = main(["plot", str(tmp_path)])
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert code == (0 if len(family) < 100 else 1)


@pytest.mark.parametrize("config", ["- 1\n", "a: !Ref b\n", "model: {class_path: [1]}\n", "model: 5\n", ""])
def test_plot_error_names_a_config_without_a_generator(config, trained, tmp_path, capsys):
    shutil.copy(trained / "lightning_logs" / "version_0" / "metrics.csv", tmp_path)
    (tmp_path / "config.yaml").write_text(config)
    error = refused(["plot", str(tmp_path)], capsys)
    assert str(tmp_path / "config.yaml") in error
    assert "--config" not in error
