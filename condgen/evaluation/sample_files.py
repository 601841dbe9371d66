"""Reads samples from files that any program may have written: pictures, arrays, and what ``condgen predict`` writes.

The files may come from anybody. So sizes and types are checked before memory is taken for pixels, only regular files
are opened, and pictures only in a fixed list of formats.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import warnings
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
from condgen.errors import UsageError
from condgen.files.images import to_bytes
from condgen.files.reading import open_regular, read_limited

MAX_PER_LABEL = 10_000  # samples in files; scores are of the first 1,000 of each label
MAX_ARRAY_BYTES = 2**30  # of the images in an npz file
MAX_PICTURE_BYTES = 2**26  # of a picture's file: one of 4096 x 4096 pixels, not compressed
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not EPS, which starts Ghostscript
ROUNDING = 1e-6  # how far floats may be out of [0, 1]


def read_samples(path: Path, data: ImageDataModule) -> Images:
    """The samples in files: images (N, C, H, W) uint8 and their labels (N,).

    Args:
        path: a folder of ``condgen predict``; an npz file with ``images`` (N, C, H, W) or (N, H, W), bytes or floats in
            [0, 1], and ``labels`` (N,); or a folder with a folder of pictures for each label, named by its number or
            its class, with - for /.
        data: the data set that the samples are compared with.

    Raises:
        UsageError: a file is missing, damaged or too large, or holds other images than the data set's.
    """
    try:
        if not path.is_dir():
            found = _read_npz(path, data)
        elif os.path.lexists(path / "manifest.csv"):
            found = _read_predictions(path, data)
        else:
            found = _read_folders(path, data)
    except OSError as error:
        raise UsageError(
            f"{error.filename or path} cannot be read ({error.strerror or error}): give a folder of `condgen predict`, "
            "an npz file, or a folder with a folder of pictures for each label."
        ) from error
    missing = sorted(set(range(data.num_classes)) - set(found.labels.tolist()))
    if missing:
        raise UsageError(f"{path} has no samples of the labels {missing[:20]}: scores need samples of every label.")
    return found


def _check_count(path: Path, number: int, data: ImageDataModule) -> None:
    if number > (most := MAX_PER_LABEL * data.num_classes):
        raise UsageError(
            f"{path} has {number:,} samples, or more: give at most {most:,}, {MAX_PER_LABEL:,} for each label."
        )


def _check_labels(path: Path, labels: list[int], data: ImageDataModule) -> None:
    if labels and not 0 <= min(labels) <= max(labels) < data.num_classes:
        raise UsageError(
            f"{path} has labels from {min(labels)} to {max(labels)}, but those of {data.full_name} are 0 to "
            f"{data.num_classes - 1}: give the data set of these samples as --data."
        )


# Folders.


def _read_predictions(folder: Path, data: ImageDataModule) -> Images:
    """The samples that a ``manifest.csv`` lists."""
    most = MAX_PER_LABEL * data.num_classes
    manifest = folder / "manifest.csv"
    try:
        with io.TextIOWrapper(open_regular(manifest), encoding="utf-8", newline="") as file:
            rows = itertools.islice(csv.DictReader(file), most + 1)
            files = [(folder / Path(row["file"]).name, int(row["label"])) for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{manifest} is not one of `condgen predict` ({_cause(error)}): generate it again.") from error
    if not files:
        raise UsageError(f"{manifest} lists no samples: generate some with `condgen predict`.")
    _check_count(manifest, len(files), data)
    _check_labels(manifest, [label for _, label in files], data)
    if files[0][0].suffix != ".npz":
        return _read_pictures(files, data)
    listed: dict[Path, list[int]] = {}
    for path, label in files:
        listed.setdefault(path, []).append(label)
    shards = []
    for path, labels in listed.items():
        shards.append(_read_npz(path, data))
        if shards[-1].labels.tolist() != labels:
            raise UsageError(
                f"{path} has {len(shards[-1]):,} samples, not the {len(labels):,} that manifest.csv lists or with "
                "other labels: generate the folder again."
            )
    return Images(torch.cat([shard.images for shard in shards]), torch.cat([shard.labels for shard in shards]))


def _is_systems(path: Path) -> bool:
    """Whether a file or folder is hidden, or one that Windows or macOS adds by itself."""
    return path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


def _read_folders(folder: Path, data: ImageDataModule) -> Images:
    """The pictures in a folder for each label."""
    names = {name.replace("/", "-"): label for label, name in enumerate(data.classes)}
    names |= {str(label): label for label in range(data.num_classes)}
    files = [
        (path, label)
        for name, label in names.items()
        if (folder / name).is_dir()
        for path in sorted((folder / name).iterdir())
        if not path.is_dir() and not _is_systems(path)
    ]
    if not files:
        raise UsageError(
            f"{folder} has neither a manifest.csv nor folders with pictures of each label, as {folder / str(0)}."
        )
    strange = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in names and not _is_systems(p))
    if strange:
        raise UsageError(f"{folder} has folders that are no label of {data.full_name}: {', '.join(strange)[:200]}.")
    _check_count(folder, len(files), data)
    return _read_pictures(files, data)


# Pictures.


def _read_pictures(files: Sequence[tuple[Path, int]], data: ImageDataModule) -> Images:
    images = torch.empty(len(files), *data.image_shape, dtype=torch.uint8)
    for row, (path, _) in enumerate(tqdm(files, desc="Reading", leave=False, mininterval=1, delay=1)):
        images[row] = _read_picture(path, data)
    return Images(images, torch.tensor([label for _, label in files]))


def _read_picture(path: Path, data: ImageDataModule) -> Tensor:
    """The pixels of a picture: (C, H, W) uint8."""
    channels, height, width = data.image_shape
    with _naming(path, "picture"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(io.BytesIO(read_limited(path, MAX_PICTURE_BYTES)), formats=PICTURE_FORMATS)
        if image.size in ((width, height), (height, width)):  # checked before it is decoded; EXIF may turn it
            _check_kind(image, path)
            image.load()
            image = ImageOps.exif_transpose(image)
        if image.size != (width, height):
            raise UsageError(
                f"{path} is a picture of {image.width} x {image.height} pixels, but those of {data.full_name} have "
                f"{width} x {height}."
            )
        return pil_to_tensor(_opaque_8_bit(image, path).convert("L" if channels == 1 else "RGB"))


def _check_kind(image: Image.Image, path: Path) -> None:
    """Refuses a picture with several frames, and levels of which Pillow does not tell the range."""
    if getattr(image, "is_animated", False):
        raise UsageError(f"{path} holds several pictures: save each as a file of its own.")
    known = image.mode != "F"
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        unsigned = set(tags.get(339, (1,))) == {1}  # SampleFormat
        sixteen_bits = tags.get(258) == (16,) and tags.get(262) == 1  # BitsPerSample; PhotometricInterpretation
        known = unsigned and (sixteen_bits or not image.mode.startswith("I"))
    if not known:
        raise UsageError(f"{path} is a {image.format} picture of mode {image.mode}: save it with 8 bits a channel.")


def _opaque_8_bit(image: Image.Image, path: Path) -> Image.Image:
    """A picture with 8 bits a channel and without its alpha channel, which must be opaque everywhere."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16 bits: I;16, I;16B, or I in PGM files and older releases of Pillow
        levels = np.asarray(image).astype(np.int64)
        opaque = transparent is None or not (levels == transparent).any()
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif isinstance(transparent, tuple) and max(transparent) > 255:
        opaque = False  # a colour of 16 bits, of which Pillow keeps 8
    else:
        image = image.convert("RGBA")
        opaque = image.getchannel("A").getextrema() == (255, 255)
    if not opaque:
        raise UsageError(f"{path} has transparent pixels: flatten it onto its background.")
    return image


