"""``condgen plot`` draws what ``metrics.csv`` has."""

from __future__ import annotations

import csv
import shutil

import numpy as np
from PIL import Image
from test_cli import refused

from condgen.__main__ import main
from condgen.plot import COLOURS, read_curves


def pixels_like(picture: np.ndarray, colour: str) -> int:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture.astype(int) - wanted).max(2) <= 2).sum())


def test_the_newest_run_gets_a_picture_beside_its_metrics(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "lightning_logs", tmp_path / "lightning_logs")
    monkeypatch.chdir(tmp_path)
    assert main(["plot"]) == 0
    path = tmp_path / "lightning_logs" / "version_0" / "metrics.png"
    assert f"Picture: {path.relative_to(tmp_path)}" in capsys.readouterr().out
    image = Image.open(path)
    assert image.format == "PNG"
    picture = np.asarray(image.convert("RGBA"))
    assert (picture[0, 0] == 255).all()  # opaque and white: as readable where all around it is dark
    assert (picture[..., 3] == 255).all()
    assert pixels_like(picture[..., :3], COLOURS[0]) > 100
    assert pixels_like(picture[..., :3], COLOURS[1]) == 0


def test_curves_are_those_of_the_epochs(trained):
    run = trained / "lightning_logs" / "version_0"
    with open(run / "metrics.csv", newline="") as file:
        ends = [row for row in csv.DictReader(file) if row["val_loss"]]
    curves = read_curves(run)
    assert curves.family == "DNN"
    for name in ("train_loss_epoch", "val_loss", "val_loss_floor", "variance_ratio"):
        assert curves.of[name] == [(int(row["epoch"]) + 1, float(row[name])) for row in ends]
    assert [epoch for epoch, _ in curves.of["val_loss"]] == [1, 2]
    assert "score_accuracy" not in curves.of  # it was trained without


def test_several_runs_are_laid_over_each_other_and_named(trained, tmp_path, monkeypatch):
    runs = []
    for name in ("first", "second"):
        runs.append(str(shutil.copytree(trained / "lightning_logs" / "version_0", tmp_path / name)))
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *runs]) == 0
    picture = np.asarray(Image.open(tmp_path / "metrics.png").convert("RGB"))
    assert pixels_like(picture, COLOURS[1]) > 100  # the second lies on top of the first, whose curves are the same
    assert pixels_like(picture, COLOURS[0]) > 20  # in the legend
    assert not (tmp_path / "first" / "metrics.png").exists()


def test_a_run_without_a_finished_epoch_is_refused(trained, tmp_path, capsys):
    run = shutil.copytree(trained / "lightning_logs" / "version_0", tmp_path / "run")
    lines = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join(lines[:2]) + "\n")
    assert "no epoch that has ended" in refused(["plot", str(run)], capsys)
    (run / "metrics.csv").write_text("epoch,step,val_loss\n0,4,many\n")
    assert "metrics.csv is not one of condgen's" in refused(["plot", str(run)], capsys)
    assert not (run / "metrics.png").exists()
