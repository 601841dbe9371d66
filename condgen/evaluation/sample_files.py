"""Loading of samples from image files, npz files, and folders created by ``condgen predict``.

Since the files may come from an untrusted source, we check their sizes and types before allocating any memory for the
pixels. Only regular files are opened, and only a few image formats are supported.
"""

import csv
import io
import itertools
import math
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.errors import UsageError, short_reason
from condgen.files.images import to_bytes
from condgen.files.pictures import check_levels, gray_8_bit, open_picture
from condgen.files.reading import open_regular, read_limited

MAX_PER_LABEL = 10_000  # samples per label to accept; only the first 1,000 are scored
MAX_ARRAY_BYTES = 2**30  # total size of the images in an npz file
MAX_HEADER_BYTES = 10_000  # size of an array header in an npz file, same limit as in numpy
MAX_MANIFEST_BYTES = 2**26  # each row takes about 50 bytes
SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx")  # created by Windows and macOS


def read_samples(path: Path, data: ImageDataModule) -> Images:
    """Loads uint8 images of shape (N, C, H, W) and their labels of shape (N,).

    Args:
        path: Path to the samples, which can be one of the following:

            - a folder created by ``condgen predict``
            - an npz file with ``images`` of shape (N, C, H, W) or (N, H, W), as bytes or floats in [0, 1], and
              ``labels`` (N,)
            - a folder with one subfolder of images per label, named after the label or the class (with - instead of /)
        data: The dataset to compare the samples with.

    Raises:
        UsageError: If a file is missing, damaged, or too large, if the images don't match the dataset, or if a label
            has no samples.
    """
    found = read_pictures(path, data)
    missing = sorted(set(range(data.num_classes)) - set(found.labels.tolist()))
    if missing:
        raise UsageError(f"{path} has no samples of the labels {missing[:20]}. Scores need samples of every label.")
    return found


def read_pictures(path: Path, data: ImageDataModule) -> Images:
    """Loads images and labels like :func:`read_samples`, but labels may be missing."""
    try:
        if not path.is_dir():
            return _read_npz(path, data)
        if os.path.lexists(path / "manifest.csv"):
            return _read_predictions(path, data)
        return _read_pictures(_list_pictures(path, data), data)
    except OSError as error:
        raise UsageError(
            f"{error.filename or path} cannot be read ({error.strerror or error}). Use a folder of `condgen predict`, "
            "an npz file, or a folder with a subfolder of pictures for each label."
        ) from error


def _check_labels(path: Path, labels: Sequence[int], data: ImageDataModule) -> None:
    """Raises a ``UsageError`` if there are too many samples or if the dataset doesn't have one of the labels."""
    if len(labels) > (most := MAX_PER_LABEL * data.num_classes):
        raise UsageError(f"{path} has more than {most:,} samples. Use at most {MAX_PER_LABEL:,} samples of each label.")
    if labels and not 0 <= min(labels) <= max(labels) < data.num_classes:
        raise UsageError(
            f"{path} has labels from {min(labels)} to {max(labels)}, but the labels of {data.full_name} are 0 to "
            f"{data.num_classes - 1}. Use --data to name the dataset of these samples."
        )


