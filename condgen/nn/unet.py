"""The U-Net of the diffusion: residual blocks that are conditioned on time and label."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condgen.errors import UsageError

Rows = Tensor | slice  # (N,), which row of the embeddings is that of each image


class Block(nn.Module):
    """A residual block: two convolutions, with a scale and a shift of each channel by time and label between them."""

    def __init__(self, channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale_and_shift = nn.Linear(embedding_dim, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv2.parameters():  # each block begins as the identity
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor, rows: Rows) -> Tensor:
        scale, shift = self.scale_and_shift(embedding)[rows, :, None, None].chunk(2, dim=1)  # (N, channels, 1, 1) each
        h = self.conv1(F.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.conv2(F.silu(h)).add_(x)


class GlobalBlock(nn.Module):
    """A residual block that is fully connected: what is drawn at one end of the image depends on what is at the other,
    of which a few small convolutions would not hear.

    Args:
        shape: (channels, H, W) of its input and output.
        embedding_dim: of time and label, which scale and shift what it sees.
        narrow_channels: of the maps that are connected.
        hidden_dim: of the numbers that all of the image becomes.
    """

    def __init__(
        self, shape: Sequence[int], embedding_dim: int, narrow_channels: int = 32, hidden_dim: int = 512
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.narrow_shape = (narrow_channels, height, width)
        self.norm1 = nn.GroupNorm(8, channels)
        self.narrow = nn.Conv2d(channels, narrow_channels, 1)
        self.gather = nn.Linear(math.prod(self.narrow_shape), hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim, elementwise_affine=False)
        self.scale_and_shift = nn.Linear(embedding_dim, 2 * hidden_dim)
        self.spread = nn.Linear(hidden_dim, math.prod(self.narrow_shape))
        self.widen = nn.Conv2d(narrow_channels, channels, 1)
        for parameter in self.widen.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor, rows: Rows) -> Tensor:
        scale, shift = self.scale_and_shift(embedding)[rows].chunk(2, dim=1)  # (N, hidden_dim) each
        h = self.gather(self.narrow(self.norm1(x)).flatten(1))
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        h = F.silu(self.spread(h)).view(-1, *self.narrow_shape)
        return self.widen(h).add_(x)


class UNet(nn.Module):
    """A small U-Net: to a quarter of the image's side, where it is wide, and back.

    Args:
        image_shape: (C, H, W) of the images; H and W are multiples of 4.
        num_classes: labels are 0 … ``num_classes`` - 1; ``num_classes`` itself stands for any of them.
        channels: at half and at a quarter of the image's side, multiples of 8.
        embedding_dim: of time and label.
    """

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, channels: Sequence[int], embedding_dim: int = 256
    ) -> None:
        super().__init__()
        colours, height, width = image_shape
        if height % 4 or width % 4:
            raise UsageError(f"The network halves twice: it cannot draw images of shape {tuple(image_shape)}.")
        fine, coarse = channels
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), 32)), persistent=False)
        self.of_time = nn.Sequential(nn.Linear(64, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim))
        self.of_label = nn.Embedding(num_classes + 1, embedding_dim)
        self.stem = nn.Conv2d(4 * colours, fine, 3, padding=1)
        self.before = Block(fine, embedding_dim)
        self.down = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.layout = nn.Linear(embedding_dim, coarse * (height // 4) * (width // 4))
        self.whole = GlobalBlock((coarse, height // 4, width // 4), embedding_dim)
        self.middle = Block(coarse, embedding_dim)
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.after = Block(fine, embedding_dim)
        self.head = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, 4 * colours, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # in which convolutions compute: nothing is rearranged between them

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """Images with noise (N, C, H, W), times (N,) in [0, 1] and labels (N,) to (N, C, H, W).

        One time () for all images, as in sampling, takes less: what depends on time and label is computed once a label.
        """
        rows: Rows = slice(None)
        if not times.ndim:
            rows, labels = labels, torch.arange(self.of_label.num_embeddings, device=labels.device)
            times = times.expand(len(labels))
        angles = times[:, None] * self.frequencies  # (N, 32)
        embedding = F.silu(self.of_time(torch.cat((angles.cos(), angles.sin()), dim=1)) + self.of_label(labels))
        x = self.stem(F.pixel_unshuffle(images, 2))  # (N, 4C, H/2, W/2) to (N, fine, H/2, W/2)
        x = self.before(x, embedding, rows)
        h = self.down(x)  # (N, coarse, H/4, W/4)
        h = h.add_(self.layout(embedding)[rows].view_as(h))  # where something belongs, by time and label alone
        h = self.middle(self.whole(h, embedding, rows), embedding, rows)
        x = F.pixel_shuffle(self.up(h), 2).add_(x)  # (N, fine, H/2, W/2)
        x = self.after(x, embedding, rows)
        return F.pixel_shuffle(self.head(x), 2)  # (N, C, H, W)
