"""``condgen score`` reads samples from files without changing them, or raises an error that names the file."""

from __future__ import annotations

import io
import os
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.runs import refused
from PIL import Image

from condgen.data.datamodule import ImageDataModule
from condgen.data.datasets import MNIST
from condgen.errors import UsageError
from condgen.evaluation.sample_files import read_samples

LEVELS = np.array([[0, 1, 2, 3], [100, 127, 128, 129], [250, 253, 254, 255]], dtype=np.uint8)
SIXTEEN = LEVELS.astype(np.uint16) * 257  # the same levels in 16 bits
HEIGHT, WIDTH = LEVELS.shape


class Small(MNIST):
    """Gray images of 3 x 4 pixels with one label."""

    classes = ("0",)
    image_shape = (1, HEIGHT, WIDTH)


class SmallColor(Small):
    """The same size with three channels."""

    image_shape = (3, HEIGHT, WIDTH)


GRAY = Image.fromarray(LEVELS)
SIXTEEN_BIT = Image.fromarray(SIXTEEN)
Writer = Callable[[Path], Path]


def save(image: Image.Image, name: str, **options: Any) -> Writer:
    """A function that saves the picture in a folder and returns its path."""

    def save_into(folder: Path) -> Path:
        image.save(folder / name, **options)
        return folder / name

    return save_into


