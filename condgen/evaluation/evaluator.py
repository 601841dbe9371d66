"""The evaluator, and the command ``condgen evaluator``, which trains it.

An evaluator consists of two classifiers that are trained on real images. It is used to score samples.
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

MAX_WEIGHTS_BYTES = 2**30  # the evaluators that come with condgen have 3 MB
BUNDLED = Path(__file__).parent / "evaluators"

# The two classifiers have different architectures and seeds, so that they do not make the same mistakes.
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
    """Two classifiers of a data set's images, in eval mode.

    ``features`` computes embeddings, and ``classifier`` predicts labels.

    Args:
        image_shape: Shape (C, H, W) of the images.
        num_classes: Number of classes. Labels are 0 … ``num_classes`` - 1.
        networks: Settings of the two classifiers, in the format of ``NETWORKS``.
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
        """Computes the embeddings (N, 128) of images (N, C, H, W) in [0, 1] with the first classifier."""
        return self.features.embed(images)


class RandomConvolutions(nn.Module):
    """Untrained feature extractor: two random convolutions, averaged over each quarter of the image.

    Args:
        image_shape: Shape (C, H, W) of the images.
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
        """Computes the features (N, 128) of images (N, C, H, W) in [0, 1]."""
        return nn.functional.adaptive_avg_pool2d(self.layers(images), 2).flatten(1)


def evaluators_folder(data: ImageDataModule) -> Path:
    """Returns the folder to which ``condgen evaluator`` writes the evaluators of a data set."""
    return data.own_folder / "evaluators"


def find_evaluator(data: ImageDataModule) -> Evaluator | None:
    """Loads the evaluator of a data set from the data set's folder, or the evaluator that comes with condgen.

    Returns None if there is no evaluator for the data set.

    Raises:
        UsageError: If the evaluator's file is damaged.
    """
    for folder in (evaluators_folder(data), BUNDLED):
        if os.path.isfile(path := folder / f"{data.full_name}.safetensors"):
            return read_evaluator(path, data)
    return None


def no_evaluator(data: ImageDataModule) -> str:
    """Returns the message for a data set that has no evaluator."""
    return (
        f"There is no evaluator for {data.full_name} in {evaluators_folder(data)}. Train one with "
        f"`{evaluator_command(data)}`."
    )


def read_evaluator(path: Path, data: ImageDataModule) -> Evaluator:
    """Loads an evaluator from a file that :func:`train_evaluator` wrote.

    Args:
        path: Path to the file.
        data: Data set whose images the evaluator must classify.

    Raises:
        UsageError: If the file is damaged, or if the evaluator was trained on images with another shape or number of
            classes.
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
        with torch.device("meta"):  # allocates no memory: a damaged file may describe huge networks
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
    """Computes the SHA-256 of weights, which are sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def evaluator_command(data: ImageDataModule) -> str:
    """Returns the ``condgen evaluator`` command that trains the evaluator of a data set."""
    kind = type(data)
    is_own = kind.__module__.startswith("condgen.data.")
    name = data.dataset if is_own else f"{kind.__module__}.{kind.__qualname__}"
    options = {"data": name, **{f"data.{setting}": data.hparams[setting] for setting in data.image_settings}}
    return "condgen evaluator" + "".join(f" --{option} {shlex.quote(str(v))}" for option, v in options.items())


def train_evaluator(
    data: ImageDataModule, dirpath: str | None = None, epochs: int = 15, seed: int = 0, overwrite: bool = False
) -> None:
    """Trains the evaluator of a data set, which consists of the two classifiers that score samples.

    Args:
        data: Data set to train on.
        dirpath: Folder for the evaluator's file. If not given, the folder ``evaluators`` beside the data set's files
            is used.
        epochs: Number of passes over the training images.
        seed: Seed of the initial weights, the order of the images and their augmentation.
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
        torch.manual_seed(number)  # before each classifier, so that its weights do not depend on the other one
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
    """Writes the weights of an evaluator and their description to a safetensors file.

    Args:
        path: Path to the file.
        weights: Weights of both classifiers. Each name begins with the classifier's name in ``NETWORKS``.
        about: Description of the training run.
    """
    description = json.dumps({**about, "sha256": sha256_of(weights)})
    with atomic_write(path) as file:
        file.write(save(weights, {"condgen": description}))
