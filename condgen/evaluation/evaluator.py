"""The judge: two classifiers of real images, by which samples are scored; how they are trained, kept and found."""

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
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

import condgen
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError, check_number
from condgen.files.atomic import atomic_write
from condgen.files.reading import read_limited
from condgen.metrics.classifier import Classifier, accuracy, train
from condgen.noise import uniform

MAX_WEIGHTS_BYTES, MAX_DESCRIPTION_BYTES = 2**30, 2**16  # the bundled judges have 3 MB and 1 kB
BUNDLED = Path(__file__).parent / "judges"

# Two architectures and seeds, so that features and verdict do not make the same mistakes.
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


class Judge(nn.Module):
    """Two classifiers of a data set's images, in eval mode.

    Args:
        image_shape: (C, H, W).
        num_classes: labels are 0 … ``num_classes`` - 1.
        networks: the settings of the classifiers ``features`` and ``verdict``.
    """

    sha256: str
    """Of the file that it was read from."""

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, networks: dict[str, dict[str, Any]] = NETWORKS
    ) -> None:
        super().__init__()
        self.features = Classifier(image_shape, num_classes, **networks["features"])
        self.verdict = Classifier(image_shape, num_classes, **networks["verdict"])
        self.requires_grad_(False).eval()

    def embed(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to the first classifier's embeddings (N, 128)."""
        return self.features.embed(images)


class RandomConvolutions(nn.Module):
    """A feature space that nobody trained: two layers of random convolutions, averaged over the image's quarters.

    Args:
        image_shape: (C, H, W).
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[0], 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()
        )
        for number, parameter in enumerate(self.parameters()):  # the same on any machine
            fan_in = parameter[0].numel()
            numbers = uniform(0, [number], parameter.shape)[0]
            parameter.data = (2 * numbers - 1) * (6 / fan_in) ** 0.5 * (parameter.ndim > 1)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to (N, 128)."""
        return nn.functional.adaptive_avg_pool2d(self.layers(images), 2).flatten(1)


def find_judge(data: ImageDataModule) -> Judge:
    """The judge of a data set: the one that lies beside its files, or the one that comes with condgen.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    paths = [folder / f"{data.full_name}.safetensors" for folder in (data.judges, BUNDLED)]
    found = next((path for path in paths if os.path.isfile(path)), None)
    if found is None:
        raise UsageError(
            f"There is no judge for {data.full_name} under {data.judges}: train one with `{judge_command(data)}`."
        )
    return read_judge(found, data)


def read_judge(path: Path, data: ImageDataModule) -> Judge:
    """The judge in a file, which must be the one that ``NAME.yaml`` beside it describes.

    Raises:
        UsageError: the file is damaged, or judges other images.
    """
    again = f"make it again with `{judge_command(data)} --overwrite true`"
    try:
        content, about = _read_described(path)
        if (about["num_classes"], tuple(about["image_shape"])) != (data.num_classes, data.image_shape):
            raise UsageError(f"{path} judges other images than those of {data.full_name}: {again}.")
        networks = {name: {key: about[name][key] for key in settings} for name, settings in NETWORKS.items()}
        weights = load(content)
        with torch.device("meta"):  # takes no memory: the networks may be too large for it
            expected = Judge(data.image_shape, data.num_classes, networks).state_dict()
        for name in expected.keys() | weights.keys():
            if name not in weights or name not in expected or weights[name].shape != expected[name].shape:
                raise ValueError(f"{name} does not fit the description")
        judge = Judge(data.image_shape, data.num_classes, networks)
        judge.load_state_dict(weights)
    except (*UNREADABLE, KeyError, TypeError, ArithmeticError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"{path} cannot be used ({' '.join(str(error).split())[:200]}): {again}.") from error
    judge.sha256 = about["sha256"]
    return judge


UNREADABLE = (OSError, ValueError, yaml.YAMLError, RecursionError)


def _read_described(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The content of a judge's file and its description; raises one of ``UNREADABLE``.

    While a judge is replaced, ``NAME.yaml`` describes the new one, and, as ``former``, the one that it replaces.
    """
    content = read_limited(path, MAX_WEIGHTS_BYTES)
    about = yaml.safe_load(read_limited(path.with_suffix(".yaml"), MAX_DESCRIPTION_BYTES))
    sha256 = hashlib.sha256(content).hexdigest()
    for described in (about, about.get("former")) if isinstance(about, dict) else ():
        if isinstance(described, dict) and described.get("sha256") == sha256:
            return content, described
    raise ValueError(f"{path.stem}.yaml describes another file")


def write_judge(path: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes a judge and its description.

    If the process is killed in between, the judge that was there before can still be read, or the new one already.

    Args:
        path: the file for the weights; ``NAME.yaml`` beside it gets the description.
        weights: of a :class:`Judge`.
        about: the description, without the file's ``sha256``.
    """
    content = save(weights)
    about = {**about, "sha256": hashlib.sha256(content).hexdigest()}
    former: dict[str, Any] = {}
    with contextlib.suppress(*UNREADABLE):
        former = {key: value for key, value in _read_described(path)[1].items() if key != "former"}
    _write_description(path, {**about, "former": former} if former else about)
    with atomic_write(path) as file:
        file.write(content)
    if former:
        _write_description(path, about)


def _write_description(path: Path, about: dict[str, Any]) -> None:
    with atomic_write(path.with_suffix(".yaml")) as file:
        file.write(yaml.safe_dump(about, sort_keys=False, default_flow_style=None).encode())


def judge_command(data: ImageDataModule, **options: object) -> str:
    """The command line that trains a data set's judge."""
    kind, source = type(data), data.hparams["source"]
    settings = {
        "data": data.dataset
        if kind.__module__.startswith("condgen.data.")
        else f"{kind.__module__}.{kind.__qualname__}",
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
        dirpath: the folder that it is written into; ``judges`` beside the data set's files if not given.
        epochs: passes over the training images.
        seed: of the first weights, the images' order and their augmentation.
        overwrite: put it in the place of an existing one, instead of refusing.
    """
    check_number("epochs", epochs, at_least=1, at_most=10_000)
    check_number("seed", seed, at_least=0, at_most=2**32 - 2)
    path = (Path(dirpath) if dirpath else data.judges) / f"{data.full_name}.safetensors"
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
    weights: dict[str, Tensor] = {}
    for number, (name, network) in enumerate(NETWORKS.items()):
        torch.manual_seed(seed + number)  # for each, so that neither's weights hang on the other's architecture
        classifier = Classifier(data.image_shape, data.num_classes, **network).to(device)
        train(
            classifier,
            data.train_images.images,
            data.train_images.labels,
            epochs=epochs,
            seed=seed + number,
            augment=True,
            progress=name,
        )
        about[name] = {
            **network,
            "epochs": epochs,
            "seed": seed + number,
            "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
            "test_accuracy": round(accuracy(classifier, data.val_images.images, data.val_images.labels), 6),
        }
        weights |= {f"{name}.{key}": tensor.cpu().contiguous() for key, tensor in classifier.state_dict().items()}
    write_judge(path, weights, about)
    for name in NETWORKS:
        print(f"{name}: {about[name]['test_accuracy']:.2%} of {len(data.val_images):,} test images")
    print(f"Judge: {path}, {path.stem}.yaml")
