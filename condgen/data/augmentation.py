"""Random changes of training images, as a function of seed, epoch and place in the epoch."""

from typing import NamedTuple

import torch
from torch import Tensor


class Augmentation(NamedTuple):
    """Horizontal flips with probability 1/2, and shifts by up to ``max_shift`` pixels in each direction."""

    horizontal_flip: bool
    max_shift: int

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Changes images (N, C, H, W), determined by numbers (N, 3) in [0, 1). A shift repeats the border's pixels."""
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
