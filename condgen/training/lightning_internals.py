"""The only file that uses private parts of Lightning, each with its reason."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import Tensor

from condgen.checkpoints.restore import restoring


class CheckpointConnector(_CheckpointConnector):
    """Lightning's restoring of checkpoints, which does not expect them to be of any other making than its own."""

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The path as it was given. Without one, Lightning would start a new training from an ``hpc_ckpt_1.ckpt`` of a
        SLURM job, or from the file of an OnExceptionCheckpoint."""
        return ckpt_path

    def _restore_modules_and_callbacks(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        with restoring(checkpoint_path):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        with restoring(self._ckpt_path):
            super().restore_training_state()

    def restore_loops(self) -> None:
        """With ``max_steps`` Lightning takes an epoch's end for a place within the epoch, and ends the epoch again."""
        super().restore_loops()
        epochs = self.trainer.fit_loop.epoch_progress.current
        if epochs.processed == epochs.ready:  # type: ignore[attr-defined]
            _Loop.restarting.fset(self.trainer.fit_loop, False)  # type: ignore[attr-defined]

    def restore_optimizers(self) -> None:
        """Also refuses state of another shape than its weights', through which a fused optimiser reads and writes."""
        if len(self._loaded_checkpoint["optimizer_states"]) != len(self.trainer.optimizers):
            raise ValueError("another number of optimisers")
        super().restore_optimizers()
        for optimizer in self.trainer.optimizers:
            for weights, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.ndim and value.shape != weights.shape:
                        raise ValueError(f"{name} has the shape {value.shape}, its weights {weights.shape}")
