"""Posterior over images and labels given a noisy image, based on the latest training images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EmpiricalPosterior(nn.Module):
    """Posterior p(x, label | x_t) with a uniform prior over the latest training images.

    When x_t could be a noisy version of many different images, a training target that is based on just one of them has
    high variance. The posterior mean estimates the same target with less variance, and its bias goes away as the number
    of images grows (Xu et al. 2023, "Stable Target Field for Reduced Variance Score Estimation in Diffusion Models",
    arXiv:2302.00670). Following the paper, we take the mean over a reference set that includes the image itself.

    The rest of the reference set lives in a ring buffer that is filled from the training batches and saved in
    checkpoints.

    Args:
        size: How many images to keep in the buffer.
        image_shape: Image shape (C, H, W).
        num_classes: The number of classes. The null label is ``num_classes``.
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
        """Adds images (N, C, H, W) and their labels (N,) to the buffer, replacing the oldest ones."""
        size = len(self.labels)
        images, labels = images[-size:], labels[-size:]
        rows = (self.added + torch.arange(len(labels), device=labels.device)) % size
        self.images[rows], self.labels[rows] = images.flatten(1), labels
        self.squared_norms[rows] = images.flatten(1).square().sum(1)
        self.added += len(labels)

    def log_likelihood(self, x_t: Tensor, x: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        """Computes log p(x_t | image) up to a constant.

        Returns a tensor of shape (N, 1 + size), starting with the image itself and followed by the buffer.

        Args:
            x_t: Noisy images alpha_t x + sigma_t noise, of shape (N, C, H, W).
            x: The same images without noise.
            alpha_t: Image coefficients of shape (N,).
            sigma_t: Noise coefficients of shape (N,).
        """
        scale = (alpha_t / sigma_t)[:, None]
        scaled, x = x_t.flatten(1) / sigma_t[:, None], x.flatten(1)
        with torch.autocast(x_t.device.type, enabled=False):
            products = scaled @ self.images.T
        buffer = (scale * products - scale.square() / 2 * self.squared_norms).masked_fill(self.labels < 0, -torch.inf)
        own = scale * (scaled * x).sum(1, keepdim=True) - scale.square() / 2 * x.square().sum(1, keepdim=True)
        return torch.cat((own, buffer), 1)

    def sample_labels(self, log_likelihood: Tensor, uniform: Tensor) -> Tensor:
        """Samples labels (N,) from p(label | x_t), with a uniform prior over labels.

        Only uses images in the buffer. With the image itself included, its own label would almost always be sampled.

        Args:
            log_likelihood: Output of :meth:`log_likelihood`, of shape (N, 1 + size).
            uniform: Uniform random numbers in [0, 1) of shape (N, num_classes), used to sample the labels.
        """
        members = (self.labels[:, None] == torch.arange(self.num_classes, device=self.labels.device)).float()
        probabilities = log_likelihood[:, 1:].softmax(1) @ (members / members.sum(0).clamp(min=1))
        # exponential race: the label with the shortest waiting time is a sample
        return (uniform.clamp(min=1e-8).log() / probabilities).argmax(1)

    def mean(self, log_likelihood: Tensor, x: Tensor, own_labels: Tensor, labels: Tensor) -> Tensor:
        """Computes the posterior mean E[x | x_t, label] of shape (N, C, H, W), over the image itself and the buffer.

        Args:
            log_likelihood: Output of :meth:`log_likelihood`, of shape (N, 1 + size).
            x: Images without noise, of shape (N, C, H, W).
            own_labels: Image labels of shape (N,).
            labels: Labels of shape (N,) to condition on. Can be the image's own label, any other label that is in the
                buffer, or the null label.
        """
        members = torch.cat((own_labels[:, None], self.labels.expand(len(x), -1)), 1)  # (N, 1 + size)
        is_other = (members != labels[:, None]) & (labels[:, None] < self.num_classes)
        weights = log_likelihood.masked_fill(is_other, -torch.inf).softmax(1)
        with torch.autocast(weights.device.type, enabled=False):
            return (weights[:, :1] * x.flatten(1) + weights[:, 1:] @ self.images).view_as(x)
