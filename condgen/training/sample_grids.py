"""The callback that writes a grid of samples after every epoch. The noise is the same each time, to show progress."""

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
    """Sets a module to eval mode within a ``with`` block, and restores the mode of each submodule afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


class SampleGrids(Callback):
    """Writes a grid of samples after every epoch, with one row for each label.

    The grids are saved as ``samples/epoch=000.png``, ``samples/epoch=001.png`` and so on, and are sent to the loggers.
    At the end of training, ``samples.gif`` shows all grids.

    If the family can reconstruct images, the callback also writes ``reconstructions/epoch=000.png`` and so on. For each
    label, they show a row of validation images and a row of their reconstructions.

    The callback does not change the training result: it restores the mode of the network and does not use the global
    random generators.

    Args:
        samples_per_label: Number of columns of the grid.
        sample_seed: Seed of the noise.
        every_n_epochs: Number of epochs from one grid to the next.
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
        if not trainer.is_global_zero or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        with evaluating(pl_module):
            labels = range(pl_module.num_classes)
            samples = sample_grid(pl_module, labels, self.samples_per_label, self.sample_seed)
            reconstructions = reconstruction_grid(pl_module, data.val_images, self.samples_per_label)
        for name, image in (("samples", samples), ("reconstructions", reconstructions)):
            if image is None:
                continue
            write_png(image, self.run / name / f"epoch={trainer.current_epoch:03d}.png")
            for logger in trainer.loggers:
                log_image(logger, name, image, trainer.global_step - 1)  # the step at which val_loss is logged

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        paths = [self.run / "samples" / f"epoch={epoch:03d}.png" for epoch in range(trainer.current_epoch)]
        frames = [frame for path in paths if path.is_file() and (frame := _read_grid(path)) is not None]
        if frames:
            write_gif(frames, self.run / "samples.gif", milliseconds=500, pause=2000)


@torch.no_grad()
def reconstruction_grid(generator: ConditionalGenerator, images: Images, columns: int) -> Tensor | None:
    """Creates a grid with a row of real images and a row of their reconstructions for each label.

    Args:
        generator: Generator that reconstructs the images.
        images: Real images and their labels.
        columns: Number of columns. If a label has fewer images, all rows are as short as the row of this label.

    Returns:
        The grid as one image with shape (3, H, W) and dtype uint8; None if the family cannot reconstruct images.
    """
    counts = images.labels.bincount()
    columns = min(columns, int(counts[counts > 0].min()))
    shown = rows_of(images, first_of_each_label(images, dict.fromkeys(images.labels.unique().tolist(), columns)))
    blocks = []
    for real, labels in zip(shown.images.split(BLOCK), shown.labels.split(BLOCK), strict=True):
        real, labels = real.to(generator.device), labels.to(generator.device)
        reconstructions = generator.reconstruct(real.float().div(255), labels)
        if reconstructions is None:
            return None
        blocks.append(to_bytes(reconstructions.float()))
    pairs = torch.stack((shown.images, torch.cat(blocks)))
    pairs = pairs.unflatten(1, (-1, columns)).transpose(0, 1)  # (labels, 2, columns, C, H, W)
    return grid(pairs.flatten(0, 2), columns)


def _read_grid(path: Path) -> Tensor | None:
    """Reads the grid of an earlier epoch, (3, H, W) uint8. Returns None and warns if the file is damaged."""
    try:
        return pil_to_tensor(Image.open(path, formats=("PNG",)).convert("RGB"))
    except Exception as error:  # Pillow raises about ten types of exceptions for damaged files
        rank_zero_warn(f"{path} is left out of samples.gif, because it cannot be read ({error}).")
        return None
