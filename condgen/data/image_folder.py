"""A dataset of your own images, with one folder per class."""

import contextlib
import functools
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.errors import UsageError, check_number, short_reason
from condgen.files.atomic import atomic_write
from condgen.files.pictures import PICTURE_FORMATS, PICTURE_SUFFIXES, check_levels, gray_8_bit, is_gray, open_picture
from condgen.files.reading import read_limited

CACHE = ".condgen"  # folder under the root for the decoded images
CACHE_VERSION = 1  # increment this if the decoding changes
CHUNK = 256  # number of images to decode before writing them
HELD_OUT = 10  # one in ten images is used for testing if there is no test folder
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")  # if there are several, we use the first one
MAX_LISTED_BYTES = 2**26  # maximum size of the list of unreadable images


class Picture(NamedTuple):
    """An image file with its path relative to the root, its class name, and whether it's used for testing."""

    path: str
    name: str
    is_test: bool


class ImageFolder(ImageDataModule):
    """Your own images: ``root/cat/*.png``, ``root/dog/*.jpg``, or ``root/train/cat/…`` and ``root/test/cat/…``.

    Each folder is a class and gives the class its name. Classes are sorted alphabetically. The images can also be in
    nested folders. The test folder can also be called ``testing``, ``val``, ``valid``, or ``validation``. If there is
    none, a tenth of each class is held out for testing. Whether an image is held out depends on a hash of its file
    name, so adding images doesn't change the split of the existing ones. Hidden files and folders are ignored, and so
    are files that don't have an image file extension.

    Images are rotated based on their EXIF orientation, resized so that the shorter side has ``image_size`` pixels, and
    cropped to the central square. Only the first frame of an animation is used. The decoded images are cached in
    ``root/.condgen`` and memory-mapped.

    Args:
        root: The folder that contains the images.
        image_size: The height and width of the images. Must be a multiple of 4 between 16 and 64.
        channels: 1 for grayscale or 3 for color. Defaults to 1 if all images are stored as grayscale, and to 3
            otherwise.
        background: The color to use behind transparent pixels.
        skip_unreadable: Whether to skip images that can't be read instead of raising an error.
        classes: The class names, in the order of their labels. Defaults to the folder names, or to the names in the
            checkpoint if there is one.
        **settings: Settings shared by all datasets.
    """

    image_settings = ("root", "image_size", "channels", "background")

    def __init__(
        self,
        root: str = "data",
        image_size: int = 32,
        channels: Literal[1, 3] | None = None,
        background: Literal["white", "black"] = "white",
        skip_unreadable: bool = False,
        classes: list[str] | None = None,
        **settings: Any,
    ) -> None:
        check_number("data.image_size", image_size, at_least=16, at_most=64)
        if image_size % 4:
            raise UsageError(f"data.image_size is {image_size}: use a multiple of 4.")
        self.root = Path(root)
        self.classes = tuple(classes if classes is not None else sorted({picture.name for picture in self._pictures}))
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise UsageError(f"data.classes is {', '.join(self.classes)!r:.200}. Use at least two different names.")
        channels = channels or (1 if all(_is_gray(self.root / picture.path) for picture in self._pictures) else 3)
        self.image_shape = (channels, image_size, image_size)
        self.background, self.skip_unreadable = background, skip_unreadable
        super().__init__(root=root, **settings)
        # saved so that checkpoints can be loaded without the images
        self.hparams.update(classes=list(self.classes), channels=channels)

    @property
    def full_name(self) -> str:
        channels, height, width = self.image_shape
        return f"{self.root.resolve().name}-{height}x{width}x{channels}"

    @property
    def own_folder(self) -> Path:
        return self.root / CACHE

    @functools.cached_property
    def _pictures(self) -> list[Picture]:
        return list_pictures(self.root)

    def download(self) -> None:
        """Decodes the images and writes them to the cache. Lightning calls this in one process per machine."""
        if self._can_write:
            self._read_or_decode(self._pictures)

    def read(self) -> tuple[Images, Images]:
        self.hparams["source"] = "full"
        images, skipped = self._read_or_decode(self._pictures)
        pictures = [picture for picture in self._pictures if picture.path not in skipped]
        label_of = {name: label for label, name in enumerate(self.classes)}
        labels = torch.tensor([label_of[picture.name] for picture in pictures])
        number = sum(not picture.is_test for picture in pictures)  # number of training images, which come first
        if skipped:
            rank_zero_warn(f"{len(skipped):,} pictures in {self.root} cannot be read and are left out.")
        if empty := set(self.classes) - {picture.name for picture in pictures[:number]}:
            raise UsageError(f"The class {min(empty)} in {self.root} has no readable training picture. Add some.")
        self._check_test_pictures(pictures)
        return Images(images[:number], labels[:number]), Images(images[number:], labels[number:])

    def _read_or_decode(self, pictures: Sequence[Picture]) -> tuple[Tensor, set[str]]:
        """Loads the decoded images from the cache, or decodes them if they aren't cached yet.

        Returns:
            The readable images of shape (N, C, H, W) and dtype uint8, along with the paths of the unreadable ones.

        Raises:
            UsageError: If the folder has different classes, an image can't be read and ``skip_unreadable`` is off, or
                the cache is damaged.
        """
        found = sorted({picture.name for picture in pictures})
        if found != sorted(self.classes):
            raise UsageError(
                f"{self.root} has the classes {', '.join(found):.200}, but the checkpoint or data.classes has "
                f"{', '.join(self.classes):.200}. Use the folder that contains these classes as --data.root."
            )
        self._check_test_pictures(pictures)
        if os.path.lexists(self.own_folder) and not self.own_folder.is_dir():
            raise UsageError(f"{self.own_folder} is not a folder. Remove it: condgen needs a folder with this name.")
        path = self._cache_path(pictures)
        is_cached = path.is_file() and path.with_suffix(".json").is_file()
        if not is_cached and not self._can_write:
            rank_zero_warn(f"{self.own_folder} cannot be written: the pictures are decoded again in each run.")
            skipped: list[tuple[str, str]] = []
            images = [torch.empty(0, *self.image_shape, dtype=torch.uint8)]  # in case all images are unreadable
            images += [image[None] for image in self._decode(pictures, skipped)]
            return torch.cat(images), {name for name, _ in skipped}
        if not is_cached:
            self._write_cache(pictures, path)
        try:
            listed = json.loads(read_limited(path.with_suffix(".json"), MAX_LISTED_BYTES))
            skipped = [(name, reason) for name, reason in listed]
            shape = (len(pictures) - len(skipped), *self.image_shape)
            size = torch.Size(shape).numel()
        except (OSError, TypeError, ValueError):
            size = -1
        if path.stat().st_size != size:
            raise UsageError(f"{path} is damaged. Remove it: condgen decodes the pictures again.")
        self._check_readable(skipped)
        # shared=False makes this a copy-on-write mapping, so multiple processes still share its memory.
        cached = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(shape)
        return cached, {name for name, _ in skipped}

    def _check_readable(self, skipped: Sequence[tuple[str, str]]) -> None:
        if skipped and not self.skip_unreadable:
            path, reason = skipped[0]
            raise UsageError(
                f"{self.root / path} cannot be read ({reason}). Replace it, or use --data.skip_unreadable true "
                "to leave out all unreadable files."
            )

    def _check_test_pictures(self, pictures: Sequence[Picture]) -> None:
        if not any(picture.is_test for picture in pictures):
            raise UsageError(
                f"{self.root} has no test pictures. Add more pictures, of which a tenth is used for testing, or put "
                "them into the folders train and test."
            )

    def _cache_path(self, pictures: Sequence[Picture]) -> Path:
        """Returns the path of the cache file, which changes whenever an image or a setting changes."""
        files = [(*picture, *_size_and_time(self.root / picture.path)) for picture in pictures]
        settings = [CACHE_VERSION, self.image_shape, self.background]
        fingerprint = hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()[:16]
        channels, height, width = self.image_shape
        return self.own_folder / f"{height}x{width}x{channels}-{self.background}-{fingerprint}.images"

    @property
    def _can_write(self) -> bool:
        """Whether we are able and allowed to save decoded images under the root."""
        return self.may_download and os.access(self.own_folder if self.own_folder.is_dir() else self.root, os.W_OK)

    def _write_cache(self, pictures: Sequence[Picture], path: Path) -> None:
        skipped: list[tuple[str, str]] = []
        try:
            with atomic_write(path) as file:
                for image in self._decode(pictures, skipped):
                    file.write(image.numpy().tobytes())
                with atomic_write(path.with_suffix(".json")) as listed:  # written first because it describes the images
                    listed.write(json.dumps(skipped).encode())
        except UsageError:
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()
            raise
        former = path.name.rpartition("-")[0]
        for old in path.parent.glob(f"{former}-*"):
            if old.stem != path.stem:
                old.unlink(missing_ok=True)

    def _decode(self, pictures: Sequence[Picture], skipped: list[tuple[str, str]]) -> Iterator[Tensor]:
        """Decodes images in order, and appends the (path, reason) of each unreadable one to ``skipped``.

        Yields:
            The readable images, each of shape (C, H, W) and dtype uint8.
        """
        decode = functools.partial(read_picture, image_shape=self.image_shape, background=self.background)
        bar = tqdm(total=len(pictures), desc="Reading pictures", leave=False, mininterval=1, delay=1)
        with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(pictures), CHUNK):
                chunk = pictures[start : start + CHUNK]
                for picture, found in zip(chunk, pool.map(decode, [self.root / p.path for p in chunk]), strict=True):
                    bar.update()
                    if isinstance(found, str):
                        skipped.append((picture.path, found))
                        self._check_readable(skipped)
                    else:
                        yield found


