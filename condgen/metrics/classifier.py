"""A small convolutional classifier and its training loop."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from condgen.noise import EVALUATION, permutation, uniform

# Largest random rotation (radians), scaling, and shift (fraction of the image's width). Digits tolerate larger values,
# but clothes do not.
ROTATION, SCALE, SHIFT = math.radians(4.8), 0.048, 0.032


class Classifier(nn.Module):
    """Convolutional classifier: convolutions with batch norm and ReLU, a linear embedding layer and a linear head.

    Args:
        image_shape: Shape (C, H, W) of the images.
        num_classes: Number of classes. Labels are 0 … ``num_classes`` - 1.
        layers: Output channels, kernel size and stride of each convolution.
        embedding_dim: Size D of the embedding.
        dropout: Dropout probability after the last convolution.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        layers: Sequence[Sequence[int]],
        embedding_dim: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        blocks: list[nn.Module] = []
        for out, kernel, stride in layers:
            blocks += [nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out)]
            blocks += [nn.ReLU()]
            channels, height, width = out, -(-height // stride), -(-width // stride)
        self.convolutions = nn.Sequential(*blocks, nn.Flatten(), nn.Dropout(dropout))
        self.embedding = nn.Sequential(
            nn.Linear(channels * height * width, embedding_dim, bias=False), nn.BatchNorm1d(embedding_dim), nn.ReLU()
        )
        self.head = nn.Linear(embedding_dim, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """Computes the embeddings (N, D) of images (N, C, H, W) in [0, 1]. No element is negative."""
        return self.embedding(self.convolutions(images))

    def forward(self, images: Tensor) -> Tensor:
        """Computes the logits (N, num_classes) of images (N, C, H, W) in [0, 1]."""
        return self.head(self.embed(images))


def random_affine(images: Tensor, numbers: Tensor) -> Tensor:
    """Rotates, scales and shifts each image by a small random amount.

    Args:
        images: Images with shape (N, C, H, W).
        numbers: Random numbers in [0, 1) with shape (N, 4). They determine each image's rotation, scaling, and
            horizontal and vertical shift.
    """
    angle, scale, x, y = (2 * numbers - 1).mul(numbers.new_tensor([ROTATION, SCALE, 2 * SHIFT, 2 * SHIFT])).unbind(1)
    cos, sin = angle.cos() * (1 + scale), angle.sin() * (1 + scale)
    theta = torch.stack([torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)], 1)  # (N, 2, 3)
    positions = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, positions, align_corners=False)


def batch_size_for(examples: int) -> int:
    """Returns the batch size that :func:`train` uses.

    It is an eighth of the number of examples, but at least 16 and at most 128, and never more than the number of
    examples.
    """
    return min(examples, max(16, min(128, examples // 8)))


def train(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    seed: int,
    augment: bool,
    progress: str | None = None,
) -> None:
    """Trains a classifier in place and leaves it in eval mode.

    The loss is cross-entropy. The optimizer is AdamW with a one-cycle learning-rate schedule.

    Args:
        classifier: Classifier with its initial weights.
        images: Images with shape (N, C, H, W) as uint8. N must be at least 2.
        labels: Labels with shape (N,) as int64.
        epochs: Number of passes over the images. The last partial batch of each epoch is dropped.
        seed: Seed of the order of the images and of the augmentation.
        augment: Whether to apply :func:`random_affine` to each batch.
        progress: Title of the progress bar. If None, no progress bar is shown.
    """
    batch_size = batch_size_for(len(images))
    batches = len(images) // batch_size
    device = next(classifier.parameters()).device
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.02)
    steps = max(2, epochs * batches)
    warm_up = max(0.1, 2 / steps)  # at least two steps, because OneCycleLR divides by the number of warm-up steps - 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=warm_up)
    classifier.train()
    with tqdm(total=epochs * batches, desc=progress, disable=progress is None, mininterval=1) as bar:
        for epoch in range(epochs):
            order = permutation(seed, len(images), epoch)
            for batch in range(batches):
                rows = order[batch * batch_size : (batch + 1) * batch_size]
                batch_images = images[rows].to(device).float().div(255)
                if augment:
                    numbers = uniform(seed, range(len(rows)), (4,), stream=EVALUATION, step=(batch, epoch))
                    batch_images = random_affine(batch_images, numbers.to(device))
                loss = F.cross_entropy(classifier(batch_images), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    classifier.eval()


@torch.no_grad()
def in_parts(function: Callable[[Tensor], Tensor], images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Applies a function to images in batches of 1,000 and concatenates the results on the CPU.

    Args:
        function: Function of a batch of images in [0, 1].
        images: Images with shape (N, C, H, W) as uint8. Each batch is scaled to [0, 1].
        device: Device on which the function is computed.
    """
    return torch.cat([function(part.to(device).float().div(255)).cpu() for part in images.split(1000)])


def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Computes the accuracy of a classifier, in [0, 1].

    Args:
        classifier: Classifier that maps images in [0, 1] to logits.
        images: Images with shape (N, C, H, W) as uint8.
        labels: Labels with shape (N,).
    """
    predicted = in_parts(lambda part: classifier(part).argmax(1), images, next(classifier.parameters()).device)
    return float((predicted == labels).double().mean())