@contextmanager
def _damaged(path: Path, kind: str) -> Iterator[None]:
    """Re-raises any decoding error as a ``UsageError`` that includes the file name.

    We need to catch all exceptions here because Pillow, zipfile, zlib, and numpy raise so many different types.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UsageError | MemoryError) or getattr(error, "filename", None):
            raise  # the file could not be opened
        raise UsageError(f"{path} is not a valid {kind} ({short_reason(error)}). Replace it.") from error


# Folders.


def _read_predictions(folder: Path, data: ImageDataModule) -> Images:
    """Loads the samples listed in the ``manifest.csv`` of a folder."""
    manifest = folder / "manifest.csv"
    with _damaged(manifest, "manifest of `condgen predict`"):
        text = io.StringIO(read_limited(manifest, MAX_MANIFEST_BYTES).decode(), newline="")
        rows = list(itertools.islice(csv.DictReader(text), MAX_PER_LABEL * data.num_classes + 1))
        if mixed := [row["label"] for row in rows if re.search(r"\d[+:-]|none", row["label"])]:
            raise UsageError(f"{manifest} lists the mix {mixed[0]!r:.60}. Scores need samples of plain labels.")
        files = [(folder / Path(row["file"]).name, int(row["label"])) for row in rows]
    if not files:
        raise UsageError(f"{manifest} lists no samples. Generate some with `condgen predict`.")
    _check_labels(manifest, [label for _, label in files], data)
    if files[0][0].suffix != ".npz":
        return _read_pictures(files, data)
    shards = []
    for path, rows_of_shard in itertools.groupby(files, key=lambda row: row[0]):
        shards.append(_read_npz(path, data))
        if shards[-1].labels.tolist() != [label for _, label in rows_of_shard]:
            raise UsageError(f"{path} has other samples than manifest.csv lists. Generate the folder again.")
    return Images(torch.cat([shard.images for shard in shards]), torch.cat([shard.labels for shard in shards]))


def _list_pictures(folder: Path, data: ImageDataModule) -> list[tuple[Path, int]]:
    """Returns the path and label of every image in the subfolders of ``folder``."""

    def visible(folder: Path) -> list[Path]:
        return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower() not in SYSTEM_FILES)

    labels = {name.replace("/", "-"): label for label, name in enumerate(data.classes)}
    labels |= {str(label): label for label in range(data.num_classes)}
    folders = {path.name: path for path in visible(folder) if path.is_dir()}
    files = [
        (path, label)
        for name, label in labels.items()
        if name in folders
        for path in visible(folders[name])
        if not path.is_dir()
    ]
    if not files:
        raise UsageError(f"{folder} has neither a manifest.csv nor folders with pictures, such as {folder / '0'}.")
    if other := ", ".join(folders.keys() - labels.keys()):
        raise UsageError(f"{folder} has folders whose names are not a label of {data.full_name}: {other:.200}.")
    _check_labels(folder, [label for _, label in files], data)
    return files


# Pictures.


def _read_pictures(files: Sequence[tuple[Path, int]], data: ImageDataModule) -> Images:
    images = torch.empty(len(files), *data.image_shape, dtype=torch.uint8)
    for row, (path, _) in enumerate(tqdm(files, desc="Reading", leave=False, mininterval=1, delay=1)):
        images[row] = _read_picture(path, data)
    return Images(images, torch.tensor([label for _, label in files]))


def _read_picture(path: Path, data: ImageDataModule) -> Tensor:
    """Loads an image file as a uint8 tensor of shape (C, H, W)."""
    channels, height, width = data.image_shape
    with _damaged(path, "picture"):
        image = open_picture(path)
        if image.size in ((width, height), (height, width)):  # check before decoding; EXIF data may rotate the image
            if getattr(image, "is_animated", False):
                raise UsageError(f"{path} contains several pictures. Save each picture as a separate file.")
            check_levels(image)
            image = ImageOps.exif_transpose(image)
        if image.size != (width, height):
            found = f"{image.width} x {image.height}"
            raise UsageError(f"{path} has {found} pixels, but images of {data.full_name} have {width} x {height}.")
        return pil_to_tensor(_opaque_8_bit(image, path).convert("L" if channels == 1 else "RGB"))


def _opaque_8_bit(image: Image.Image, path: Path) -> Image.Image:
    """Converts an image to 8 bits per channel and drops its alpha channel, which has to be fully opaque."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        is_opaque = transparent is None or not (np.asarray(image) == transparent).any()
        image = gray_8_bit(image)
    else:
        has_wide_levels = isinstance(transparent, tuple) and max(transparent) > 255  # Pillow only keeps 8 of 16 bits
        image = image if has_wide_levels else image.convert("RGBA")
        is_opaque = not has_wide_levels and image.getchannel("A").getextrema() == (255, 255)
    if not is_opaque:
        raise UsageError(f"{path} has transparent pixels. Flatten the picture onto its background.")
    return image


# Arrays.


def _read_npz(path: Path, data: ImageDataModule) -> Images:
    with _damaged(path, "npz file"), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        (shape, dtype), (labels_shape, labels_dtype) = _read_header(archive, "images"), _read_header(archive, "labels")
        _check_images(path, shape, dtype, data)
        if labels_shape != shape[:1] or labels_dtype.kind not in "iu":
            found = f"{labels_shape} {labels_dtype} labels for {shape[0]:,} images"
            raise UsageError(f"{path} contains {found}. Use one whole number for each image.")
        images, labels = _read_array(archive, "images"), _read_array(archive, "labels")
    _check_labels(path, labels.tolist(), data)
    if images.dtype != np.uint8:
        low, high = (images.min(), images.max()) if images.size else (0, 1)
        if not -1e-6 <= low <= high <= 1 + 1e-6:  # allow for rounding errors
            raise UsageError(f"{path} has pixels from {low:.9g} to {high:.9g}. Use bytes, or floats from 0 to 1.")
        images = to_bytes(torch.from_numpy(images.astype(np.float32))).numpy()
    return Images(torch.from_numpy(images.reshape(-1, *data.image_shape)), torch.from_numpy(labels.astype(np.int64)))


def _read_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Reads the shape and dtype of an array in an npz file without loading the data."""
    with archive.open(f"{name}.npy") as file:
        start = io.BytesIO(file.read(MAX_HEADER_BYTES))
    is_version_1 = np.lib.format.read_magic(start) == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if is_version_1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(start)
    return shape, dtype


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_images(path: Path, shape: tuple[int, ...], dtype: np.dtype, data: ImageDataModule) -> None:
    """Raises a ``UsageError`` if an image array has the wrong shape or dtype, or is too large to load."""
    image_shape = (1, *shape[1:]) if len(shape) == 3 else shape[1:]
    if image_shape != data.image_shape:
        raise UsageError(f"{path} has images of {image_shape}, but {data.full_name} has images of {data.image_shape}.")
    if dtype != np.uint8 and (dtype.kind != "f" or dtype.itemsize > 8):
        raise UsageError(f"{path} has images of type {dtype}. Use bytes, or floats from 0 to 1.")
    size, most = math.prod(shape) * dtype.itemsize, MAX_PER_LABEL * data.num_classes
    if size > MAX_ARRAY_BYTES or shape[0] > most:
        raise UsageError(
            f"{path} has {shape[0]:,} images of {size:,} bytes. Use at most {most:,} images, as bytes if possible."
        )
