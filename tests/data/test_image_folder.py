"""``--data ImageFolder``: which pictures are found, how they are decoded, and which folders are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import FIVE_SMALL_BATCHES, refused
from PIL import Image

import condgen
from condgen.cli.main import main
from condgen.data import image_folder
from condgen.data.image_folder import ImageFolder, list_pictures
from condgen.errors import UsageError


def colors(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    """A picture of random colors in large blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve pictures of cats and twelve of dogs."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(12):
            colors(100 * label + number).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


def read(folder: Path, **settings) -> ImageFolder:
    data = ImageFolder(root=str(folder), **settings)
    data.prepare_data()
    data.setup("fit")
    return data


def only(folder: Path, image: Image.Image, name: str = "x.png", **options) -> torch.Tensor:
    """The image (C, H, W) as which a picture is read that is the only one of its class."""
    saved = options.pop("save", {})
    for place in ("train/a", "train/b", "test/a"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        image.save(folder / place / name, **saved)
    data = read(folder, image_size=16, **options)
    assert len(data.train_images) == 2
    return data.train_images.images[0]


# Which pictures are found.


def test_classes_are_the_folders_in_alphabetical_order(folder):
    (folder / "bird" / "nested").mkdir(parents=True)
    colors(0).save(folder / "bird" / "nested" / "0.JPG")
    data = read(folder)
    assert data.classes == ("bird", "cat", "dog")
    assert data.image_shape == (3, 32, 32)
    assert data.train_images.images.shape[1:] == data.val_images.images.shape[1:] == (3, 32, 32)
    assert len(data.train_images) + len(data.val_images) == 25
    assert (data.train_images.labels == 0).sum() == 1


def test_split_by_folders(folder, tmp_path):
    root = tmp_path / "split"
    for part in ("train", "test"):
        (root / part).mkdir(parents=True)
    folder.joinpath("cat").rename(root / "train" / "cat")
    folder.joinpath("dog").rename(root / "train" / "dog")
    (root / "test" / "cat").mkdir()
    colors(5).save(root / "test" / "cat" / "0.png")
    data = read(root)
    assert (len(data.train_images), len(data.val_images)) == (24, 1)
    assert data.val_images.labels.tolist() == [0]


def test_a_tenth_is_held_out_and_a_new_picture_moves_no_other(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(400):
            (tmp_path / name / f"{number}.png").touch()
    before = list_pictures(tmp_path)
    assert 40 < sum(picture.is_test for picture in before) < 120
    for number in range(400, 500):
        (tmp_path / "cat" / f"{number}.png").touch()
    assert set(before) < set(list_pictures(tmp_path))


def test_class_whose_pictures_are_all_held_out_by_their_names_is_trained_with_them(tmp_path):
    held_out = next(p.path for p in list_pictures_named(tmp_path / "many", range(60)) if p.is_test)
    for name in ("cat", "dog"):
        (tmp_path / "one" / name).mkdir(parents=True)
        (tmp_path / "one" / name / Path(held_out).name).touch()
    assert [picture.is_test for picture in list_pictures(tmp_path / "one")] == [False, False]


def list_pictures_named(root: Path, numbers) -> list:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in numbers:
            (root / name / f"{number}.png").touch()
    return list_pictures(root)


def test_hidden_files_and_other_files_are_ignored(folder):
    before = list_pictures(folder)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "cat" / "notes.txt").write_text("not a picture")
    (folder / "cat" / ".hidden.png").write_text("not a picture")
    (folder / ".git").mkdir()
    assert list_pictures(folder) == before


ODD = {  # folders that are odd, but usable
    "__MACOSX of a zip file": ("mkdir -p __MACOSX/cat; touch __MACOSX/cat/._0.png", ["cat", "dog"]),
    "files of Windows": ("touch Thumbs.db desktop.ini cat/Thumbs.db", ["cat", "dog"]),
    "emoji": ("mv dog 🐶; cp -r cat 👩‍🚀", ["cat", "🐶", "👩‍🚀"]),
    "name in NFD": ("mv dog \"$(printf 'cafe\\314\\201')\"", ["caf\u00e9", "cat"]),
    "long name": (f"mv dog {'x' * 255}", ["cat", "x" * 255]),
    "folder with the name of a picture": ("mv dog dog.png; mkdir cat/a.png", ["cat", "dog.png"]),
    "FIFO beside the classes": ("mkfifo bird", ["cat", "dog"]),
    "class with the name train": ("mv dog train; cp -r cat test", ["cat", "test", "train"]),
    "train, and no folder for testing": ("mkdir train; mv cat dog train", ["cat", "dog"]),
    "Train and Valid": ("mkdir -p Train Valid; cp -r cat dog Valid; mv cat dog Train", ["cat", "dog"]),
    "train, val and test": (
        "mkdir train val test; cp -r cat dog val; cp -r cat test; mv cat dog train",
        ["cat", "dog"],
    ),
    "class with one picture": ("mkdir bird; cp cat/0.png bird", ["bird", "cat", "dog"]),
}


@pytest.mark.parametrize("change", ODD, ids=str)
def test_odd_folder_is_read(change, folder):
    command, classes = ODD[change]
    subprocess.run(command, shell=True, check=True, cwd=folder)
    pictures = list_pictures(folder)
    assert sorted({picture.name for picture in pictures}) == classes
    assert {picture.name for picture in pictures if not picture.is_test} == set(classes)
    assert any(picture.is_test for picture in pictures)
    if (folder / "test" / "cat").exists():
        assert {picture.path.split("/")[0] for picture in pictures if picture.is_test} == {"test"}


def test_link_to_a_picture_inside_the_folder_is_read(folder):
    (folder / "dog" / "same.png").symlink_to(folder / "cat" / "0.png")
    assert len(list_pictures(folder)) == 25


def test_folder_is_listed_once_per_start(folder, monkeypatch):
    listed = []
    monkeypatch.setattr(image_folder, "list_pictures", lambda root: listed.append(root) or list_pictures(root))
    read(folder)
    assert listed == [folder]


# How pictures are decoded.


def test_gray_pictures_have_one_channel_unless_three_are_wanted(tmp_path):
    gray = colors(0).convert("L")
    assert only(tmp_path, gray).shape == (1, 16, 16)
    assert only(tmp_path, gray, channels=3).shape == (3, 16, 16)
    assert only(tmp_path, colors(0), channels=1).shape == (1, 16, 16)


def test_picture_is_scaled_with_antialiasing_and_cropped_to_the_center(tmp_path):
    stripes = np.zeros((64, 128, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    stripes[:, :32] = stripes[:, 96:] = (255, 0, 0)
    image = only(tmp_path, Image.fromarray(stripes))
    assert (image.int() - 127).abs().max() < 20  # neither red nor stripes


def test_exif_orientation_is_applied(tmp_path):
    half = Image.new("RGB", (40, 40), "black")
    half.paste("white", (0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter
    image = only(tmp_path, half, "x.jpg", save={"exif": exif, "quality": 95})
    assert image[:, :, :6].max() < 40
    assert image[:, :, -6:].min() > 215


@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_get_the_background(mode, background, level, tmp_path):
    image = Image.new("RGBA", (32, 32), (90, 90, 90, 255))
    image.paste((0, 0, 0, 0), (0, 0, 16, 32))
    found = only(tmp_path, image.convert(mode), background=background)
    assert (found[:, :, :4] == level).all()
    assert (found[:, :, -6:].int() - 90).abs().max() <= 3


def test_16_bit_levels_are_scaled_to_8_bits(tmp_path):
    levels = np.full((32, 32), 257 * 100, dtype=np.uint16)
    assert (only(tmp_path, Image.fromarray(levels)) == 100).all()


def test_cmyk_picture_is_read_in_its_colors(tmp_path):
    image = only(tmp_path, Image.new("RGB", (32, 32), (200, 50, 50)).convert("CMYK"), "x.jpg", save={"quality": 95})
    assert (image.float().mean((1, 2)) - torch.tensor([200.0, 50, 50])).abs().max() < 8


def test_first_frame_of_an_animation_is_used(tmp_path):
    frames = [Image.new("RGB", (32, 32), color) for color in ("white", "black")]
    image = only(tmp_path, frames[0], "x.gif", save={"save_all": True, "append_images": frames[1:]})
    assert (image == 255).all()


# The cache.


def test_second_start_reads_no_picture_and_a_changed_one_is_read_again(folder):
    images = read(folder).train_images.images.clone()
    (cached,) = (folder / ".condgen").glob("*.images")
    for path in folder.glob("*/*.png"):  # of the same size and time: nobody looks into them
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert torch.equal(read(folder, channels=3).train_images.images, images)
    colors(1).save(folder / "cat" / "0.png")
    for number in range(1, 12):
        colors(number).save(folder / "cat" / f"{number}.png")
    for number in range(12):
        colors(100 + number).save(folder / "dog" / f"{number}.png")
    assert not torch.equal(read(folder).train_images.images, images)
    assert not cached.exists()
    assert len(list((folder / ".condgen").glob("*.images"))) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written_is_read_without_a_cache(folder):
    folder.chmod(0o500)
    with pytest.warns(UserWarning, match="cannot be written"):
        assert len(read(folder).train_images) > 0
    folder.chmod(0o700)


def test_damaged_cache_is_refused_by_name(folder):
    read(folder)
    (cached,) = (folder / ".condgen").glob("*.images")
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(UsageError, match=cached.name):
        read(folder)


# Which pictures and folders are refused. tests/cli/wrong_picture_folders.yaml contains more of them.


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


DAMAGE = {
    "empty picture": (lambda root: put(root / "cat" / "0.png", b""), "0.png"),
    "text": (lambda root: put(root / "cat" / "0.png", b"text"), "0.png"),
    "cut picture": (lambda root: put(root / "cat" / "0.png", (root / "cat" / "0.png").read_bytes()[:60]), "0.png"),
    "PostScript": (lambda root: colors(0).save(root / "cat" / "0.png", "EPS"), "0.png"),
    "decompression bomb": (lambda root: Image.new("1", (20_000, 20_000)).save(root / "cat" / "0.png"), "0.png"),
    "floats": (lambda root: Image.new("F", (40, 40)).save(root / "cat" / "0.tiff"), "0.tiff"),
    "dangling link": (lambda root: (root / "cat" / "new.png").symlink_to(root / "nowhere.png"), "new.png"),
    "link to itself": (lambda root: (root / "cat" / "new.png").symlink_to(root / "cat" / "new.png"), "new.png"),
}


@pytest.mark.parametrize("change", DAMAGE, ids=str)
def test_unreadable_picture_is_refused_by_name_or_left_out(change, folder, capsys):
    do, name = DAMAGE[change]
    do(folder)
    with pytest.raises(UsageError, match=name):
        read(folder)
    assert not (folder / ".condgen").exists()
    data = read(folder, skip_unreadable=True)
    assert len(data.train_images) + len(data.val_images) in (23, 24)
    assert [name in path for path, _ in json.loads(next((folder / ".condgen").glob("*.json")).read_text())] == [True]
    with pytest.raises(UsageError, match=name):  # also if the others are cached
        read(folder)


def test_class_without_a_readable_picture_is_refused_by_name(folder):
    for path in (folder / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="dog"):
        read(folder, skip_unreadable=True)


def test_folder_without_test_pictures_is_refused_before_training(folder, capsys):
    for name in ("cat", "dog"):
        for number in range(1, 12):
            (folder / name / f"{number}.png").unlink()
    line = refused(["fit", "--data", "ImageFolder", "--data.root", str(folder), "--data.batch_size", "2"], capsys)
    assert "no test pictures" in line


def test_skipped_pictures_are_counted_in_a_warning(folder):
    (folder / "cat" / "0.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="1 pictures"):
        read(folder, skip_unreadable=True)


def test_pillows_warnings_are_not_shown_also_from_threads(folder):
    """In a process of its own, because pytest changes which warnings are shown."""
    Image.new("1", (10_000, 10_000)).save(folder / "cat" / "0.png")
    program = "import sys, warnings; from condgen.data import ImageFolder\n"
    program += "data = ImageFolder(root=sys.argv[1], skip_unreadable=True); data.setup('fit'); warnings.warn('shown')"
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert "DecompressionBomb" not in done.stderr
    assert "1 pictures" in done.stderr
    assert "shown" in done.stderr  # other warnings are still shown


# Runs.


def test_checkpoint_knows_the_classes_and_samples_without_the_pictures(folder, tmp_path, capsys):
    root = ["--trainer.default_root_dir", str(tmp_path), "--data.batch_size", "4"]
    fit = ["fit", "--model", "DNN", "--data", "ImageFolder", "--data.root", str(folder), "--data.image_size", "16"]
    assert main([*fit, *root, *FIVE_SMALL_BATCHES[2:], "--trainer.max_epochs", "1"]) == 0
    folder.rename(tmp_path / "moved")
    assert main(["predict", *root[:2], "--data.labels", "dog,cat", "--data.samples_per_label", "2"]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert Image.open(run / "predictions" / "000000-label-1.png").mode == "RGB"
    assert condgen.load(run).image_shape == (3, 16, 16)
    (tmp_path / "moved" / "dog").rename(tmp_path / "moved" / "bird")
    more = ["--trainer.max_epochs", "2", "--data.root", str(tmp_path / "moved")]
    assert "bird" in refused(["fit", "--ckpt_path", str(run), *more], capsys)
