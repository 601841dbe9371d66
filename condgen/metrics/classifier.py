"""Small convolutional classifiers and their training."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from condgen.noise import EVALUATION, permutation, uniform

# The largest random rotation (radians), scaling and shift (parts of the image). Digits tolerate more, clothes do not.
ROTATION, SCALE, SHIFT = math.radians(4.8), 0.048, 0.032


class Classifier(nn.Module):
    """Convolutions, each with batch norm and ReLU, then a linear embedding and the classes' logits.

    Args:
        image_shape: (C, H, W).
        num_classes: labels are 0 … ``num_classes`` - 1.
        layers: channels, kernel size and stride of each convolution.
        embedding_dim: D, the size of the embedding.
        dropout: dropout probability after the last convolution.
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
        """Images (N, C, H, W) in [0, 1] to embeddings (N, D), all at least 0."""
        return self.embedding(self.convolutions(images))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to logits (N, num_classes)."""
        return self.head(self.embed(images))


def random_affine(images: Tensor, numbers: Tensor) -> Tensor:
    """Rotates, scales and shifts each image (N, C, H, W) a little, by its four random ``numbers`` (N, 4) in [0, 1)."""
    angle, scale, x, y = (2 * numbers - 1).mul(numbers.new_tensor([ROTATION, SCALE, 2 * SHIFT, 2 * SHIFT])).unbind(1)
    cos, sin = angle.cos() * (1 + scale), angle.sin() * (1 + scale)
    theta = torch.stack([torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)], 1)  # (N, 2, 3)
    positions = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, positions, align_corners=False)


def batch_size_for(examples: int) -> int:
    """Returns the batch size of :func:`train`: 128, or an eighth of the examples if there are few."""
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
    """Trains a classifier in place with cross-entropy, AdamW and a one-cycle learning rate. Leaves it in eval mode.

    Args:
        classifier: with its initial weights.
        images: (N, C, H, W) uint8, two or more.
        labels: (N,) int64.
        epochs: passes over the images. The last partial batch of each is dropped.
        seed: of the images' order and of the augmentation.
        augment: apply :func:`random_affine` to each batch.
        progress: title of the progress bar; None for no bar.
    """
    batch_size = batch_size_for(len(images))
    batches = len(images) // batch_size
    device = next(classifier.parameters()).device
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.02)
    steps = max(2, epochs * batches)
    warm_up = max(0.1, 2 / steps)  # at least two steps, because OneCycleLR divides by one less
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
    """``function`` of uint8 images (N, C, H, W) scaled to [0, 1], computed on ``device`` in batches of 1,000."""
    return torch.cat([function(part.to(device).float().div(255)).cpu() for part in images.split(1000)])


def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the fraction of images (N, C, H, W) uint8 that the classifier assigns to their labels (N,)."""
    predicted = in_parts(lambda part: classifier(part).argmax(1), images, next(classifier.parameters()).device)
    return float((predicted == labels).double().mean())
