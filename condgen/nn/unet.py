"""A small U-Net conditioned on time and label."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condgen.errors import UsageError

Rows = Tensor | slice  # which embedding to use for each image, (N,)


class ResidualBlock(nn.Module):
    """Residual block with two convolutions. Scales and shifts the channels in between based on the embedding.

    Args:
        channels: The number of input and output channels. Must be a multiple of 8.
        embedding_dim: Size of the time and label embedding.
    """

    def __init__(self, channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale_and_shift = nn.Linear(embedding_dim, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv2.parameters():  # initialize the block as the identity
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor, rows: Rows) -> Tensor:
        scale, shift = self.scale_and_shift(embedding)[rows, :, None, None].chunk(2, dim=1)  # (N, channels, 1, 1) each
        h = self.conv1(F.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.conv2(F.silu(h)).add_(x)


class GlobalBlock(nn.Module):
    """Residual block with fully connected layers. Unlike a few 3 x 3 convolutions, it has a global receptive field.

    Args:
        shape: Input and output shape (channels, H, W).
        embedding_dim: Size of the time and label embedding.
        hidden_dim: Size of the hidden layer between the two fully connected layers.
        narrow_channels: The number of channels in the feature maps that go through the fully connected layers.
    """

    def __init__(self, shape: Sequence[int], embedding_dim: int, hidden_dim: int, narrow_channels: int = 32) -> None:
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
        for parameter in self.widen.parameters():  # initialize the block as the identity
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor, rows: Rows) -> Tensor:
        scale, shift = self.scale_and_shift(embedding)[rows].chunk(2, dim=1)  # (N, hidden_dim) each
        h = self.encode(self.narrow(self.norm1(x)).flatten(1))
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        h = F.silu(self.decode(h)).view(-1, *self.narrow_shape)
        return self.widen(h).add_(x)


class UNet(nn.Module):
    """Small U-Net that goes down to a quarter of the image resolution and back up.

    Args:
        image_shape: Image shape (C, H, W). H and W must be multiples of 4.
        num_classes: The number of classes. The null label is ``num_classes``.
        channels: The number of channels at half and a quarter of the resolution. Both must be multiples of 8.
        hidden_dim: Size of the hidden layer in the global block.
        embedding_dim: Size of the time and label embedding.

    Raises:
        UsageError: If H or W is not a multiple of 4.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int],
        hidden_dim: int = 512,
        embedding_dim: int = 256,
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
        # one bias per position and channel, based on time and label
        self.position_bias = nn.Linear(embedding_dim, coarse * (height // 4) * (width // 4))
        self.global_block = GlobalBlock((coarse, height // 4, width // 4), embedding_dim, hidden_dim)
        self.middle_block = ResidualBlock(coarse, embedding_dim)
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.up_block = ResidualBlock(fine, embedding_dim)
        self.head = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, 4 * image_channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # matches the convolutions, so no conversion is needed

    def forward(self, images: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Computes the network output (N, C, H, W).

        Args:
            images: Noisy images of shape (N, C, H, W).
            t: Times in [0, 1] of shape (N,), or a single time of shape () for the whole batch. The latter is used for
                sampling and is faster, because it only needs one embedding per label.
            labels: Labels of shape (N,), or class weights of shape (N, num_classes + 1), including the null label. The
                embedding is the weighted sum of label embeddings.
        """
        rows: Rows = slice(None)
        if labels.ndim == 2:
            label_embedding = labels.to(self.label_embed.weight) @ self.label_embed.weight
        elif t.ndim:
            label_embedding = self.label_embed(labels)
        else:  # embed each label only once
            rows, label_embedding = labels, self.label_embed.weight
        t = t.expand(len(label_embedding))
        angles = t[:, None] * self.frequencies  # (N, 32)
        time_embedding = self.time_embed(torch.cat((angles.cos(), angles.sin()), dim=1))
        embedding = F.silu(time_embedding + label_embedding)
        x = self.stem(F.pixel_unshuffle(images, 2))  # (N, 4C, H/2, W/2) to (N, fine, H/2, W/2)
        x = self.down_block(x, embedding, rows)
        h = self.down(x)  # (N, coarse, H/4, W/4)
        h = h.add_(self.position_bias(embedding)[rows].view_as(h))
        h = self.middle_block(self.global_block(h, embedding, rows), embedding, rows)
        x = F.pixel_shuffle(self.up(h), 2).add_(x)  # (N, fine, H/2, W/2)
        x = self.up_block(x, embedding, rows)
        return F.pixel_shuffle(self.head(x), 2)  # (N, C, H, W)
