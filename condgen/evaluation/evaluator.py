"""The evaluator: two classifiers of real images that score samples, and ``condgen judge``, which trains them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load, save
from torch import Tensor, nn

import condgen
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError, check_number, printable
from condgen.files.atomic import atomic_write
from condgen.files.config import read_config
from condgen.files.reading import read_limited
from condgen.metrics.classifier import Classifier, accuracy, train
from condgen.noise import uniform

MAX_WEIGHTS_BYTES = 2**30  # the bundled evaluators have 3 MB
BUNDLED = Path(__file__).parent / "judges"

# Two architectures and seeds, so that embedding and classification do not make the same mistakes.
NETWORKS: dict[str, dict[str, Any]] = {
    "features": {
        "layers": [[32, 3, 1], [32, 3, 2], [64, 3, 1], [64, 3, 2], [96, 3, 1], [96, 3, 2]],
        "embedding_dim": 128,
        "dropout": 0.4,
    },
    "verdict": {
        "layers": [[24, 3, 1], [32, 3, 1], [48, 3, 2], [48, 3, 1], [64, 3, 2], [64, 3, 1], [96, 3, 2]],
        "embedding_dim": 128,
        "dropout": 0.4,
    },
}


class Evaluator(nn.Module):
    """Two classifiers of a data set's images, in eval mode: one for its embedding, one for its labels.

    Args:
        image_shape: (C, H, W).
        num_classes: labels are 0 … ``num_classes`` - 1.
        networks: settings of the classifiers, as ``NETWORKS``.
    """

    sha256: str
    """Of the file with the weights."""

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, networks: dict[str, dict[str, Any]] = NETWORKS
    ) -> None:
        super().__init__()
        self.features = Classifier(image_shape, num_classes, **networks["features"])
        self.classifier = Classifier(image_shape, num_classes, **networks["verdict"])
        self.requires_grad_(False).eval()

    def embed(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to the first classifier's embeddings (N, 128)."""
        return self.features.embed(images)


class RandomConvolutions(nn.Module):
    """An untrained feature space: two layers of random convolutions, averaged over the image's quarters.

    Args:
        image_shape: (C, H, W).
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[0], 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()
        )
        for number, parameter in enumerate(self.parameters()):  # the same weights on every machine
            fan_in = parameter[0].numel()
            numbers = uniform(0, [number], parameter.shape)[0]
            parameter.data = (2 * numbers - 1) * (6 / fan_in) ** 0.5 * (parameter.ndim > 1)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to (N, 128)."""
        return nn.functional.adaptive_avg_pool2d(self.layers(images), 2).flatten(1)


def judges_folder(data: ImageDataModule) -> Path:
    """The folder for the evaluators of a data set that are trained here."""
    return data.root / data.dataset / "judges"


def find_evaluator(data: ImageDataModule) -> Evaluator:
    """The evaluator of a data set: the one beside its files, or the bundled one.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    for folder in (judges_folder(data), BUNDLED):
        if os.path.isfile(path := folder / f"{data.full_name}.safetensors"):
            return read_evaluator(path, data)
    train = judge_command(data)
    raise UsageError(f"There is no judge for {data.full_name} under {judges_folder(data)}: train one with `{train}`.")


def read_evaluator(path: Path, data: ImageDataModule) -> Evaluator:
    """The evaluator in a file, which ``NAME.yaml`` beside it must describe.

    Raises:
        UsageError: the file is damaged, or classifies other images.
    """
    try:
        content, about = _read_described(path)
        if (about["num_classes"], tuple(about["image_shape"])) != (data.num_classes, data.image_shape):
            raise ValueError(f"its images are not those of {data.full_name}")
        networks = {name: {key: about[name][key] for key in settings} for name, settings in NETWORKS.items()}
        weights = {name.replace("verdict.", "classifier.", 1): tensor for name, tensor in load(content).items()}
        with torch.device("meta"):  # takes no memory: the networks may be too large for it
            evaluator = Evaluator(data.image_shape, data.num_classes, networks)
        if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in evaluator.state_dict().items()}:
            raise ValueError("its weights do not fit its description")
        evaluator.to_empty(device="cpu").load_state_dict(weights)
    except Exception as error:  # a damaged file or description can raise almost anything
        reason = printable(" ".join(str(error).split())[:200])
        again = f"make it again with `{judge_command(data)} --overwrite true`"
        raise UsageError(f"{path} cannot be used ({reason}): {again}.") from error
    evaluator.sha256 = about["sha256"]
    return evaluator


def _read_described(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The content of an evaluator's file and its description.

    While an evaluator is replaced, ``NAME.yaml`` describes the new file and, as ``former``, the one that it replaces.
    """
    content = read_limited(path, MAX_WEIGHTS_BYTES)
    about = read_config(str(path.with_suffix(".yaml")))
    sha256 = hashlib.sha256(content).hexdigest()
    for described in (about, about.get("former")):
        if isinstance(described, dict) and described.get("sha256") == sha256:
            return content, described
    raise ValueError(f"{path.stem}.yaml describes another file")


