"""The posterior of images and labels given a noisy image, over the latest training images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EmpiricalPosterior(nn.Module):
    """p(x, label | x_t) if x is one of the latest training images, each equally likely before x_t is known.

    The training target of a single image has a high variance if x_t could stem from many images. The posterior mean
    estimates the same target with less variance, and with a bias that vanishes as the buffer grows (Xu et al. 2023,
    "Stable Target Field for Reduced Variance Score Estimation in Diffusion Models", arXiv:2302.00670). As there, the
    mean is over a reference set that contains the image itself. The batches of the training fill it, as a ring buffer
    that is part of the checkpoint.

    Args:
        size: number of images in the buffer.
        image_shape: (C, H, W) of the images.
        num_classes: labels are 0 … ``num_classes`` - 1; ``num_classes`` is the null label.
    """

    def __init__(self, size: int, image_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.images: Tensor
        self.squared_norms: Tensor
        self.labels: Tensor
        self.added: Tensor
        self.register_buffer("images", torch.zeros(size, math.prod(image_shape)))
        self.register_buffer("squared_norms", torch.zeros(size))
        self.register_buffer("labels", torch.full((size,), -1))  # -1: no image yet
        self.register_buffer("added", torch.zeros((), dtype=torch.long))  # number of images so far

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Replaces the oldest images by these (N, C, H, W), with their labels (N,)."""
        size = len(self.labels)
        images, labels = images[-size:], labels[-size:]
        rows = (self.added + torch.arange(len(labels), device=labels.device)) % size
        self.images[rows], self.labels[rows] = images.flatten(1), labels
        self.squared_norms[rows] = images.flatten(1).square().sum(1)
        self.added += len(labels)

    def log_likelihood(self, x_t: Tensor, x: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        """log p(x_t | image) + constant: (N, 1 + size), for the image itself, then for those of the buffer.

        Args:
            x_t: noisy images (N, C, H, W).
            x: the images themselves, without noise (N, C, H, W).
            alpha_t: (N,), as in x_t = alpha_t x + sigma_t noise.
            sigma_t: (N,).
        """
        scale = (alpha_t / sigma_t)[:, None]
        scaled, x = x_t.flatten(1) / sigma_t[:, None], x.flatten(1)
        with torch.autocast(x_t.device.type, enabled=False):
            products = scaled @ self.images.T
        buffer = (scale * products - scale.square() / 2 * self.squared_norms).masked_fill(self.labels < 0, -torch.inf)
        own = scale * (scaled * x).sum(1, keepdim=True) - scale.square() / 2 * x.square().sum(1, keepdim=True)
        return torch.cat((own, buffer), 1)

    def sample_labels(self, log_likelihood: Tensor, uniform: Tensor) -> Tensor:
        """Labels (N,) sampled from p(label | x_t) over the buffer, with a uniform prior over the labels.

        The image itself is left out, because it would give its label away.

        Args:
            log_likelihood: (N, 1 + size).
            uniform: numbers (N, num_classes) in [0, 1) that determine the labels.
        """
        members = (self.labels[:, None] == torch.arange(self.num_classes, device=self.labels.device)).float()
        probabilities = log_likelihood[:, 1:].softmax(1) @ (members / members.sum(0).clamp(min=1))
        # the first of exponential waiting times with these rates is a sample
        return (uniform.clamp(min=1e-8).log() / probabilities).argmax(1)

    def mean(self, log_likelihood: Tensor, x: Tensor, own_labels: Tensor, labels: Tensor) -> Tensor:
        """E[x | x_t, label], (N, C, H, W), over the image itself and the buffer.

        Args:
            log_likelihood: (N, 1 + size).
            x: the images themselves (N, C, H, W).
            own_labels: their labels (N,).
            labels: (N,); each the own one, one of the buffer's, or the null label.
        """
        members = torch.cat((own_labels[:, None], self.labels.expand(len(x), -1)), 1)  # (N, 1 + size)
        is_other = (members != labels[:, None]) & (labels[:, None] < self.num_classes)
        weights = log_likelihood.masked_fill(is_other, -torch.inf).softmax(1)
        with torch.autocast(weights.device.type, enabled=False):
            return (weights[:, :1] * x.flatten(1) + weights[:, 1:] @ self.images).view_as(x)
