"""A small U-Net that is conditioned on the time and the label."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condgen.errors import UsageError

Rows = Tensor | slice  # indices (N,) of the embeddings that the images use


class ResidualBlock(nn.Module):
    """Residual block with two convolutions.

    The embedding of time and label scales and shifts the channels between the two convolutions.

    Args:
        channels: Channels of the input and the output, a multiple of 8.
        embedding_dim: Size of the embedding of time and label.
    """

    def __init__(self, channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale_and_shift = nn.Linear(embedding_dim, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv2.parameters():  # the block is initialized as the identity
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor, rows: Rows) -> Tensor:
        scale, shift = self.scale_and_shift(embedding)[rows, :, None, None].chunk(2, dim=1)  # (N, channels, 1, 1) each
        h = self.conv1(F.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.conv2(F.silu(h)).add_(x)


class GlobalBlock(nn.Module):
    """Residual block with fully connected layers.

    It has a global receptive field. A few 3 x 3 convolutions have only a local one.

    Args:
        shape: Shape (channels, H, W) of the input and the output.
        embedding_dim: Size of the embedding of time and label.
        narrow_channels: Channels of the feature maps to which the fully connected layers are applied.
        hidden_dim: Size of the hidden layer between the two fully connected layers.
    """

    def __init__(
        self, shape: Sequence[int], embedding_dim: int, narrow_channels: int = 32, hidden_dim: int = 512
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.narrow_shape = (narrow_channels, height, width)
        self.norm1 = nn.GroupNorm(8, channels)
        self.narrow = nn.Conv2d(channels, narrow_channels, 1)
        self.encode = nn.Linear(math.prod(self.narrow_shape), hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim, elementwise_affine=False)
        self.scale_and_shift = nn.Linear(embedding_dim, 2 * hidden_dim)
        self.decode = nn.Linear(hidden_dim, math.prod(self.narrow_shape))
        self.widen = nn.Conv2d(narrow_channels, channels, 1)
        for parameter in self.widen.parameters():  # the block is initialized as the identity
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor, rows: Rows) -> Tensor:
        scale, shift = self.scale_and_shift(embedding)[rows].chunk(2, dim=1)  # (N, hidden_dim) each
        h = self.encode(self.narrow(self.norm1(x)).flatten(1))
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        h = F.silu(self.decode(h)).view(-1, *self.narrow_shape)
        return self.widen(h).add_(x)


class UNet(nn.Module):
    """Small U-Net that downsamples to a quarter of the image's resolution and upsamples again.

    Args:
        image_shape: Shape (C, H, W) of the images. H and W must be multiples of 4.
        num_classes: Number of classes. Labels are 0 … ``num_classes`` - 1, and ``num_classes`` is the null label.
        channels: Channels at half and at a quarter of the resolution. Both must be multiples of 8.
        embedding_dim: Size of the embedding of time and label.

    Raises:
        UsageError: If H or W is not a multiple of 4.
    """

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, channels: Sequence[int], embedding_dim: int = 256
    ) -> None:
        super().__init__()
        image_channels, height, width = image_shape
        if height % 4 or width % 4:
            raise UsageError(f"model.image_shape is {list(image_shape)}. Use a height and width divisible by 4.")
        fine, coarse = channels
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), 32)), persistent=False)
        self.time_embed = nn.Sequential(
            nn.Linear(64, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim)
        )
        self.label_embed = nn.Embedding(num_classes + 1, embedding_dim)
        self.stem = nn.Conv2d(4 * image_channels, fine, 3, padding=1)
        self.down_block = ResidualBlock(fine, embedding_dim)
        self.down = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        # a bias for each position and channel, which depends on time and label
        self.position_bias = nn.Linear(embedding_dim, coarse * (height // 4) * (width // 4))
        self.global_block = GlobalBlock((coarse, height // 4, width // 4), embedding_dim)
        self.middle_block = ResidualBlock(coarse, embedding_dim)
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.up_block = ResidualBlock(fine, embedding_dim)
        self.head = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, 4 * image_channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # convolutions use this format, so no layout conversion is needed

    def forward(self, images: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Computes the output (N, C, H, W) of the network.

        Args:
            images: Noisy images, with shape (N, C, H, W).
            t: Times in [0, 1], with shape (N,), or a single time with shape () for all images. A single time, which
                samplers use, is faster, because the embedding is computed only once for each label.
            labels: Labels, with shape (N,).
        """
        rows: Rows = slice(None)
        embedded_labels = labels
        if not t.ndim:  # compute the embedding of each label only once
            rows, embedded_labels = labels, torch.arange(self.label_embed.num_embeddings, device=labels.device)
            t = t.expand(len(embedded_labels))
        angles = t[:, None] * self.frequencies  # (N, 32)
        time_embedding = self.time_embed(torch.cat((angles.cos(), angles.sin()), dim=1))
        embedding = F.silu(time_embedding + self.label_embed(embedded_labels))
        x = self.stem(F.pixel_unshuffle(images, 2))  # (N, 4C, H/2, W/2) to (N, fine, H/2, W/2)
        x = self.down_block(x, embedding, rows)
        h = self.down(x)  # (N, coarse, H/4, W/4)
        h = h.add_(self.position_bias(embedding)[rows].view_as(h))
        h = self.middle_block(self.global_block(h, embedding, rows), embedding, rows)
        x = F.pixel_shuffle(self.up(h), 2).add_(x)  # (N, fine, H/2, W/2)
        x = self.up_block(x, embedding, rows)
        return F.pixel_shuffle(self.head(x), 2)  # (N, C, H, W)
