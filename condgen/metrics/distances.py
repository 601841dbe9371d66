"""Euclidean distances between two sets of feature vectors.

The functions that do not need the whole distance matrix compute it in blocks of rows, which limits the memory.
"""

import math

import torch
from torch import Tensor

ROWS = 1000  # number of rows of the distance matrix that are in memory at the same time


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Computes the Euclidean distances (N, M) between feature vectors ``a`` (N, D) and ``b`` (M, D), as float64.

    The distances between vectors of whole numbers are exact, and the distance between equal vectors is exactly 0.
    """
    a, b = a.double(), b.double()
    sizes = a.square().sum(1)[:, None] + b.square().sum(1)
    squares = torch.addmm(sizes, a, b.T, alpha=-2)
    return squares.masked_fill_(squares < 1e-13 * sizes, 0).sqrt_()  # smaller values are rounding errors


def mean_pairwise_distance(features: Tensor) -> Tensor:
    """Computes the mean distance between two different vectors of ``features`` (N, D), a scalar. NaN if N is 1."""
    total = torch.stack([distances(rows, features).sum() for rows in features.split(ROWS)]).sum()
    return total / (len(features) * (len(features) - 1))


def nearest(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the nearest reference of each image.

    Returns the distance to the nearest reference, with shape (N,), and its index, with shape (N,). If there are no
    references, all distances are NaN and all indices are 0.

    Args:
        images: Features of the images, with shape (N, D).
        references: Features of the references, with shape (M, D).
    """
    if not len(references):
        return torch.full((len(images),), math.nan, dtype=torch.float64), torch.zeros(len(images), dtype=torch.long)
    found = [distances(rows, references).min(dim=1) for rows in images.split(ROWS)]
    return torch.cat([values for values, _ in found]), torch.cat([rows for _, rows in found])
