"""Euclidean distances between the rows of two sets of features, computed in blocks of rows to bound memory."""

import math

import torch
from torch import Tensor

ROWS = 1000  # rows of the distance matrix that are in memory at once


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (N, M) float64 between the rows of (N, D) and of (M, D).

    They are exact for whole numbers, and 0 between equal rows.
    """
    a, b = a.double(), b.double()
    sizes = a.square().sum(1)[:, None] + b.square().sum(1)
    squares = torch.addmm(sizes, a, b.T, alpha=-2)
    return squares.masked_fill_(squares < 1e-13 * sizes, 0).sqrt_()  # smaller values are rounding errors


def mean_pairwise_distance(features: Tensor) -> Tensor:
    """Returns the mean distance between two different rows of (N, D): a scalar, NaN for a single row."""
    total = torch.stack([distances(rows, features).sum() for rows in features.split(ROWS)]).sum()
    return total / (len(features) * (len(features) - 1))


def nearest(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of (N, D) the distance to the nearest row of (M, D) and that row's number: (N,) and (N,).

    NaN and 0 if there are no references.
    """
    if not len(references):
        return torch.full((len(images),), math.nan, dtype=torch.float64), torch.zeros(len(images), dtype=torch.long)
    found = [distances(rows, references).min(dim=1) for rows in images.split(ROWS)]
    return torch.cat([values for values, _ in found]), torch.cat([rows for _, rows in found])