def write_evaluator(path: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes an evaluator and its description so that a kill leaves the former evaluator or the new one.

    Args:
        path: the file for the weights; ``NAME.yaml`` beside it gets the description.
        weights: of each classifier, with the name in ``NETWORKS`` as prefix.
        about: the description, without the file's ``sha256``.
    """
    content = save(weights)
    about = {**about, "sha256": hashlib.sha256(content).hexdigest()}
    former: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # there is none, or it is damaged
        former = {key: value for key, value in _read_described(path)[1].items() if key != "former"}
    _write_yaml(path, {**about, "former": former})
    with atomic_write(path) as file:
        file.write(content)
    _write_yaml(path, about)


def _write_yaml(path: Path, about: dict[str, Any]) -> None:
    with atomic_write(path.with_suffix(".yaml")) as file:
        file.write(yaml.safe_dump(about, sort_keys=False, default_flow_style=None).encode())


def judge_command(data: ImageDataModule, **options: object) -> str:
    """The command line that trains a data set's evaluator."""
    kind, source = type(data), data.hparams["source"]
    is_own = kind.__module__.startswith("condgen.data.")
    settings = {
        "data": data.dataset if is_own else f"{kind.__module__}.{kind.__qualname__}",
        "data.split": data.hparams.get("split"),
        "data.root": data.root,
        "data.source": source if source == "sample" else None,
        **options,
    }
    return "condgen judge" + "".join(f" --{k} {shlex.quote(str(v))}" for k, v in settings.items() if v is not None)


def judge(
    data: ImageDataModule, dirpath: str | None = None, epochs: int = 15, seed: int = 0, overwrite: bool = False
) -> None:
    """Trains the judge of a data set: the two classifiers by which samples are scored.

    Args:
        data: the data set.
        dirpath: the folder for its files; ``judges`` beside the data set's files if not given.
        epochs: passes over the training images.
        seed: of the initial weights, the images' order and their augmentation.
        overwrite: replace an existing one.
    """
    check_number("epochs", epochs, at_least=1, at_most=10_000)
    check_number("seed", seed, at_least=0, at_most=2**32 - 2)
    path = (Path(dirpath) if dirpath else judges_folder(data)) / f"{data.full_name}.safetensors"
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists: give another folder as --dirpath, or --overwrite true.")
    existing = next(folder for folder in path.absolute().parents if folder.is_dir())
    if not os.access(existing, os.W_OK):
        raise UsageError(f"{path} cannot be written into {existing}: give another folder as --dirpath.")
    data.prepare_data()
    data.setup("fit")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about: dict[str, Any] = {
        "command": judge_command(data, dirpath=dirpath, epochs=epochs, seed=seed),
        "versions": {"condgen": condgen.__version__, "torch": str(torch.__version__)},
        "device": f"{device.type}, {torch.get_num_threads()} threads",
        "num_classes": data.num_classes,
        "image_shape": list(data.image_shape),
        "training_images": len(data.train_images),
        "test_images": len(data.val_images),
    }
    images, labels = data.train_images.images, data.train_images.labels
    weights: dict[str, Tensor] = {}
    for number, (name, network) in enumerate(NETWORKS.items(), start=seed):
        torch.manual_seed(number)  # for each, so that neither's weights depend on the other's architecture
        classifier = Classifier(data.image_shape, data.num_classes, **network).to(device)
        train(classifier, images, labels, epochs=epochs, seed=number, augment=True, progress=name)
        about[name] = {
            **network,
            "epochs": epochs,
            "seed": number,
            "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
            "test_accuracy": round(accuracy(classifier, data.val_images.images, data.val_images.labels), 6),
        }
        weights |= {f"{name}.{key}": tensor.cpu().contiguous() for key, tensor in classifier.state_dict().items()}
    write_evaluator(path, weights, about)
    for name in NETWORKS:
        print(f"{name}: {about[name]['test_accuracy']:.2%} of {len(data.val_images):,} test images")
    print(f"Judge: {path}, {path.stem}.yaml")
