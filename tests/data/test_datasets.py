"""The datasets: finding their files, downloads, and damaged files."""

import gzip
import hashlib
import http.server
import shutil
import socket
import struct
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
import torchvision
from helpers.idx_files import write_idx

import condgen.data
from condgen.data import SampleDataWarning
from condgen.data.datasets import EMNIST, KMNIST, MNIST, QMNIST, FashionMNIST
from condgen.data.idx import read_idx
from condgen.errors import UsageError


@pytest.fixture
def offline(monkeypatch):
    """Points all download mirrors to a port that nothing listens on."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])


def loaded(data):
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("layout", ["MNIST/raw", "MNIST", "."])
@pytest.mark.parametrize("zipped", [False, True])
def test_dataset_files_are_found_in_all_layouts(mnist_root, tmp_path, layout, zipped):
    for path in (mnist_root / "MNIST" / "raw").iterdir():
        target = tmp_path / layout / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if zipped:
            target.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        else:
            shutil.copy(path, target)
    data = loaded(MNIST(root=str(tmp_path), source="full"))
    expected = read_idx(mnist_root / "MNIST" / "raw" / "train-images-idx3-ubyte")
    assert torch.equal(data.train_images.images, expected.unsqueeze(1))
    assert (len(data.train_images), len(data.val_images)) == (330, 70)


def test_fashion_mnist_and_kmnist_do_not_read_mnist_files(mnist_root, tmp_path):
    """Their files have the same names as MNIST's, so they are only read from a folder of the dataset's name."""
    raw = mnist_root / "MNIST" / "raw"
    shutil.copytree(raw, tmp_path, dirs_exist_ok=True)
    for kind in (FashionMNIST, KMNIST):
        data = kind(root=str(tmp_path), source="full")
        with pytest.raises(UsageError, match=f"{kind.__name__} is not under"):
            data.setup("fit")
        shutil.copytree(raw, tmp_path / kind.__name__)
        assert len(loaded(data).train_images) == 330


def test_fashion_mnist_files_are_found_in_a_root_folder_of_that_name(mnist_root, tmp_path):
    shutil.copytree(mnist_root / "MNIST" / "raw", tmp_path / "fashion-mnist")
    data = loaded(FashionMNIST(root=str(tmp_path / "fashion-mnist"), source="full"))
    assert len(data.train_images) == 330


def test_mnist_sample_has_400_and_100_digits_of_each_label(digits):
    data = loaded(MNIST(source="sample"))
    assert data.train_images.labels.bincount().tolist() == [400] * 10
    assert data.val_images.labels.bincount().tolist() == [100] * 10
    together = torch.cat([data.train_images.images, data.val_images.images]).flatten(1)
    assert len(together.unique(dim=0)) == len(np.unique(digits[0].reshape(5000, -1), axis=0))
    assert data.hparams.source == "sample"


def test_mnist_without_files_and_network_uses_the_sample_and_warns_once(offline, tmp_path):
    with pytest.warns(SampleDataWarning) as caught:
        data = loaded(MNIST(root=str(tmp_path / "data")))
    data.setup("fit")  # pytest turns a second warning into a failure
    assert len([w for w in caught if w.category is SampleDataWarning]) == 1
    assert len(data.train_images) == 4000
    assert data.hparams.source == "sample"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("data_class", [MNIST, FashionMNIST])
def test_source_full_without_files_and_network_is_refused(offline, tmp_path, data_class):
    with pytest.raises(
        UsageError, match=f"{data_class.__name__} is not under .* put its files train-images-idx3-ubyte"
    ):
        loaded(data_class(root=str(tmp_path), source="full"))


def test_source_sample_is_refused_for_other_datasets():
    with pytest.raises(UsageError, match="only MNIST has one"):
        KMNIST(source="sample")


def test_mnist_download_writes_only_the_mnist_folder(mnist_root, tmp_path, monkeypatch):
    served = tmp_path / "served"
    served.mkdir()
    resources = []
    for path in sorted((mnist_root / "MNIST" / "raw").iterdir(), key=lambda p: p.name[0] == "t" and "10k" in p.name):
        content = gzip.compress(path.read_bytes())
        (served / f"{path.name}.gz").write_bytes(content)
        resources.append((f"{path.name}.gz", hashlib.md5(content).hexdigest()))

    class QuietHandler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
        data = loaded(MNIST(root=str(tmp_path / "data"), source="full"))
        server.shutdown()
    assert len(data.train_images) == 330
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["MNIST"]


def test_download_from_a_silent_server_times_out(tmp_path, monkeypatch):
    monkeypatch.setattr(condgen.data.download, "DOWNLOAD_TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"] * 3)
        started = time.monotonic()
        with pytest.raises(UsageError, match="cannot be downloaded"):
            loaded(MNIST(root=str(tmp_path), source="full"))
        assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:1000], "984 bytes after its header"),
        (lambda content: content[:9], "cut off in its header"),
        (lambda content: b"", "begins with nothing"),
        (lambda content: content + b"\0", "more bytes after its header"),
        (lambda content: b"\1" + content[1:], "not an IDX file"),
        (lambda content: b"\0\0\x0d" + content[3:], "not an IDX file"),
    ],
)
def test_damaged_idx_file_error_names_the_file(mnist_root, tmp_path, damage, message):
    shutil.copytree(mnist_root, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=message) as error:
        loaded(MNIST(root=str(tmp_path)))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(329, np.uint8), r"labels of shape \(329,\) for the 330 images"),
        (np.full(330, 10, np.uint8), "labels from 10 to 10, not 0 to 9"),
    ],
)
def test_labels_that_do_not_match_the_images_or_classes_are_refused(mnist_root, tmp_path, labels, message):
    shutil.copytree(mnist_root, tmp_path, dirs_exist_ok=True)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", labels)
    with pytest.raises(UsageError, match=message):
        loaded(MNIST(root=str(tmp_path)))


def test_truncated_gz_file_error_names_the_file(mnist_root, tmp_path):
    for path in (mnist_root / "MNIST" / "raw").iterdir():
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    with pytest.raises(UsageError, match=r"-ubyte\.gz cannot be read"):
        loaded(MNIST(root=str(tmp_path)))


def test_read_idx_refuses_a_huge_claimed_size_before_allocating(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**24, 28, 28)
    path.write_bytes(gzip.compress(header + bytes(10**6)))
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"-ubyte\.gz"):
        read_idx(path)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_emnist_images_are_upright_and_letters_start_at_0(digits, tmp_path):
    images = digits[0][:52]
    labels = np.arange(52, dtype=np.uint8) % 26 + 1  # the files count letters from 1
    for part in ("train", "test"):
        write_idx(tmp_path / "EMNIST" / "raw" / f"emnist-letters-{part}-images-idx3-ubyte", images.transpose(0, 2, 1))
        write_idx(tmp_path / "EMNIST" / "raw" / f"emnist-letters-{part}-labels-idx1-ubyte", labels)
    data = loaded(EMNIST("letters", root=str(tmp_path)))
    assert np.array_equal(data.train_images.images[:, 0].numpy(), images)
    assert data.train_images.labels.tolist() == [*range(26)] * 2
    assert (data.num_classes, data.classes[0], data.hparams.split) == (26, "a", "letters")


@pytest.mark.parametrize(
    ("split", "classes"),
    [("byclass", 62), ("bymerge", 47), ("balanced", 47), ("letters", 26), ("digits", 10), ("mnist", 10)],
)
def test_emnist_has_the_number_of_classes_of_its_split(split, classes):
    assert EMNIST(split).num_classes == classes


def test_qmnist_labels_are_the_first_column(digits, tmp_path):
    columns = np.stack([digits[1][::50].astype(np.int32)] + [np.full(100, 70_000, np.int32)] * 7, axis=1)
    for part in ("train", "test"):
        write_idx(tmp_path / "QMNIST" / "raw" / f"qmnist-{part}-images-idx3-ubyte", digits[0][::50])
        write_idx(tmp_path / "QMNIST" / "raw" / f"qmnist-{part}-labels-idx2-int", columns)
    assert loaded(QMNIST(root=str(tmp_path))).val_images.labels.tolist() == digits[1][::50].tolist()


def test_qmnist_labels_without_columns_are_refused(digits, tmp_path):
    raw = tmp_path / "QMNIST" / "raw"
    for images, labels in zip(QMNIST.files[::2], QMNIST.files[1::2], strict=True):
        write_idx(raw / images, digits[0][:3])
        write_idx(raw / labels, np.zeros((3, 0), dtype=np.int32))
    with pytest.raises(UsageError, match="labels"):
        QMNIST(str(tmp_path)).setup("fit")


def test_label_means_are_means_of_training_images(mnist_root):
    data = loaded(MNIST(root=str(mnist_root)))
    images, labels = data.train_images.images.float() / 255, data.train_images.labels
    for label in range(10):
        assert torch.allclose(data.label_means[label], images[labels == label].mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": [3, 10]}, "0 to 9"),
        ({"labels": [-1]}, "0 to 9"),
        ({"labels": []}, "one or more"),
        ({"labels": "3,,1"}, "a label is missing"),
        ({"labels": "3x"}, "MNIST has no 'x'"),
        ({"samples_per_label": 0}, "samples_per_label is 0"),
        ({"first_index": 100}, "first_index is 100: use 0 to 99"),
        ({"first_index": -1}, "first_index is -1: use 0 to 99"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"sample_seed": -1}, "sample_seed is -1"),
        ({"sample_seed": 2**64}, "sample_seed is"),
        ({"num_workers": -1}, "num_workers is -1"),
    ],
)
def test_dataset_refuses_invalid_settings(settings, message):
    with pytest.raises(UsageError, match=message):
        MNIST(**settings)
