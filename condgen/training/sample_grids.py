"""A callback to visualize training progress. It generates samples from the same noise after every epoch."""

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
    """Context manager that puts a module in eval mode, and restores the original mode of all submodules on exit."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


class SampleGrids(Callback):
    """Saves and logs a grid of samples after every epoch, with one row per label.

    The images are saved to ``samples/epoch=000.png``, ``samples/epoch=001.png`` etc., and combined into ``samples.gif``
    at the end of training.

    Families that can reconstruct images also get a ``reconstructions/epoch=000.png`` etc., with a row of validation
    images and a row of reconstructions per label.

    This has no effect on training, as it doesn't touch the global random state or leave the network in eval mode.

    Args:
        samples_per_label: The number of columns in the grid.
        sample_seed: The sampling seed.
        every_n_epochs: How often to save a grid.
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
                log_image(logger, name, image, trainer.global_step - 1)  # same step as val_loss

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        paths = [self.run / "samples" / f"epoch={epoch:03d}.png" for epoch in range(trainer.current_epoch)]
        frames = [frame for path in paths if path.is_file() and (frame := _read_grid(path)) is not None]
        if frames:
            write_gif(frames, self.run / "samples.gif", milliseconds=500, pause=2000)


@torch.no_grad()
def reconstruction_grid(generator: ConditionalGenerator, images: Images, columns: int) -> Tensor | None:
    """Creates a grid of real images and their reconstructions, with two rows per label.

    Args:
        generator: The generator to use.
        images: The real images to reconstruct.
        columns: The maximum number of columns. Reduced if there aren't enough images for some label.

    Returns:
        The grid as a single uint8 image of shape (3, H, W), or None if the family can't reconstruct images.
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
    """Loads a previously saved grid. If the file is damaged, shows a warning and returns None."""
    try:
        return pil_to_tensor(Image.open(path, formats=("PNG",)).convert("RGB"))
    except Exception as error:  # Pillow can raise about ten different exceptions here
        rank_zero_warn(f"{path} is left out of samples.gif, because it cannot be read ({error}).")
        return None
