"""CIFAR-10, CIFAR-100 and SVHN in torchvision's files, here small ones with their own MD5 sums."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from helpers.runs import refused

from condgen.data import CIFAR10, CIFAR100, SVHN
from condgen.errors import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root: Path, kind: type, names: list[str], labels_key: str, monkeypatch) -> None:
    """Writes every batch with the same twenty images, and makes torchvision expect these files."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    *batches, test, meta = names
    for name in (*batches, test):
        content = {"data": PIXELS.reshape(20, -1), labels_key: [number % 10 for number in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / meta).write_bytes(pickle.dumps({kind.meta["key"]: ["x"]}))
    monkeypatch.setattr(kind, "train_list", [[name, md5(folder / name)] for name in batches])
    monkeypatch.setattr(kind, "test_list", [[test, md5(folder / test)]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / meta)})


@pytest.mark.parametrize("folder", ["", "CIFAR10"])
def test_cifar10_is_read_from_torchvisions_files(folder, tmp_path, monkeypatch):
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    write_cifar(tmp_path / folder, torchvision.datasets.CIFAR10, names, "labels", monkeypatch)
    data = CIFAR10(root=str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    assert (len(data.train_images), len(data.val_images)) == (100, 20)
    assert (data.train_images.images[:20].numpy() == PIXELS).all()
    assert data.val_images.labels[:4].tolist() == [0, 1, 2, 3]


def test_cifar100_is_read_with_its_fine_labels(tmp_path, monkeypatch):
    write_cifar(tmp_path, torchvision.datasets.CIFAR100, ["train", "test", "meta"], "fine_labels", monkeypatch)
    data = CIFAR100(root=str(tmp_path))
    data.setup("fit")
    assert (len(data.train_images), data.num_classes, data.classes[3]) == (20, 100, "bear")


def test_svhn_is_read_from_torchvisions_files(tmp_path, monkeypatch):
    lists = {}
    for name in ("train", "test"):
        path = tmp_path / f"{name}_32x32.mat"
        labels = np.arange(20)[:, None] % 10 + 1  # 10 is the digit 0
        scipy.io.savemat(path, {"X": PIXELS.transpose(2, 3, 1, 0), "y": labels})
        lists[name] = ["", path.name, md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
    data = SVHN(root=str(tmp_path))
    data.setup("fit")
    assert (data.train_images.images.numpy() == PIXELS).all()
    assert data.val_images.labels.tolist() == [(number + 1) % 10 for number in range(20)]


class Attack:
    """A pickle that runs code when it is opened."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_pickle_that_is_not_cifars_is_refused_and_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in CIFAR10.files:
        (folder / name).write_bytes(pickle.dumps(Attack()))
    data = CIFAR10(root=str(tmp_path))
    with pytest.raises(UsageError, match="data_batch_1"):
        data.setup("fit")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "SVHN"])
def test_color_dataset_that_cannot_be_downloaded_names_its_files(name, tmp_path, capsys, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, name, unreachable)
    line = refused(["fit", "--data", name, "--data.root", str(tmp_path / "data")], capsys)
    assert name in line
    assert {"CIFAR10": "data_batch_1", "CIFAR100": "meta", "SVHN": "train_32x32.mat"}[name] in line
    assert not (tmp_path / "data").exists()