def list_pictures(root: Path) -> list[Picture]:
    """Lists the images in a folder. Training images come first, and each split is sorted by class and path.

    Raises:
        UsageError: If the folder doesn't exist, has fewer than two classes, or mixes classes and splits, if a class has
            no images or a name that can't be used, or if a link points to a folder or to a file outside of ``root``.
    """
    if not os.path.isdir(root):
        problem = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise UsageError(f"{root} {problem}. Use a folder with one folder of pictures per class as --data.root.")
    train, test = _split_folders(root)
    train_classes, test_classes = _class_folders(train), _class_folders(test) if test else {}
    if len(train_classes) < 2:
        inner = next((folder for folder in train_classes.values() if len(_folders(folder)) > 1), None)
        advice = f"Use --data.root {inner}" if inner else "Put the pictures of each class into a folder with its name"
        raise UsageError(f"{train} has fewer than two class folders. {advice}.")
    if test and not test_classes:
        raise UsageError(f"{test} has no class folders. Add them, or remove {test} to test on a tenth of {train}.")
    if unknown := sorted(test_classes.keys() - train_classes.keys()):
        raise UsageError(f"{test} has the class {unknown[0]}, which {train} does not have. Add or remove it.")
    training, testing = [], []
    for name, folder in train_classes.items():
        paths = _pictures_in(folder, root)
        if not paths:
            formats = ", ".join(PICTURE_FORMATS)
            raise UsageError(f"{folder} has no pictures. Add some ({formats}), or remove the folder.")
        held_out = set() if test else {p for p in paths if _hash(Path(p).name) % HELD_OUT == 0}
        held_out = set() if len(held_out) == len(paths) else held_out  # a class needs at least one training image
        training += [Picture(path, name, False) for path in paths if path not in held_out]
        testing += [Picture(path, name, True) for path in paths if path in held_out]
    for name, folder in test_classes.items():
        testing += [Picture(path, name, True) for path in _pictures_in(folder, root)]
    return training + testing