def write(name: str, content: bytes) -> Writer:
    """A function that writes the file in a folder and returns its path."""

    def write_into(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write_into


def png(bits: int, color: int, rows: np.ndarray, transparency: bytes = b"") -> Writer:
    """A PNG file that Pillow cannot write: any bit depth and color type, with a tRNS chunk."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color, 0, 0, 0)),
        *([(b"tRNS", transparency)] if transparency else []),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks]  # fmt: skip
    return write("x.png", b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def tiff(bits: int, photometric: int, pixels: bytes, sample_format: int = 1, order: str = "<") -> Writer:
    """An uncompressed TIFF file with one sample a pixel."""
    tags = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: HEIGHT,
            279: len(pixels), 339: sample_format}  # fmt: skip
    tags[273] = 8 + 2 + 12 * len(tags) + 4  # where the pixels begin
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    magic = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    return write("x.tiff", magic + entries + bytes(4) + pixels)


def palette_picture() -> Image.Image:
    """Each pixel has its own palette entry."""
    image = Image.fromarray(np.arange(LEVELS.size, dtype=np.uint8).reshape(LEVELS.shape))
    image = image.convert("L")
    image.putpalette(np.repeat(LEVELS.flatten(), 3).tobytes())
    return image


def with_alpha(mode: str, alpha: np.ndarray) -> Image.Image:
    return Image.merge("RGBA", [GRAY, GRAY, GRAY, Image.fromarray(alpha)]).convert(mode)


def read_picture(path: Path, data: ImageDataModule | None = None) -> np.ndarray:
    """The pixels (C, H, W) of a picture when it is read as the only sample of a folder."""
    folder = path.parent / "samples"
    (folder / "0").mkdir(parents=True)
    path.rename(folder / "0" / path.name)
    return read_samples(folder, data or Small(source="sample")).images[0].numpy()


OPAQUE = np.full_like(LEVELS, 255)
INK_ONLY = Image.merge("CMYK", [*[Image.new("L", GRAY.size)] * 3, Image.fromarray(255 - LEVELS)])
PICTURES: dict[str, Writer] = {
    "8-bit PNG": save(GRAY, "x.png"),
    "8-bit TIFF": save(GRAY, "x.tiff"),
    "8-bit TIFF where white is 0": tiff(8, 0, (255 - LEVELS).tobytes()),
    "deflated TIFF": save(GRAY, "x.tiff", compression="tiff_adobe_deflate"),
    "8-bit PGM": save(GRAY, "x.pgm"),
    "plain PGM": write("x.pgm", f"P2 4 3 255 {' '.join(map(str, LEVELS.flatten()))}\n".encode()),
    "BMP": save(GRAY, "x.bmp"),
    "GIF": save(GRAY, "x.gif"),
    "lossless WebP": save(GRAY.convert("RGB"), "x.webp", lossless=True),
    "RGB PNG": save(GRAY.convert("RGB"), "x.png"),
    "PPM": save(GRAY.convert("RGB"), "x.ppm"),
    "RGB TIFF": save(GRAY.convert("RGB"), "x.tiff"),
    "palette PNG": save(palette_picture(), "x.png"),
    "palette BMP": save(palette_picture(), "x.bmp"),
    "palette TIFF": save(palette_picture(), "x.tiff"),
    "opaque LA PNG": save(with_alpha("LA", OPAQUE), "x.png"),
    "opaque RGBA PNG": save(with_alpha("RGBA", OPAQUE), "x.png"),
    "opaque RGBA TIFF": save(with_alpha("RGBA", OPAQUE), "x.tiff"),
    "palette PNG with an unused transparent entry": save(palette_picture(), "x.png", transparency=200),
    "palette PNG with opaque bytes of transparency": save(palette_picture(), "x.png", transparency=b"\xff" * 12),
    "16-bit PNG": save(SIXTEEN_BIT, "x.png"),
    "16-bit TIFF": save(SIXTEEN_BIT, "x.tiff"),
    "deflated 16-bit TIFF": save(SIXTEEN_BIT, "x.tiff", compression="tiff_adobe_deflate"),
    "big-endian 16-bit TIFF": tiff(16, 1, SIXTEEN.astype(">u2").tobytes(), order=">"),
    "16-bit PGM": save(SIXTEEN_BIT, "x.pgm"),
    "PGM with another maximum": write(
        "x.pgm", b"P5 4 3 1020\n" + (LEVELS.astype(np.uint16) * 4).astype(">u2").tobytes()
    ),
    "16-bit RGB PNG": png(16, 2, SIXTEEN.astype(">u2").repeat(3, 1)),
    "16-bit PNG with an unused transparent level": png(16, 0, SIXTEEN.astype(">u2"), b"\0\1"),
    "CMYK TIFF": save(INK_ONLY, "x.tiff"),
}


@pytest.mark.parametrize("make", PICTURES.values(), ids=PICTURES)
def test_read_samples_keeps_the_levels_of_a_picture(make, tmp_path):
    assert read_picture(make(tmp_path)).tolist() == [LEVELS.tolist()]


@pytest.mark.parametrize("name", ["16-bit PNG", "palette PNG", "opaque LA PNG", "RGB PNG"])
def test_read_samples_converts_a_gray_picture_for_a_color_dataset(name, tmp_path):
    found = read_picture(PICTURES[name](tmp_path), SmallColor(source="sample"))
    assert found.tolist() == [LEVELS.tolist()] * 3


def test_16_bit_levels_are_rounded_to_the_nearest_8_bit_level(tmp_path):
    levels = np.array([[0, 128, 129, 255], [256, 257, 385, 386], [32767, 32768, 65406, 65535]], dtype=np.uint16)
    found = read_picture(save(Image.fromarray(levels), "x.png")(tmp_path))
    assert found.tolist() == [(levels / 257).round().astype(int).tolist()]


@pytest.mark.parametrize(
    "make",
    [
        png(1, 0, np.packbits(LEVELS > 127, axis=1)),
        save(GRAY.point(lambda level: 255 * (level > 127)).convert("1"), "x.tiff"),
        save(GRAY.point(lambda level: 255 * (level > 127)).convert("1"), "x.pbm"),
    ],
)
def test_1_bit_picture_is_black_and_white(make, tmp_path):
    assert read_picture(make(tmp_path)).tolist() == [(255 * (LEVELS > 127)).tolist()]


def test_4_bit_picture_is_scaled(tmp_path):
    levels = np.array([[0, 1, 2, 3], [4, 8, 9, 10], [12, 13, 14, 15]], dtype=np.uint8)
    found = read_picture(png(4, 0, levels[:, ::2] * 16 + levels[:, 1::2])(tmp_path))
    assert found.tolist() == [(levels * 17).tolist()]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_exif_orientation_is_applied(kind, orientation, tmp_path):
    stored = {  # the picture that its orientation turns into LEVELS (Exif 2.3, section 4.6.4)
        1: LEVELS, 2: LEVELS[:, ::-1], 3: LEVELS[::-1, ::-1], 4: LEVELS[::-1],
        5: LEVELS.T, 6: np.rot90(LEVELS), 7: LEVELS[::-1, ::-1].T, 8: np.rot90(LEVELS, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "webp" else {}
    image = Image.fromarray(np.ascontiguousarray(stored)).convert("RGB" if kind == "webp" else "L")
    found = read_picture(save(image, f"x.{kind}", exif=exif, **options)(tmp_path))
    assert found.tolist() == [LEVELS.tolist()]


HALF = np.where(LEVELS > 127, 255, 128).astype(np.uint8)
TRANSPARENT: dict[str, Writer] = {
    "LA PNG": save(with_alpha("LA", HALF), "x.png"),
    "RGBA PNG": save(with_alpha("RGBA", HALF), "x.png"),
    "RGBA TIFF": save(with_alpha("RGBA", HALF), "x.tiff"),
    "RGBA WebP": save(with_alpha("RGBA", HALF), "x.webp", lossless=True),
    "palette PNG": save(palette_picture(), "x.png", transparency=3),
    "palette PNG with bytes of transparency": save(palette_picture(), "x.png", transparency=b"\xff\x80" * 6),
    "GIF": save(palette_picture(), "x.gif", transparency=3),
    "gray PNG with a transparent level": png(8, 0, LEVELS, b"\0\x7f"),
    "RGB PNG with a transparent color": png(8, 2, LEVELS.repeat(3, 1), b"\0\x7f" * 3),
    "16-bit PNG with a transparent level": png(16, 0, SIXTEEN.astype(">u2"), SIXTEEN[1, 1].astype(">u2").tobytes()),
    "16-bit RGB PNG with a transparent color": png(
        16, 2, SIXTEEN.astype(">u2").repeat(3, 1), SIXTEEN[1, 1].astype(">u2").tobytes() * 3
    ),
}


@pytest.mark.parametrize("make", TRANSPARENT.values(), ids=TRANSPARENT)
def test_read_samples_error_names_a_transparent_picture(make, tmp_path):
    path = make(tmp_path)
    with pytest.raises(UsageError, match=rf"{path.name}.*transparent"):
        read_picture(path)


OTHER_KINDS: dict[str, Writer] = {
    "float TIFF": save(Image.fromarray(LEVELS.astype(np.float32) / 255), "x.tiff"),
    "PFM": save(Image.fromarray(LEVELS.astype(np.float32) / 255), "x.pfm"),
    "32-bit TIFF": save(Image.fromarray(LEVELS.astype(np.int32)), "x.tiff"),
    "signed 16-bit TIFF": tiff(16, 1, LEVELS.astype("<i2").tobytes(), sample_format=2),
    "signed 8-bit TIFF": tiff(8, 1, LEVELS.tobytes(), sample_format=2),
    "12-bit TIFF": tiff(12, 1, bytes(18)),
    "16-bit TIFF where white is 0": tiff(16, 0, SIXTEEN.tobytes()),
    "animated GIF": save(GRAY, "x.gif", save_all=True, append_images=[GRAY.rotate(180)]),
    "animated PNG": save(GRAY, "x.png", save_all=True, append_images=[GRAY.rotate(180)]),
    "TIFF with two pages": save(GRAY, "x.tiff", save_all=True, append_images=[GRAY]),
    "wrong size": save(GRAY.resize((8, 6)), "x.png"),
    "turned": save(GRAY.rotate(90, expand=True), "x.png"),
    "text": write("x.png", b"no picture"),
    "empty": write("x.png", b""),
}


@pytest.mark.parametrize("make", OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_read_samples_error_names_a_picture_of_an_unsupported_kind(make, tmp_path):
    path = make(tmp_path)
    with pytest.raises(UsageError, match=path.name):
        read_picture(path)


@pytest.mark.parametrize("side", [5_000, 12_000, 40_000])
@pytest.mark.parametrize("kind", ["png", "gif", "pgm"])
def test_read_samples_refuses_a_huge_picture_before_it_is_decoded(kind, side, tmp_path):
    """The file ends after its header, so decoding it would raise another error, not one about its size."""
    if kind == "png":
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\4IDAT"
    elif kind == "gif":
        content = b"GIF89a" + struct.pack("<HH", side, side) + b"\0\0\0,"
        content += struct.pack("<HHHHBB", 0, 0, side, side, 0, 8)
    else:
        content = f"P5 {side} {side} 255\n".encode()
    with pytest.raises(UsageError, match=rf"x\.{kind}.*({side} x|{side**2} pixels)"):
        read_picture(write(f"x.{kind}", content)(tmp_path))


@pytest.mark.parametrize("kind", ["png", "tiff", "gif", "pgm", "bmp", "webp", "jpg"])
def test_damaged_picture_is_refused_by_name_or_harmless(kind, tmp_path):
    whole, path = io.BytesIO(), tmp_path / "0" / f"x.{kind}"
    exif = {"exif": Image.Exif()} if kind in ("png", "jpg", "webp") else {}
    GRAY.save(whole, {"jpg": "JPEG", "pgm": "PPM"}.get(kind, kind.upper()), **exif)
    content = whole.getvalue()
    path.parent.mkdir()
    for place in range(0, len(content), max(1, len(content) // 100)):
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :]):
            path.write_bytes(damaged)
            try:
                assert read_samples(tmp_path, Small(source="sample")).images.shape == (1, 1, HEIGHT, WIDTH)
            except UsageError as error:
                assert path.name in str(error)  # noqa: PT017


def test_read_samples_refuses_postscript_without_starting_ghostscript(tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    lines = "%!PS-Adobe-3.0 EPSF-3.0", f"%%BoundingBox: 0 0 {WIDTH} {HEIGHT}", "%%EndComments", "showpage", "%%EOF", ""
    with pytest.raises(UsageError, match=r"x\.png"):
        read_picture(write("x.png", "\n".join(lines).encode())(tmp_path))
    assert not (tmp_path / "executed").exists()


# npz files.


def npz(path: Path, labels: np.ndarray | None = None, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, labels=np.zeros(2, np.int64) if labels is None else labels, **arrays)
    return path


def npz_of(path: Path, images_npy: bytes) -> Path:
    """An npz with the given bytes as images.npy, and two labels."""
    labels = io.BytesIO()
    np.lib.format.write_array(labels, np.zeros(2, np.int64))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", images_npy)
        archive.writestr("labels.npy", labels.getvalue())
    return path


def npy_header(shape: tuple[int, ...], dtype: str = "|u1", padding: int = 0) -> bytes:
    """The start of an npy file (version 2.0, whose header may be long)."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}{' ' * padding}\n".encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header


TWO = np.stack([LEVELS, 255 - LEVELS])


@pytest.mark.parametrize(
    "images",
    [
        TWO,
        TWO[:, None],
        np.asfortranarray(TWO),
        (TWO / 255).astype(np.float16),
        (TWO / 255).astype(">f4"),
        TWO / 255,
        TWO / 255 * (1 + 1e-9),  # rounding noise
        TWO / 255 - 1e-9,
    ],
)
def test_read_samples_keeps_the_levels_of_npz_images(images, tmp_path):
    found = read_samples(npz(tmp_path / "x.npz", images=images), Small(source="sample"))
    assert found.images[:, 0].tolist() == TWO.tolist()


def test_read_samples_error_states_a_value_that_is_just_out_of_range(tmp_path):
    with pytest.raises(UsageError, match=r"1\.00001"):
        read_samples(npz(tmp_path / "x.npz", images=TWO / 255 * 1.00001), Small(source="sample"))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 0)),
        np.zeros((2, 0, 4)),
        np.zeros((0, 3, 4)),
        np.zeros(()),
        np.zeros((2, 1, 3, 4, 1)),
        np.zeros((2, 3, 4), complex),
        np.zeros((2, 3, 4), np.int64),
        np.zeros((2, 3, 4), bool),
        np.zeros((2, 3, 4), "S1"),
        np.zeros((2, 3, 4), "M8[s]"),
        np.zeros((2, 3, 4), [("a", "u1"), ("b", "f4")]),
        np.full((2, 3, 4), np.inf),
        np.full((2, 3, 4), np.nan, np.float16),
    ],
)
def test_read_samples_error_names_an_npz_with_invalid_images(images, tmp_path):
    with pytest.raises(UsageError, match=r"x\.npz"):
        read_samples(npz(tmp_path / "x.npz", images=images), Small(source="sample"))


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((2, 0), np.int64),
        np.zeros((2, 1), np.int64),
        np.zeros((), np.int64),
        np.zeros(0, np.int64),
        np.zeros(2),
        np.array([0, 2**64 - 1], np.uint64),
        np.array([0, -1]),
        np.array(["0", "0"]),
    ],
)
def test_read_samples_error_names_an_npz_with_invalid_labels(labels, tmp_path):
    with pytest.raises(UsageError, match=r"x\.npz"):
        read_samples(npz(tmp_path / "x.npz", labels, images=TWO), Small(source="sample"))


