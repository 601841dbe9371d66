"""The evaluator used to score samples, and the ``condgen evaluator`` command that trains it.

An evaluator is a pair of classifiers trained on real images.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

import condgen
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError, check_number, short_reason
from condgen.files.atomic import atomic_write
from condgen.files.reading import read_limited
from condgen.metrics.classifier import Classifier, accuracy, train
from condgen.noise import uniform

MAX_WEIGHTS_BYTES = 2**30  # the evaluators that ship with condgen take up 3 MB
BUNDLED = Path(__file__).parent / "evaluators"

# Use different architectures and seeds so that the two classifiers don't make the same mistakes.
NETWORKS: dict[str, dict[str, Any]] = {
    "features": {
        "layers": [[32, 3, 1], [32, 3, 2], [64, 3, 1], [64, 3, 2], [96, 3, 1], [96, 3, 2]],
        "embedding_dim": 128,
        "dropout": 0.4,
    },
    "classifier": {
        "layers": [[24, 3, 1], [32, 3, 1], [48, 3, 2], [48, 3, 1], [64, 3, 2], [64, 3, 1], [96, 3, 2]],
        "embedding_dim": 128,
        "dropout": 0.4,
    },
}


class Evaluator(nn.Module):
    """A pair of image classifiers for a dataset, in eval mode.

    ``features`` is used to compute embeddings and ``classifier`` to predict labels.

    Args:
        image_shape: The image shape (C, H, W).
        num_classes: The number of classes. Labels range from 0 to ``num_classes - 1``.
        networks: The settings of both classifiers, in the same format as ``NETWORKS``.
    """

    sha256: str
    """SHA-256 of the weights."""

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, networks: dict[str, dict[str, Any]] = NETWORKS
    ) -> None:
        super().__init__()
        self.features = Classifier(image_shape, num_classes, **networks["features"])
        self.classifier = Classifier(image_shape, num_classes, **networks["classifier"])
        self.requires_grad_(False).eval()

    def embed(self, images: Tensor) -> Tensor:
        """Embeds images of shape (N, C, H, W) in [0, 1] and returns a tensor of shape (N, 128)."""
        return self.features.embed(images)


class RandomConvolutions(nn.Module):
    """An untrained feature extractor with two random convolutions, average-pooled down to 2x2."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[0], 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()
        )
        for number, parameter in enumerate(self.parameters()):  # use the same weights on every machine
            fan_in = parameter[0].numel()
            numbers = uniform(0, [number], parameter.shape)[0]
            parameter.data = (2 * numbers - 1) * (6 / fan_in) ** 0.5 * (parameter.ndim > 1)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Computes features of shape (N, 128) from images of shape (N, C, H, W) in [0, 1]."""
        return nn.functional.adaptive_avg_pool2d(self.layers(images), 2).flatten(1)


def evaluators_folder(data: ImageDataModule) -> Path:
    """Returns the folder that ``condgen evaluator`` saves to for the given dataset."""
    return data.own_folder / "evaluators"


def find_evaluator(data: ImageDataModule) -> Evaluator | None:
    """Loads the evaluator from the dataset's folder, or the one that ships with condgen.

    Returns ``None`` if there is no evaluator for this dataset.

    Raises:
        UsageError: If the evaluator file is damaged.
    """
    for folder in (evaluators_folder(data), BUNDLED):
        if os.path.isfile(path := folder / f"{data.full_name}.safetensors"):
            return read_evaluator(path, data)
    return None


def no_evaluator(data: ImageDataModule) -> str:
    """Returns the error message to show when a dataset has no evaluator."""
    return (
        f"There is no evaluator for {data.full_name} in {evaluators_folder(data)}. Train one with "
        f"`{evaluator_command(data)}`."
    )


def read_evaluator(path: Path, data: ImageDataModule) -> Evaluator:
    """Loads an evaluator saved by :func:`train_evaluator`.

    Args:
        path: Path to the evaluator file.
        data: The dataset to use the evaluator for.

    Raises:
        UsageError: If the file is damaged, or if the evaluator expects a different image shape or number of classes.
    """
    try:
        weights = load(read_limited(path, MAX_WEIGHTS_BYTES))
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["condgen"])
        if about["sha256"] != sha256_of(weights):
            raise ValueError("its weights are damaged")
        if (about["num_classes"], tuple(about["image_shape"])) != (data.num_classes, data.image_shape):
            raise ValueError(f"it was trained on other images than those of {data.full_name}")
        networks = {name: {key: about[name][key] for key in settings} for name, settings in NETWORKS.items()}
        with torch.device("meta"):  # avoids allocating memory, since a damaged file may describe huge networks
            evaluator = Evaluator(data.image_shape, data.num_classes, networks)
        if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in evaluator.state_dict().items()}:
            raise ValueError("its weights do not match its description")
        evaluator.to_empty(device="cpu").load_state_dict(weights)
    except Exception as error:  # a damaged file can raise almost anything
        again = f"Replace it with `{evaluator_command(data)} --overwrite true`"
        raise UsageError(f"{path} cannot be used ({short_reason(error)}). {again}.") from error
    evaluator.sha256 = about["sha256"]
    return evaluator


def sha256_of(weights: dict[str, Tensor]) -> str:
    """Computes the SHA-256 hash of the weights, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def evaluator_command(data: ImageDataModule) -> str:
    """Returns the ``condgen evaluator`` command that trains an evaluator for the given dataset."""
    kind = type(data)
    is_own = kind.__module__.startswith("condgen.data.")
    name = data.dataset if is_own else f"{kind.__module__}.{kind.__qualname__}"
    options = {"data": name, **{f"data.{setting}": data.hparams[setting] for setting in data.image_settings}}
    return "condgen evaluator" + "".join(f" --{option} {shlex.quote(str(v))}" for option, v in options.items())


def train_evaluator(
    data: ImageDataModule, dirpath: str | None = None, epochs: int = 15, seed: int = 0, overwrite: bool = False
) -> None:
    """Trains an evaluator, i.e. the two classifiers that are used to score samples.

    Args:
        data: The dataset to train on.
        dirpath: The folder to save the evaluator to. Defaults to ``evaluators`` next to the dataset files.
        epochs: The number of training epochs.
        seed: The random seed for weight initialization, shuffling, and augmentation.
        overwrite: Whether to replace an existing evaluator.
    """
    check_number("epochs", epochs, at_least=1, at_most=10_000)
    check_number("seed", seed, at_least=0, at_most=2**32 - 2)
    path = (Path(dirpath) if dirpath else evaluators_folder(data)) / f"{data.full_name}.safetensors"
    if path.exists() and not overwrite:
        raise UsageError(f"{path} already exists. Use another folder (--dirpath), or replace it with --overwrite true.")
    existing = next(folder for folder in path.absolute().parents if folder.is_dir())
    if not os.access(existing, os.W_OK):
        raise UsageError(f"{path} cannot be written: {existing} is not writable. Use another folder (--dirpath).")
    data.prepare_data()
    data.setup("fit")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about: dict[str, Any] = {
        "command": f"{evaluator_command(data)} --epochs {epochs} --seed {seed}",
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
        torch.manual_seed(number)  # make the weights independent of the other classifier
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
    print(f"Evaluator: {path}")


def write_evaluator(path: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Saves the evaluator weights to a safetensors file, along with some metadata.

    Args:
        path: Where to save the file.
        weights: The weights of both classifiers, whose keys start with the classifier's name in ``NETWORKS``.
        about: Details about the training run.
    """
    description = json.dumps({**about, "sha256": sha256_of(weights)})
    with atomic_write(path) as file:
        file.write(save(weights, {"condgen": description}))
