"""Euclidean distances between two sets of feature vectors.

To save memory, functions that don't need the full distance matrix only compute a block of rows at a time.
"""

import math

import torch
from torch import Tensor

ROWS = 1000  # rows of the distance matrix to keep in memory at a time


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Computes the pairwise distances between vectors ``a`` of shape (N, D) and ``b`` of shape (M, D).

    Returns a float64 tensor of shape (N, M). Distances between integer vectors are exact, and the distance between
    identical vectors is always exactly 0.
    """
    a, b = a.double(), b.double()
    sizes = a.square().sum(1)[:, None] + b.square().sum(1)
    squares = torch.addmm(sizes, a, b.T, alpha=-2)
    return squares.masked_fill_(squares < 1e-13 * sizes, 0).sqrt_()  # anything smaller is a rounding error


def mean_pairwise_distance(features: Tensor) -> Tensor:
    """Computes the mean distance between distinct vectors of ``features`` (N, D), or NaN if N is 1."""
    total = torch.stack([distances(rows, features).sum() for rows in features.split(ROWS)]).sum()
    return total / (len(features) * (len(features) - 1))


def nearest(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the nearest reference for each image.

    Args:
        images: Image features of shape (N, D).
        references: Reference features of shape (M, D).

    Returns:
        The distances to the nearest references and their indices, both of shape (N,). If there are no references, all
        distances are NaN and all indices are 0.
    """
    if not len(references):
        return torch.full((len(images),), math.nan, dtype=torch.float64), torch.zeros(len(images), dtype=torch.long)
    found = [distances(rows, references).min(dim=1) for rows in images.split(ROWS)]
    return torch.cat([values for values, _ in found]), torch.cat([rows for _, rows in found])
