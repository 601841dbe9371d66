"""Sets of samples: drawn by a generator, or read from the files that any program has written."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from condgen.batches import Images, SampleRequest, request_loader
from condgen.data import LabelledImages
from condgen.errors import UsageError
from condgen.generators import ConditionalGenerator
from condgen.pictures import grid, to_bytes

BLOCK = 64  # images that are drawn at once, so that memory does not grow with their number


@torch.no_grad()
def draw_bytes(generator: ConditionalGenerator, labels: Tensor, noise: Tensor) -> Tensor:
    """Labels (N,) and noise (N, *noise_shape) to their images (N, C, H, W) uint8, on the CPU."""
    blocks = zip(labels.split(BLOCK), noise.split(BLOCK), strict=True)
    device = generator.device
    return torch.cat([to_bytes(generator.generate(*(part.to(device) for part in block)).float()) for block in blocks])


def draw(trainer: Trainer, generator: ConditionalGenerator, samples_per_label: int) -> tuple[Images, float]:
    """So many samples of each label, drawn by all processes as ``condgen predict`` draws them, and rounded to bytes.

    Returns:
        The samples in their order, the same in every process, and the seconds that it took. A collective.
    """
    began = time.monotonic()
    data: LabelledImages = trainer.datamodule  # type: ignore[attr-defined]
    request = SampleRequest(list(range(data.num_classes)), samples_per_label, 0, data.sample_seed, data.batch_size)
    labels = torch.tensor([request.label_of(index) for index in range(request.end)])
    images = torch.zeros(request.end, *generator.image_shape, dtype=torch.uint8, device=generator.device)
    blocks = request_loader(request, trainer.world_size, trainer.global_rank)
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for block in tqdm(blocks, desc="Drawing", disable=trainer.global_rank > 0, leave=False, mininterval=1):
            wanted = block.indices < request.end
            block = block._replace(labels=block.labels.to(generator.device))
            images[block.indices[wanted]] = to_bytes(generator.predict_step(block))[wanted].to(images)
    images = trainer.strategy.reduce(images, reduce_op="sum")  # every process has zeros for what others have drawn
    return Images(images.cpu(), labels), time.monotonic() - began


def sample_grid(generator: ConditionalGenerator, labels: Sequence[int], samples_per_label: int, seed: int) -> Tensor:
    """The samples number 0, 1, … of a seed, so many of each label, a row a label: an image (3, H, W) uint8."""
    each = torch.tensor(labels).repeat_interleave(samples_per_label)
    return grid(draw_bytes(generator, each, generator.draw_noise(seed, range(len(each)))), samples_per_label)


def read(path: Path, data: LabelledImages) -> Images:
    """Samples in files: bytes (N, C, H, W) and their labels.

    Args:
        path: a folder of ``condgen predict``; an npz file with ``images`` (N, C, H, W) or (N, H, W), bytes or floats in
            [0, 1], and ``labels`` (N,); or a folder with a folder of pictures for each label, called by its number or
            the class's name, with - for /.
        data: the data set whose images they are like.

    Raises:
        UsageError: there are none, they are damaged, or they are not like the data set's images.
    """
    if path.is_file():
        found = _read_npz(path, data)
    elif (path / "manifest.csv").is_file():
        found = _read_predictions(path, data)
    elif path.is_dir():
        found = _read_folders(path, data)
    else:
        raise UsageError(f"There is no {path}: give a folder of `condgen predict`, an npz, or a folder a label.")
    missing = sorted(set(range(data.num_classes)) - set(found.labels.tolist()))
    if missing:
        raise UsageError(f"{path} has no samples of the labels {missing[:20]}: scores need some of every label.")
    return found


def _read_npz(path: Path, data: LabelledImages) -> Images:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = np.asarray(arrays["images"]), np.asarray(arrays["labels"])
    except KeyError as error:
        raise UsageError(f"{path} has no {error.args[0].split()[0]}: it needs the arrays images and labels.") from error
    except Exception as error:  # zipfile, zlib, numpy's header and tokenize raise some ten kinds
        raise UsageError(f"{path} is not a whole npz file ({' '.join(str(error).split())[:200]}).") from error
    if images.ndim == 3:
        images = images[:, None]
    if images.shape[1:] != data.image_shape:
        raise UsageError(
            f"{path} holds images of {images.shape[1:]}, but those of {data.full_name} are {data.image_shape}."
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{path} holds {labels.shape} {labels.dtype} labels for {len(images):,} images: give a whole number each."
        )
    _check_labels(path, labels.tolist(), data)
    if images.dtype != np.uint8:
        if images.dtype.kind != "f":
            raise UsageError(f"{path} holds images of {images.dtype}: give bytes, or floats from 0 to 1.")
        if images.size and not 0 <= images.min() <= images.max() <= 1:
            raise UsageError(
                f"{path} holds images from {images.min():.4g} to {images.max():.4g}: give bytes, or floats from 0 to 1."
            )
        images = to_bytes(torch.from_numpy(images.astype(np.float32))).numpy()
    return Images(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def _check_labels(path: Path, labels: list[int], data: LabelledImages) -> None:
    if labels and not 0 <= min(labels) <= max(labels) < data.num_classes:
        raise UsageError(
            f"{path} has labels from {min(labels)} to {max(labels)}, but those of {data.full_name} are 0 to "
            f"{data.num_classes - 1}: give its own --data."
        )


def _read_predictions(folder: Path, data: LabelledImages) -> Images:
    try:
        with open(folder / "manifest.csv", newline="") as file:
            files = [(folder / Path(row["file"]).name, int(row["label"])) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(
            f"{folder / 'manifest.csv'} is not one of `condgen predict`: draw the samples again."
        ) from error
    if not files:
        raise UsageError(f"{folder} has no samples: draw some with `condgen predict`.")
    _check_labels(folder, [label for _, label in files], data)
    if files[0][0].suffix == ".npz":
        shards = [_read_npz(path, data) for path in dict.fromkeys(path for path, _ in files)]
        return Images(torch.cat([s.images for s in shards]), torch.cat([s.labels for s in shards]))
    return _read_pictures(files, data)


def _read_folders(folder: Path, data: LabelledImages) -> Images:
    names = {name.replace("/", "-"): label for label, name in enumerate(data.classes)}
    names |= {str(label): label for label in range(data.num_classes)}
    files = [
        (path, label)
        for name, label in names.items()
        if (folder / name).is_dir()
        for path in sorted((folder / name).iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]
    if not files:
        raise UsageError(
            f"{folder} has neither a manifest.csv nor folders with pictures of each label, as {folder / str(0)}."
        )
    strange = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in names and p.name[0] != ".")
    if strange:
        raise UsageError(f"{folder} has folders that are no label of {data.full_name}: {', '.join(strange)[:200]}.")
    return _read_pictures(files, data)


def _read_pictures(files: Sequence[tuple[Path, int]], data: LabelledImages) -> Images:
    def pictures() -> Iterator[Tensor]:
        for path, _ in tqdm(files, desc="Reading", leave=False, mininterval=1, delay=1):
            try:
                picture = pil_to_tensor(Image.open(path).convert("L" if data.image_shape[0] == 1 else "RGB"))
            except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
                raise UsageError(f"{path} is not a whole picture ({' '.join(str(error).split())[:200]}).") from error
            if picture.shape != data.image_shape:
                shape = tuple(picture.shape)
                raise UsageError(
                    f"{path} is a picture of {shape}, but those of {data.full_name} are {data.image_shape}."
                )
            yield picture

    return Images(torch.stack(list(pictures())), torch.tensor([label for _, label in files]))
