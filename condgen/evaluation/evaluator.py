"""The evaluator: two classifiers of real images that score samples, and ``condgen evaluator``, which trains them."""

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
from condgen.errors import UsageError, check_number, printable
from condgen.files.atomic import atomic_write
from condgen.files.reading import read_limited
from condgen.metrics.classifier import Classifier, accuracy, train
from condgen.noise import uniform

MAX_WEIGHTS_BYTES = 2**30  # the bundled evaluators have 3 MB
BUNDLED = Path(__file__).parent / "evaluators"

# Two architectures and seeds, so that embedding and classification do not make the same mistakes.
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
    """Two classifiers of a data set's images, in eval mode: one for its embedding, one for its labels.

    Args:
        image_shape: (C, H, W).
        num_classes: labels are 0 … ``num_classes`` - 1.
        networks: settings of the classifiers, as ``NETWORKS``.
    """

    sha256: str
    """Of the weights."""

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, networks: dict[str, dict[str, Any]] = NETWORKS
    ) -> None:
        super().__init__()
        self.features = Classifier(image_shape, num_classes, **networks["features"])
        self.classifier = Classifier(image_shape, num_classes, **networks["classifier"])
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


def evaluators_folder(data: ImageDataModule) -> Path:
    """Returns the folder for the evaluators of a data set that are trained here."""
    return data.own_folder / "evaluators"


def find_evaluator(data: ImageDataModule) -> Evaluator:
    """Returns the evaluator of a data set: the one beside its files, or the bundled one.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    for folder in (evaluators_folder(data), BUNDLED):
        if os.path.isfile(path := folder / f"{data.full_name}.safetensors"):
            return read_evaluator(path, data)
    raise UsageError(
        f"There is no evaluator for {data.full_name} in {evaluators_folder(data)}: train one with "
        f"`{evaluator_command(data)}`."
    )


def read_evaluator(path: Path, data: ImageDataModule) -> Evaluator:
    """Returns the evaluator in a file that :func:`train_evaluator` wrote.

    Raises:
        UsageError: the file is damaged, or classifies other images.
    """
    try:
        weights = load(read_limited(path, MAX_WEIGHTS_BYTES))
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["condgen"])
        if about["sha256"] != sha256_of(weights):
            raise ValueError("its weights are damaged")
        if (about["num_classes"], tuple(about["image_shape"])) != (data.num_classes, data.image_shape):
            raise ValueError(f"its images are not those of {data.full_name}")
        networks = {name: {key: about[name][key] for key in settings} for name, settings in NETWORKS.items()}
        with torch.device("meta"):  # takes no memory: the networks may be too large for it
            evaluator = Evaluator(data.image_shape, data.num_classes, networks)
        if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in evaluator.state_dict().items()}:
            raise ValueError("its weights do not fit its description")
        evaluator.to_empty(device="cpu").load_state_dict(weights)
    except Exception as error:  # a damaged file can raise almost anything
        reason = printable(" ".join(str(error).split())[:200])
        again = f"replace it with `{evaluator_command(data)} --overwrite true`"
        raise UsageError(f"{path} cannot be used ({reason}): {again}.") from error
    evaluator.sha256 = about["sha256"]
    return evaluator


def sha256_of(weights: dict[str, Tensor]) -> str:
    """Returns the SHA-256 of weights, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def evaluator_command(data: ImageDataModule) -> str:
    """Returns the command line that trains a data set's evaluator."""
    kind = type(data)
    is_own = kind.__module__.startswith("condgen.data.")
    name = data.dataset if is_own else f"{kind.__module__}.{kind.__qualname__}"
    options = {"data": name, **{f"data.{setting}": data.hparams[setting] for setting in data.image_settings}}
    return "condgen evaluator" + "".join(f" --{option} {shlex.quote(str(v))}" for option, v in options.items())


def train_evaluator(
    data: ImageDataModule, dirpath: str | None = None, epochs: int = 15, seed: int = 0, overwrite: bool = False
) -> None:
    """Trains the evaluator of a data set: the two classifiers by which samples are scored.

    Args:
        data: the data set.
        dirpath: the folder for the file; ``evaluators`` beside the data set's files if not given.
        epochs: passes over the training images.
        seed: of the initial weights, the images' order and their augmentation.
        overwrite: replace an existing one.
    """
    check_number("epochs", epochs, at_least=1, at_most=10_000)
    check_number("seed", seed, at_least=0, at_most=2**32 - 2)
    path = (Path(dirpath) if dirpath else evaluators_folder(data)) / f"{data.full_name}.safetensors"
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists: give another folder as --dirpath, or --overwrite true.")
    existing = next(folder for folder in path.absolute().parents if folder.is_dir())
    if not os.access(existing, os.W_OK):
        raise UsageError(f"{path} cannot be written into {existing}: give another folder as --dirpath.")
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
    print(f"Evaluator: {path}")


def write_evaluator(path: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes an evaluator's weights, whose names begin with those in ``NETWORKS``, and their description."""
    description = json.dumps({**about, "sha256": sha256_of(weights)})
    with atomic_write(path) as file:
        file.write(save(weights, {"condgen": description}))
