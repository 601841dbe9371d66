"""The private APIs of Lightning that condgen uses. A test fails if a new version of Lightning changes one of them."""

from __future__ import annotations

import re

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, OnExceptionCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.utils.data import DataLoader, TensorDataset

from condgen.errors import UsageError
from condgen.training.lightning_internals import (
    ignore_other_checkpoints,
    name_checkpoint_in_errors,
    resume_between_epochs,
    rewind_to_batch_end,
    trains_in_children,
)

QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False,
}  # fmt: skip
SLURM = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class LinearModule(LightningModule):
    """A linear layer, trained on four batches per epoch, that records the batches and the ends of epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.batches: list[tuple[int, int]] = []
        self.ended_epochs: list[int] = []

    def training_step(self, batch, batch_idx):
        self.batches.append((self.current_epoch, batch_idx))
        return self.layer(batch[0]).square().mean()

    def on_train_epoch_end(self):
        self.ended_epochs.append(self.current_epoch)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(4, 1)))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class SavesAtEpochEnd(Callback):
    """Saves a checkpoint in on_train_epoch_end, like condgen."""

    def __init__(self, path, rewind=False):
        self.path, self.rewind = path, rewind

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        if self.rewind:
            rewind_to_batch_end(checkpoint["loops"]["fit_loop"])


@pytest.fixture
def saved(tmp_path):
    """A checkpoint from the end of the first epoch."""
    path = tmp_path / "epoch.ckpt"
    Trainer(max_epochs=1, callbacks=[SavesAtEpochEnd(path)], **QUIET).fit(LinearModule())
    return path


@pytest.mark.parametrize("found", ["OnExceptionCheckpoint", "SLURM"])
def test_fit_without_ckpt_path_ignores_checkpoints_that_lightning_would_load(found, saved, tmp_path, monkeypatch):
    options = {**QUIET, "default_root_dir": tmp_path}
    if found == "SLURM":
        saved.rename(tmp_path / "hpc_ckpt_1.ckpt")
        for name, value in SLURM.items():
            monkeypatch.setenv(name, value)
    else:
        options |= {"callbacks": [OnExceptionCheckpoint(tmp_path, "epoch")], "enable_checkpointing": True}
    for fixed, first_batch in ((False, (1, 0)), (True, (0, 0))):
        trainer, module = Trainer(max_epochs=2, **options), LinearModule()
        if fixed:
            ignore_other_checkpoints(trainer)
        trainer.fit(module, weights_only=False)
        assert module.batches[0] == first_batch


def test_fit_with_ckpt_path_loads_it_while_other_checkpoints_are_ignored(saved):
    trainer, module = Trainer(max_epochs=2, **QUIET), LinearModule()
    ignore_other_checkpoints(trainer)
    trainer.fit(module, ckpt_path=saved, weights_only=True)
    assert module.batches == [(1, 0), (1, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize("part", ["optimizer_states", "loops", "lr_schedulers", "callbacks", "state_dict"])
def test_error_while_restoring_a_checkpoint_names_the_checkpoint(part, saved):
    checkpoint = torch.load(saved, weights_only=True)
    torch.save(checkpoint | {part: 3}, saved)
    trainer = Trainer(max_epochs=2, **QUIET)
    name_checkpoint_in_errors(trainer, saved)
    with pytest.raises(UsageError, match=re.escape(str(saved))):
        trainer.fit(LinearModule(), ckpt_path=saved, weights_only=True)


def test_error_after_restoring_a_checkpoint_keeps_its_type(saved):
    class Failing(LinearModule):
        def training_step(self, batch, batch_idx):
            raise ZeroDivisionError

    trainer = Trainer(max_epochs=2, **QUIET)
    name_checkpoint_in_errors(trainer, saved)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(Failing(), ckpt_path=saved, weights_only=True)


def test_resume_from_epoch_end_with_max_steps_starts_the_next_epoch(saved):
    for fixed, ended_epochs in ((False, [0]), (True, [1])):  # Lightning alone repeats the end of epoch 0
        trainer, module = Trainer(max_epochs=2, max_steps=8, **QUIET), LinearModule()
        if fixed:
            resume_between_epochs(trainer)
        trainer.fit(module, ckpt_path=saved, weights_only=True)
        assert module.ended_epochs == ended_epochs
    assert module.batches == [(1, 0), (1, 1), (1, 2), (1, 3)]


def test_resume_after_max_steps_mid_epoch_trains_the_rest_of_the_epoch(tmp_path):
    path = tmp_path / "step.ckpt"
    Trainer(max_steps=2, callbacks=[SavesAtEpochEnd(path, rewind=True)], **QUIET).fit(LinearModule())
    trainer, module = Trainer(max_steps=6, **QUIET), LinearModule()
    resume_between_epochs(trainer)
    trainer.fit(module, ckpt_path=path, weights_only=True)
    assert [epoch for epoch, _ in module.batches] == [0, 0, 1, 1]
    assert module.batches[0] == (0, 2)
    assert trainer.global_step == trainer.fit_loop.state_dict()["epoch_loop.state_dict"]["_batches_that_stepped"]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("ddp_spawn", True), ("ddp_fork", True), ("ddp_notebook", True), ("ddp", False), ("auto", False)],
)
def test_trains_in_children_recognizes_strategies_that_spawn_or_fork(strategy, expected):
    trainer = Trainer(devices=2 if strategy != "auto" else 1, strategy=strategy, **QUIET)
    assert isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy)
    assert trains_in_children(trainer.strategy) is expected
