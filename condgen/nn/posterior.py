"""Posterior distribution of images and labels given a noisy image, based on the latest training images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EmpiricalPosterior(nn.Module):
    """Posterior p(x, label | x_t) for a uniform prior of x over the latest training images.

    If x_t could be a noisy version of many different images, the training target has a high variance when it is
    computed from a single image. The posterior mean estimates the same target with less variance. Its bias vanishes as
    the number of images grows (Xu et al. 2023, "Stable Target Field for Reduced Variance Score Estimation in Diffusion
    Models", arXiv:2302.00670). As in that paper, the mean is computed over a reference set that includes the image
    itself.

    The other images of the reference set are in a ring buffer, which the training batches fill. The buffer is saved in
    checkpoints.

    Args:
        size: Number of images in the buffer.
        image_shape: Shape (C, H, W) of the images.
        num_classes: Number of classes. Labels are 0 … ``num_classes`` - 1, and ``num_classes`` is the null label.
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
        self.register_buffer("added", torch.zeros((), dtype=torch.long))  # number of images added so far

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Adds images (N, C, H, W) and their labels (N,) to the buffer. They replace the oldest images."""
        size = len(self.labels)
        images, labels = images[-size:], labels[-size:]
        rows = (self.added + torch.arange(len(labels), device=labels.device)) % size
        self.images[rows], self.labels[rows] = images.flatten(1), labels
        self.squared_norms[rows] = images.flatten(1).square().sum(1)
        self.added += len(labels)

    def log_likelihood(self, x_t: Tensor, x: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        """Computes log p(x_t | image) up to a constant, with shape (N, 1 + size).

        The first column is the log-likelihood of the image itself. The other columns are the log-likelihoods of
        the images in the buffer.

        Args:
            x_t: Noisy images alpha_t x + sigma_t noise, with shape (N, C, H, W).
            x: The same images without noise, with shape (N, C, H, W).
            alpha_t: Coefficients of the images, with shape (N,).
            sigma_t: Coefficients of the noise, with shape (N,).
        """
        scale = (alpha_t / sigma_t)[:, None]
        scaled, x = x_t.flatten(1) / sigma_t[:, None], x.flatten(1)
        with torch.autocast(x_t.device.type, enabled=False):
            products = scaled @ self.images.T
        buffer = (scale * products - scale.square() / 2 * self.squared_norms).masked_fill(self.labels < 0, -torch.inf)
        own = scale * (scaled * x).sum(1, keepdim=True) - scale.square() / 2 * x.square().sum(1, keepdim=True)
        return torch.cat((own, buffer), 1)

    def sample_labels(self, log_likelihood: Tensor, uniform: Tensor) -> Tensor:
        """Samples labels (N,) from p(label | x_t), with a uniform prior over the labels.

        The posterior includes only the images in the buffer. The image itself is excluded, because otherwise its own
        label would nearly always be sampled.

        Args:
            log_likelihood: Result of :meth:`log_likelihood`, with shape (N, 1 + size).
            uniform: Uniform random numbers in [0, 1) that determine the labels, with shape (N, num_classes).
        """
        members = (self.labels[:, None] == torch.arange(self.num_classes, device=self.labels.device)).float()
        probabilities = log_likelihood[:, 1:].softmax(1) @ (members / members.sum(0).clamp(min=1))
        # exponential race: the label with the shortest waiting time is a sample
        return (uniform.clamp(min=1e-8).log() / probabilities).argmax(1)

    def mean(self, log_likelihood: Tensor, x: Tensor, own_labels: Tensor, labels: Tensor) -> Tensor:
        """Computes the posterior mean E[x | x_t, label] over the image itself and the buffer, with shape (N, C, H, W).

        Args:
            log_likelihood: Result of :meth:`log_likelihood`, with shape (N, 1 + size).
            x: Images without noise, with shape (N, C, H, W).
            own_labels: Labels of the images, with shape (N,).
            labels: Labels of the posterior, with shape (N,). Each is the image's own label, another label that occurs
                in the buffer, or the null label.
        """
        members = torch.cat((own_labels[:, None], self.labels.expand(len(x), -1)), 1)  # (N, 1 + size)
        is_other = (members != labels[:, None]) & (labels[:, None] < self.num_classes)
        weights = log_likelihood.masked_fill(is_other, -torch.inf).softmax(1)
        with torch.autocast(weights.device.type, enabled=False):
            return (weights[:, :1] * x.flatten(1) + weights[:, 1:] @ self.images).view_as(x)
