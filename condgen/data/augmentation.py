"""Data augmentation for the training images."""

from typing import NamedTuple

import torch
from torch import Tensor


class Augmentation(NamedTuple):
    """Randomly flips and shifts training images.

    Args:
        horizontal_flip: Whether to flip each image with a probability of 1/2.
        max_shift: The maximum shift in either direction, in pixels.
    """

    horizontal_flip: bool
    max_shift: int

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Applies the augmentation to a batch of images.

        Args:
            images: Images of shape (N, C, H, W).
            uniform: Random numbers in [0, 1) of shape (N, 3), used for the flip and the two shifts.

        Returns:
            The augmented images. Shifted images are padded with their border pixels.
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
