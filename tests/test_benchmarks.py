"""What the benchmarks compare is the same work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from condgen.__main__ import main


@pytest.mark.parametrize("family", ["DNN", "GAN", "VAE", "Drifting", "Diffusion"])
def test_the_bare_loop_trains_to_the_same_weights(family, fit_args, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
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
    small = ["--model.channels", "[8,16]"] if family == "Diffusion" else []
    options = ["--model", family, *small, *turns, *numbers, "--trainer.limit_val_batches", "0"]
    assert main([*fit_args, *options, "--trainer.default_root_dir", str(tmp_path)]) == 0
    bare, ours = ends
    assert all(torch.equal(bare[name], weights) for name, weights in ours.items())
    assert [turn.keys() for turn in json.loads(output.read_text())] == [{"ours", "bare"}]
    start = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert start["global_step"] == 4