# Arrays.


def _read_npz(path: Path, data: ImageDataModule) -> Images:
    with _naming(path, "npz file"), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        _check_arrays(path, _array_type(archive, "images"), _array_type(archive, "labels"), data)
        images, labels = _read_array(archive, "images"), _read_array(archive, "labels")
    _check_labels(path, labels.tolist(), data)
    if images.dtype != np.uint8:
        if images.size and not -ROUNDING <= images.min() <= images.max() <= 1 + ROUNDING:
            raise UsageError(
                f"{path} holds images from {images.min():.9g} to {images.max():.9g}: give bytes, or floats from 0 to 1."
            )
        images = to_bytes(torch.from_numpy(images.astype(np.float32))).numpy()
    return Images(torch.from_numpy(images.reshape(-1, *data.image_shape)), torch.from_numpy(labels.astype(np.int64)))


ArrayType = tuple[tuple[int, ...], np.dtype]  # shape and dtype
MAX_HEADER = 10_000  # bytes: numpy's own limit


def _array_type(archive: zipfile.ZipFile, name: str) -> ArrayType:
    """The shape and dtype of an array, of which only the header is read."""
    with archive.open(f"{name}.npy") as file:
        start = io.BytesIO(file.read(MAX_HEADER))
    version = np.lib.format.read_magic(start)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(start)
    return shape, dtype


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_arrays(path: Path, images: ArrayType, labels: ArrayType, data: ImageDataModule) -> None:
    """Refuses arrays that are not images and labels of the data set, before they are read."""
    (shape, dtype), (labels_shape, labels_dtype) = images, labels
    image_shape = (1, *shape[1:]) if len(shape) == 3 else shape[1:]
    if image_shape != data.image_shape:
        raise UsageError(f"{path} holds images of {image_shape}, but those of {data.full_name} are {data.image_shape}.")
    if labels_shape != shape[:1] or labels_dtype.kind not in "iu":
        raise UsageError(
            f"{path} holds {labels_shape} {labels_dtype} labels for {shape[0]:,} images: give a whole number each."
        )
    if dtype != np.uint8 and (dtype.kind != "f" or dtype.itemsize > 8):
        raise UsageError(f"{path} holds images of {dtype}: give bytes, or floats from 0 to 1.")
    if (size := math.prod(shape) * dtype.itemsize) > MAX_ARRAY_BYTES:
        raise UsageError(
            f"{path} holds images of {size:,} bytes: give at most {MAX_ARRAY_BYTES:,}, as bytes if possible."
        )
    _check_count(path, shape[0], data)


@contextmanager
def _naming(path: Path, kind: str) -> Iterator[None]:
    """Names the file whatever a decoder raises: Pillow, zipfile, zlib and numpy raise some ten kinds of exceptions."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UsageError | MemoryError) or getattr(error, "filename", None):
            raise  # the file itself cannot be opened
        raise UsageError(f"{path} is not a whole {kind} ({_cause(error)}): replace it.") from error


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