def _split_folders(root: Path) -> tuple[Path, Path | None]:
    """Returns the folder that contains the training classes, and the one that contains the test classes, if any."""
    folders = {path.name.lower(): path for path in _folders(root)}
    train = next((folders[name] for name in TRAIN_FOLDERS if name in folders), None)
    test = next((folders[name] for name in TEST_FOLDERS if name in folders), None)
    others = [path for name, path in folders.items() if path != train and name not in TEST_FOLDERS]
    if train is None or (others and not _folders(train)):  # train can also be the name of a class
        return root, None
    if others:
        raise UsageError(f"{train} contains classes, but {others[0]} is beside it. Move it into {train}.")
    return train, test


def _class_folders(folder: Path) -> dict[str, Path]:
    """Returns the class folders in a folder by class name. Names are in NFC, since macOS may store them in NFD."""
    similar: dict[str, Path] = {}
    classes = {}
    for path in _folders(folder):
        name = unicodedata.normalize("NFC", path.name)
        if (other := similar.setdefault(name.casefold(), path)) != path:
            raise UsageError(f"The names of {other} and {path} differ only in case or Unicode form. Rename one.")
        # Labels are separated by commas, and Cs are bytes that aren't valid UTF-8.
        if "," in name or name != name.strip() or {"Cc", "Cs"} & {unicodedata.category(char) for char in name}:
            raise UsageError(f"{path} has a comma, a control character or a space at the end in its name. Rename it.")
        classes[name] = path
    return classes


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _visible(folder: Path) -> list[Path]:
    """Returns the non-hidden entries of a folder, sorted by name. Raises a UsageError for any link to a folder."""
    try:
        # Zip files from macOS contain a hidden copy of each file in __MACOSX.
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))
        links = [
            path for path in entries if path.is_symlink() and (path.is_dir() or not (path.exists() or path.suffix))
        ]
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error.strerror}). Change its permissions.") from error
    if links:
        target = "a folder" if links[0].exists() else "a missing folder"
        raise UsageError(f"{links[0]} is a link to {target}. Replace it with the folder itself.")
    return entries


