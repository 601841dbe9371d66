"""Labels as rows of class weights."""

import torch
import torch.nn.functional as F
from torch import Tensor


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Converts int64 labels (N,) to one-hot rows (N, num_classes). Class weights (N, num_classes) stay as they are."""
    return F.one_hot(labels, num_classes) if labels.ndim == 1 else labels


def plain_labels(weights: Tensor) -> Tensor:
    """Converts class weights (N, num_classes) to int64 labels (N,) if all rows are one-hot. Labels stay as they are."""
    if weights.ndim == 1:
        return weights
    labels = weights.argmax(1)
    return labels if torch.equal(weights, F.one_hot(labels, weights.shape[1]).to(weights)) else weights


def with_null_label(weights: Tensor) -> Tensor:
    """Appends the null label to non-negative class weights (N, num_classes), with the weight that they lack to 1."""
    return torch.cat((weights, (1 - weights.sum(1, keepdim=True)).clamp(min=0)), dim=1)
