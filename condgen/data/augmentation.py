"""Data augmentation of training images, with random numbers that depend only on seed, epoch, batch and row."""

from typing import NamedTuple

import torch
from torch import Tensor


class Augmentation(NamedTuple):
    """Random horizontal flips and random shifts of training images.

    Args:
        horizontal_flip: Whether to flip each image with probability 1/2.
        max_shift: Largest shift in pixels, in each direction.
    """

    horizontal_flip: bool
    max_shift: int

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augments a batch of images.

        Args:
            images: Images with shape (N, C, H, W).
            uniform: Random numbers in [0, 1) with shape (N, 3). They decide on the flip and on the two shifts.

        Returns:
            The augmented images with shape (N, C, H, W). A shifted image is padded with its border pixels.
        """
        if self.horizontal_flip:
            images = torch.where((uniform[:, 0] < 0.5)[:, None, None, None], images.flip(3), images)
        if self.max_shift:
            number, channels, height, width = images.shape
            shift = (uniform[:, 1:] * (2 * self.max_shift + 1)).long() - self.max_shift  # (N, 2)
            rows = (torch.arange(height) + shift[:, :1]).clamp(0, height - 1)
            columns = (torch.arange(width) + shift[:, 1:]).clamp(0, width - 1)
            image, channel = torch.arange(number)[:, None, None, None], torch.arange(channels)[:, None, None]
            images = images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
        return images
