"""A small convolutional classifier and its training loop."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from condgen.noise import EVALUATION, permutation, uniform

# Maximum random rotation (in radians), scaling, and shift (as a fraction of the image width). Larger values would be
# fine for digits, but not for clothes.
ROTATION, SCALE, SHIFT = math.radians(4.8), 0.048, 0.032


class Classifier(nn.Module):
    """A stack of convolutions with batch norm and ReLU, followed by a linear embedding layer and a linear head.

    Args:
        image_shape: The image shape (C, H, W).
        num_classes: The number of classes. Labels range from 0 to ``num_classes - 1``.
        layers: The number of output channels, the kernel size, and the stride of each convolution.
        embedding_dim: The embedding size D.
        dropout: The dropout probability after the last convolution.
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
        """Computes non-negative embeddings of shape (N, D) from images of shape (N, C, H, W) in [0, 1]."""
        return self.embedding(self.convolutions(images))

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits of shape (N, num_classes) from images of shape (N, C, H, W) in [0, 1]."""
        return self.head(self.embed(images))


def random_affine(images: Tensor, numbers: Tensor) -> Tensor:
    """Randomly rotates, scales, and shifts each image by a small amount.

    Args:
        images: Images of shape (N, C, H, W).
        numbers: Random numbers of shape (N, 4) in [0, 1), used for the rotation, scale, and x and y shift.
    """
    angle, scale, x, y = (2 * numbers - 1).mul(numbers.new_tensor([ROTATION, SCALE, 2 * SHIFT, 2 * SHIFT])).unbind(1)
    cos, sin = angle.cos() * (1 + scale), angle.sin() * (1 + scale)
    theta = torch.stack([torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)], 1)  # (N, 2, 3)
    positions = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, positions, align_corners=False)


def batch_size_for(examples: int) -> int:
    """Returns the batch size used by :func:`train`.

    This is an eighth of the number of examples, clamped to the range from 16 to 128, but never more than there are.
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
    """Trains the classifier in place and switches it to eval mode at the end.

    Uses a cross-entropy loss and AdamW with a one-cycle learning-rate schedule.

    Args:
        classifier: The classifier to train.
        images: Training images of shape (N, C, H, W) and dtype uint8. At least two images are needed.
        labels: Training labels of shape (N,) and dtype int64.
        epochs: The number of training epochs. The last batch of an epoch is dropped if it is incomplete.
        seed: The random seed for shuffling and augmentation.
        augment: Whether to apply :func:`random_affine` to each batch.
        progress: The title of the progress bar. If ``None``, no progress bar is shown.
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
    """Applies a function to batches of 1,000 images and concatenates the results on the CPU.

    Args:
        function: A function that takes a batch of images in [0, 1].
        images: Images of shape (N, C, H, W) and dtype uint8. They get scaled to [0, 1] one batch at a time.
        device: The device to run the function on.
    """
    return torch.cat([function(part.to(device).float().div(255)).cpu() for part in images.split(1000)])


def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Computes the accuracy of a classifier, from 0 to 1.

    Args:
        classifier: A classifier that takes images in [0, 1] and returns logits.
        images: Images of shape (N, C, H, W) and dtype uint8.
        labels: Labels of shape (N,).
    """
    predicted = in_parts(lambda part: classifier(part).argmax(1), images, next(classifier.parameters()).device)
    return float((predicted == labels).double().mean())
