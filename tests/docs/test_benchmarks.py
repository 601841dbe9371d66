"""The benchmarks compare programs that do the same work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from condgen.cli.main import main


@pytest.mark.parametrize("family", ["DNN", "GAN", "VAE", "Drifting", "Diffusion"])
def test_bare_loop_trains_to_the_same_weights(family, fit_args, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import steps

    ends = []
    monkeypatch.setattr(
        steps.TakeTurns,
        "on_train_end",
        lambda self, trainer, module: ends.extend([self.loop.module.state_dict(), module.state_dict()]),
        raising=False,
    )
    output = tmp_path / "turns.json"
    turns = ["--trainer.callbacks+", "steps.TakeTurns", "--trainer.callbacks.output", str(output)]
    numbers = ["--trainer.callbacks.steps", "2", "--trainer.callbacks.turns", "1"]
    small = ["--model.unet_channels", "[8,16]"] if family == "Diffusion" else []
    options = ["--model", family, *small, *turns, *numbers, "--trainer.limit_val_batches", "0"]
    assert main([*fit_args, *options, "--trainer.default_root_dir", str(tmp_path)]) == 0
    bare, ours = ends
    assert all(torch.equal(bare[name], weights) for name, weights in ours.items())
    assert [turn.keys() for turn in json.loads(output.read_text())] == [{"ours", "bare"}]
    start = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert start["global_step"] == 4


@pytest.mark.slow
def test_benchmarks_print_a_table_and_write_it_as_json(mnist_root, tmp_path):
    """Takes a minute. Run it with: pytest -m slow -n 0 tests/docs/test_benchmarks.py"""
    output = tmp_path / "benchmarks.json"
    options = ["--data", str(mnist_root), "--rows", "starting", "--pairs", "1", "--output", str(output)]
    command = [sys.executable, str(Path(__file__).parents[1] / "benchmarks"), *options]
    printed = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True).stdout
    written = json.loads(output.read_text())
    assert f"torch {torch.__version__.split('+')[0]}" in printed
    assert written["machine"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert [row["at_most"] for row in written["rows"]] == [0.1, 0.1, 1.15, 1.5]
    for row in written["rows"]:
        assert f"{row['name']:70}  {row['median']:.3f}" in printed
        assert 0 < row["median"] < 3


@pytest.mark.slow
def test_benchmark_of_image_folders_prints_both_starts():
    script = str(Path(__file__).parents[1] / "benchmarks" / "image_folder.py")
    command = [sys.executable, script, "--images", "500", "--image_size", "16", "--pairs", "1"]
    printed = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True).stdout
    assert "\nfirst start: " in printed
    assert "\nsecond start: " in printed