def _pictures_in(folder: Path, root: Path) -> list[str]:
    """Recursively lists the images in a folder, with paths relative to ``root``."""
    found = []
    for path in _visible(folder):
        if path.is_dir():
            found += _pictures_in(path, root)
        elif path.suffix.lower() in PICTURE_SUFFIXES:
            # Unlike Path.resolve, realpath doesn't raise an error if a link points to itself.
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
                raise UsageError(f"{path} is a link to a file outside {root}. Replace it with the file itself.")
            found.append(path.relative_to(root).as_posix())
    return found


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8], "big")


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0  # broken link, reported when we decode the image
    return status.st_size, status.st_mtime_ns


def _is_gray(path: Path) -> bool:
    try:
        return is_gray(open_picture(path))
    except Exception:  # unreadable, reported when we decode the image
        return True


def read_picture(path: Path, image_shape: tuple[int, int, int], background: str) -> Tensor | str:
    """Reads an image, rotates it upright, removes transparency, then resizes and crops it to the given shape.

    Args:
        image_shape: The output shape (C, H, W), with C = 1 for grayscale and C = 3 for color.
        background: The color to use behind transparent pixels.

    Returns:
        The image as a uint8 tensor of shape (C, H, W), or the reason why it can't be read.
    """
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    try:
        image = open_picture(path)
        check_levels(image)
        if image.format == "JPEG":
            image.draft(None, (2 * width, 2 * height))  # decode at a lower resolution if that is enough
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = gray_8_bit(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
        image = ImageOps.fit(
            image.convert("RGB" if image.mode == "CMYK" else mode), (width, height), Image.Resampling.LANCZOS
        )
        return pil_to_tensor(image.convert(mode))
    except Exception as error:  # damaged images can raise almost anything
        return getattr(error, "strerror", None) or short_reason(error)