@pytest.mark.parametrize(
    "images_npy",
    [
        npy_header((10**12, 3, 4)),
        npy_header((2, 10**6, 10**6)),
        npy_header((-2, 3, 4)),
        npy_header((2, 3, 4), "|V1000000000"),
        npy_header((2, 3, 4), "|O"),
        npy_header((2, 3, 4)),  # no data
        npy_header((2, 3, 4), padding=20_000_000) + bytes(24),
        npy_header((2_000_000, 3, 4)) + bytes(24_000_000),
        b"\x93NUMPY\x09\x00",
        b"",
    ],
    ids=["many", "large", "negative", "wide", "objects", "cut", "long header", "bomb", "version", "empty"],
)
def test_read_samples_refuses_an_invalid_npz_before_memory_is_allocated(images_npy, tmp_path):
    path = npz_of(tmp_path / "x.npz", images_npy)
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"x\.npz"):
        read_samples(path, Small(source="sample"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


# Folders written by condgen predict.


def predictions(folder: Path, labels: list[int], listed: list[int] | None = None) -> Path:
    """A folder with one shard of black images with ``labels``, and a manifest with the labels ``listed``."""
    folder.mkdir()
    shard = "samples-00000-of-00001.npz"
    np.savez(folder / shard, images=np.zeros((len(labels), 1, 28, 28), np.uint8), labels=np.array(labels))
    rows = [f"{index},{label},0,{index},{shard}" for index, label in enumerate(listed or labels)]
    (folder / "manifest.csv").write_text("\n".join(["index,label,seed,noise,file", *rows, ""]))
    return folder


def test_read_samples_reads_a_shard_that_matches_the_manifest(tmp_path):
    found = read_samples(predictions(tmp_path / "generated", list(range(10)) * 2), MNIST(source="sample"))
    assert found.labels.tolist() == list(range(10)) * 2


@pytest.mark.parametrize("labels", [list(range(10)), [*range(10), *reversed(range(10))], [*range(10)] * 3])
def test_read_samples_error_names_a_shard_that_does_not_match_the_manifest(labels, tmp_path):
    with pytest.raises(UsageError, match=r"samples-00000-of-00001\.npz"):
        read_samples(predictions(tmp_path / "generated", labels, [*range(10)] * 2), MNIST(source="sample"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "manifest",
    [
        b"file,label\nfifo,3\n",
        b"file,label\nfolder,3\n",
        b"file,label\n..,3\n",
        b"file,label\n,3\n",
        b"file,label\nx.png\n",
        b"file,label\nx.png,three\n",
        b"file,label\nx.png,\xc2\xb2\n",
        b"sku,price\nx,3\n",
        b"file,label\n" + b"x" * 200_000 + b",3\n",
        b"file,label\n" + b"x" * 300 + b",3\n",
        b"file,label\nx\0.png,3\n",
        b"\xff\xfe\0\0",
        b"file,label\n",
        b"",
    ],
)
def test_read_samples_error_names_a_folder_with_an_invalid_manifest(manifest, tmp_path):
    folder = tmp_path / "generated"
    (folder / "folder").mkdir(parents=True)
    os.mkfifo(folder / "fifo")
    (folder / "manifest.csv").write_bytes(manifest)
    with pytest.raises(UsageError, match="generated"):
        read_samples(folder, MNIST(source="sample"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["generated", "generated/manifest.csv", "generated/0/x.png", "generated.npz"])
def test_read_samples_refuses_a_fifo_without_waiting(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(UsageError, match="not a regular file"):
        read_samples(tmp_path / Path(name).parts[0], Small(source="sample"))


def test_read_samples_refuses_a_manifest_of_too_many_pictures_before_reading_them(tmp_path):
    rows = "x.png,0\n" * 20_000
    (tmp_path / "manifest.csv").write_text(f"file,label\n{rows}")
    with pytest.raises(UsageError, match=r"10,000"):
        read_samples(tmp_path, Small(source="sample"))


# The dataset that samples in a run directory are compared with.


@pytest.fixture
def inside_run(tmp_path):
    """An npz that cannot be read, in the folder ``predictions`` of a run directory, and the run's config.yaml."""
    run = tmp_path / "project" / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "predictions").mkdir()
    (run / "predictions" / "cut.npz").write_bytes(b"PK")
    return run / "predictions" / "cut.npz", run / "config.yaml"


OF_ANOTHER_PROGRAM = {
    "a list": "- 1\n",
    "tags": "Resources: !Ref Bucket\n",
    "Jinja": "name: {{ name }}\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "data of its own": "data: {path: some/where}\n",
    "data that is text": "data: some/where\n",
    "a class that is a list": "data: {class_path: [1]}\n",
    "a class of its own": "data: {class_path: strangers.Data}\n",
    "code": "data: !!python/object/apply:os.mkdir [executed]\n",
    "binary": "\0\1\2",
}


@pytest.mark.parametrize("content", OF_ANOTHER_PROGRAM.values(), ids=OF_ANOTHER_PROGRAM)
def test_score_ignores_config_of_another_program(content, inside_run, capsys):
    path, config = inside_run
    config.write_text(content)
    (config.parent / "checkpoints").rmdir()  # so that it is no run directory
    assert "cut.npz" in refused(["score", str(path)], capsys)


@pytest.mark.parametrize("content", OF_ANOTHER_PROGRAM.values(), ids=OF_ANOTHER_PROGRAM)
@pytest.mark.parametrize("data", [[], ["--data", "MNIST"]])
def test_config_of_a_run_without_a_dataset_is_named_unless_data_is_given(
    data, content, inside_run, capsys, monkeypatch
):
    path, config = inside_run
    config.write_text(content)
    modules = config.parent / "modules"
    modules.mkdir()
    (modules / "strangers.py").write_text("from condgen.data import MNIST\nclass Data(MNIST): pass\n")
    monkeypatch.syspath_prepend(str(modules))
    monkeypatch.chdir(config.parent)
    said = refused(["score", str(path), *data], capsys)
    if data:
        assert "cut.npz" in said
    else:
        assert str(config) in said
        assert "--data" in said
        assert "--config" not in said
        assert "None" not in said
    assert "strangers" not in sys.modules
    assert not (config.parent / "executed").exists()


@pytest.mark.parametrize(
    "settings",
    [{"root": [1]}, {"source": "elsewhere"}, {"split": "letters"}, {"root": {"class_path": "strangers.Data"}}],
)
def test_config_of_a_run_with_impossible_data_settings_is_named(settings, inside_run, capsys):
    path, config = inside_run
    config.write_text(yaml.safe_dump({"data": {"class_path": "condgen.data.datasets.MNIST", "init_args": settings}}))
    assert str(config) in refused(["score", str(path)], capsys)


def test_samples_in_a_run_directory_are_compared_with_its_dataset(inside_run, capsys, tmp_path):
    path, config = inside_run
    settings = {"class_path": "condgen.data.datasets.EMNIST", "init_args": {"split": "letters"}}
    config.write_text(yaml.safe_dump({"data": settings}))
    nearer = path.parent / "config.yaml"  # of another program, whose folder lies inside the run
    nearer.write_text("- 1\n")
    np.savez(path, images=np.zeros((2, 28, 28), dtype=np.uint8), labels=[25, 26])
    assert "EMNIST-letters" in refused(["score", str(path)], capsys)


def test_path_that_is_too_long_is_refused_in_one_line(capsys):
    for path in ("x" * 300, f"{'x' * 300}/y", f"{'x' * 300}.npz"):
        assert "too long" in refused(["score", path], capsys)


def test_read_samples_skips_hidden_and_system_files_but_refuses_a_broken_picture(tmp_path):
    folder = tmp_path / "0"
    folder.mkdir()
    GRAY.save(folder / "a.png")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._a.png"):
        (folder / name).write_bytes(b"\0\1")
    (tmp_path / "__MACOSX").mkdir()
    assert len(read_samples(tmp_path, Small())) == 1
    (folder / "b.png").write_bytes(b"\0\1")
    with pytest.raises(UsageError, match=r"b\.png"):
        read_samples(tmp_path, Small())


def test_read_samples_error_names_an_npz_of_long_double_images(tmp_path):
    np.savez(tmp_path / "wide.npz", images=np.zeros((4, HEIGHT, WIDTH), np.longdouble), labels=np.zeros(4, np.int64))
    with pytest.raises(UsageError, match=r"wide\.npz"):
        read_samples(tmp_path / "wide.npz", Small())
