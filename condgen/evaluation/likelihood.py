"""The likelihood of test images: bits per dimension, and the accuracy of the generator as a classifier."""

import math
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.evaluation.scores import rounded, rows_of
from condgen.generators import ConditionalGenerator
from condgen.sampling.generate import rank_zero_progress

PAIRS = 1000  # pairs of an image and a label to classify, i.e. 100 test images for 10 classes
BLOCK = 50  # how many pairs to compute at once
# Largest difference between the two numbers of steps, in bits per dimension. Halving the steps of a fourth-order method
# increases the error 16-fold, so the error of the larger number is about a fifteenth of the difference.
TOLERANCE = 0.1


class Likelihoods(NamedTuple):
    """The log-likelihoods of M test images in nats per image.

    Args:
        images: The test images with their labels.
        fine: log p(image | its label), of shape (M,).
        coarse: The same using half as many steps, of shape (M,).
        relative: log p(image | label) for all labels up to a constant for each image, of shape (M, num_classes).
        steps: The number of steps used for ``fine``.
    """

    images: Images
    fine: Tensor
    coarse: Tensor
    relative: Tensor
    steps: int

    @property
    def bits_per_dimension(self) -> Tensor:
        """Bits per dimension of shape (M,), i.e. how many bits a pixel takes if the model is used for compression."""
        return self._bits(-self.fine)

    @property
    def error(self) -> float:
        """Mean absolute difference between the two numbers of steps, in bits per dimension."""
        return float(self._bits((self.coarse - self.fine).abs()).mean())

    def _bits(self, nats: Tensor) -> Tensor:
        """Converts nats per image to bits per dimension."""
        return nats.double() / (self.images.images[0].numel() * math.log(2))

    @property
    def has_converged(self) -> bool:
        return self.error <= TOLERANCE  # False for NaN

    def scores(self) -> dict[str, dict[str, Any]]:
        """Returns the scores for ``scores.json``. Their values are None if the likelihood has not converged."""
        bits = self.bits_per_dimension
        is_right = (self.relative.argmax(1) == self.images.labels).double()
        accuracy, number = float(is_right.mean()), len(bits)
        found = {
            "bits_per_dimension": (float(bits.mean()), float(bits.std()) / math.sqrt(number)),
            "likelihood_accuracy": (accuracy, math.sqrt(accuracy * (1 - accuracy) / number)),
        }
        nothing = {"real": None, "real_uncertainty": None}
        return {
            name: {
                "value": rounded(value) if self.has_converged else None,
                "uncertainty": rounded(error) if self.has_converged else None,
                **nothing,
                "images": number,
            }
            for name, (value, error) in found.items()
        }


def likelihood_images(data: ImageDataModule) -> Images:
    """Returns the test images to use, which are evenly spaced over the test set and always the same."""
    number = min(len(data.val_images), max(2, PAIRS // data.num_classes))
    return rows_of(data.val_images, torch.arange(number) * len(data.val_images) // number)


def measure_likelihoods(trainer: Trainer, generator: ConditionalGenerator) -> Likelihoods | None:
    """Computes the log-likelihoods of test images, splitting the work across processes. Must be called on all ranks.

    The result is the same for any number of processes. It is None for families without a likelihood.

    Args:
        trainer: The trainer to get the processes and data module from.
        generator: The generator, in eval mode.
    """
    if not generator.likelihood_steps:
        return None
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
    images, steps = likelihood_images(data), generator.likelihood_steps
    own_label = _pairs(images.labels[:, None]).split(BLOCK)
    every_label = _pairs(torch.arange(data.num_classes).expand(len(images), -1)).split(BLOCK)
    estimate, compare = generator.log_likelihood, generator.relative_log_likelihood
    blocks = [  # (method, number of steps, rows of the images and labels)
        *((estimate, steps, pairs) for pairs in own_label),
        *((estimate, steps // 2, pairs) for pairs in own_label),
        *((compare, steps, pairs) for pairs in every_label),
    ]
    found = [torch.zeros(len(pairs), device=generator.device) for _, _, pairs in blocks]
    own = range(trainer.global_rank, len(blocks), trainer.world_size)
    for number in rank_zero_progress(trainer, own, "Likelihood"):
        method, block_steps, pairs = blocks[number]
        rows, labels = pairs.unbind(1)
        pixels = images.images[rows].to(generator.device) / 255
        log_likelihood = method(pixels, labels.to(generator.device), rows.tolist(), block_steps)
        assert log_likelihood is not None
        found[number] += log_likelihood.detach()
    total = trainer.strategy.reduce(torch.cat(found), reduce_op="sum").cpu()  # those of other ranks are zero
    fine, coarse, relative = total.split((len(images), len(images), len(images) * data.num_classes))
    return Likelihoods(images, fine, coarse, relative.view(len(images), -1), steps)


def _pairs(labels: Tensor) -> Tensor:
    """Lists the row of the image and the label for each element of ``labels`` (M, L), as a tensor (M * L, 2)."""
    rows = torch.arange(len(labels))[:, None].expand_as(labels)
    return torch.stack((rows, labels), dim=2).flatten(0, 1)
