"""A grid of samples after every epoch, from the same noise every time: one sees what the epoch changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.errors import check_number
from condgen.evaluation.scores import first_of_each_label, rows_of
from condgen.files.images import grid, to_bytes, write_gif, write_png
from condgen.generators import ConditionalGenerator
from condgen.sampling.generate import BLOCK, sample_grid
from condgen.training.loggers import log_image


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode, and its parts back into the mode that each was in."""
    was_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in was_training:
            part.training = True


class SampleGrids(Callback):
    """Writes ``samples/epoch=000.png`` …, a row a label, also to loggers; at the end, all as ``samples.gif``.

    Where a family reconstructs images, there is a second grid, ``reconstructions/epoch=000.png``: a row of validation
    images of each label, and below it what the family makes of them.

    It changes nothing in the training: the network is set to eval mode and back, and no generator's state is touched.

    Args:
        samples_per_label: columns of the grid.
        sample_seed: the seed of the noise.
        every_n_epochs: take it after every so many epochs.
    """

    def __init__(self, samples_per_label: int = 10, sample_seed: int = 0, every_n_epochs: int = 1) -> None:
        check_number("sample_grids.samples_per_label", samples_per_label, at_least=1, at_most=1_000)
        check_number("sample_grids.sample_seed", sample_seed, at_least=0, at_most=2**64 - 1)
        check_number("sample_grids.every_n_epochs", every_n_epochs, at_least=1)
        self.samples_per_label, self.sample_seed, self.every_n_epochs = samples_per_label, sample_seed, every_n_epochs
        self.run = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.run = Path(str(trainer.log_dir))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ConditionalGenerator)
        if trainer.is_global_zero and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
            with evaluating(pl_module):
                labels = range(pl_module.num_classes)
                pictures = {
                    "samples": sample_grid(pl_module, labels, self.samples_per_label, self.sample_seed),
                    "reconstructions": self.reconstruct(pl_module, data.val_images),
                }
            for name, picture in pictures.items():
                if picture is None:
                    continue
                write_png(picture, self.run / name / f"epoch={trainer.current_epoch:03d}.png")
                for logger in trainer.loggers:
                    log_image(logger, name, picture, trainer.global_step - 1)  # the step of val_loss

    @torch.no_grad()
    def reconstruct(self, generator: ConditionalGenerator, real: Images) -> Tensor | None:
        """The grid of real images and their reconstructions (3, H, W) uint8; None where the family makes none."""
        there = real.labels.bincount()
        columns = min(self.samples_per_label, int(there[there > 0].min()))
        shown = rows_of(real, first_of_each_label(real, dict.fromkeys(real.labels.unique().tolist(), columns)))
        drawn = []
        for images, labels in zip(shown.images.split(BLOCK), shown.labels.split(BLOCK), strict=True):
            images, labels = images.to(generator.device), labels.to(generator.device)
            reconstructions = generator.reconstruct(images.float().div(255), labels)
            if reconstructions is None:
                return None
            drawn.append(to_bytes(reconstructions.float()))
        pairs = torch.stack((shown.images, torch.cat(drawn)))
        pairs = pairs.unflatten(1, (-1, columns)).transpose(0, 1)  # (labels, 2, columns, C, H, W)
        return grid(pairs.flatten(0, 2), columns)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        epochs = range(trainer.current_epoch)
        paths = [path for epoch in epochs if (path := self.run / "samples" / f"epoch={epoch:03d}.png").is_file()]
        frames = [frame for path in paths if (frame := _read_grid(path)) is not None]
        if frames:
            write_gif(frames, self.run / "samples.gif", milliseconds=500, pause=2000)


def _read_grid(path: Path) -> Tensor | None:
    """A grid that an earlier epoch wrote, (3, H, W) uint8; None, with a warning, if the file is damaged."""
    try:
        return pil_to_tensor(Image.open(path, formats=("PNG",)).convert("RGB"))
    except Exception as error:  # Pillow raises some ten kinds
        rank_zero_warn(f"{path} is left out of samples.gif: it cannot be read ({error}).")
        return None
