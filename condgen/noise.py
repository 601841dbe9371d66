"""Random numbers that only depend on the seed, the sample index, and the training step.

This is based on Philox, a counter-based random number generator (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"). Its n-th output is a hash of a key and n. We use (seed, stream) as the key and (sample, step) as the
counter. This way, any process can generate the noise for any sample, and a resumed run gets the same numbers as an
uninterrupted one without saving any generator state. We only rely on the raw bits, since numpy guarantees that these
won't change in future releases.
"""

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from condgen.errors import UsageError

# Different streams give independent random numbers for the same seed.
SAMPLING, TRAINING, EVALUATION, SHUFFLING, AUGMENTATION, LIKELIHOOD = range(6)

Distribution = Literal["uniform", "normal"]  # uniform in [0, 1), or normal with mean 0 and variance 1

_PER_COUNT = 8  # 32-bit words that Philox returns per value of its 256-bit counter


def uniform(
    seed: int,
    indices: Sequence[int] | Tensor,
    shape: Sequence[int],
    *,
    stream: int = SAMPLING,
    step: tuple[int, int] = (0, 0),
) -> Tensor:
    """Generates uniform noise in [0, 1).

    The noise for a sample only depends on the seed, the stream, the step, and the sample index.

    Args:
        seed: The random seed, from 0 to 2**64 - 1.
        indices: The sample indices, of shape (N,). Must not be negative.
        shape: The noise shape for a single sample.
        stream: What the noise is used for, e.g. ``SAMPLING``.
        step: The batch index and the epoch. Must not be negative.

    Returns:
        A float32 tensor of shape (N, *shape) on the CPU. All values are multiples of 2**-24.

    Raises:
        UsageError: If the seed or an index is not an integer or is out of range.
    """
    size = math.prod(shape)
    counts = -(-size // _PER_COUNT)
    numbers = _checked_indices(indices, 2**63 // max(1, counts))
    philox = np.random.Philox(key=_key(seed, stream), counter=np.array([0, *step, 0], dtype=np.uint64))
    words = np.empty((len(numbers), counts * _PER_COUNT), dtype=np.uint32)
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1  # counters are consecutive between breaks
    position = 0
    for first, end in itertools.pairwise([0, *breaks.tolist(), len(numbers)]):
        if first < end:
            start = int(numbers[first]) * counts
            philox.advance((start - position) % 2**256)
            position = start + (end - first) * counts
            raw = philox.random_raw((end - first) * counts * _PER_COUNT // 2)
            words[first:end] = raw.view(np.uint32).reshape(end - first, -1)
    numbers_in_unit_interval = (words[:, :size] >> 8).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy(numbers_in_unit_interval.reshape(len(numbers), *shape))


def _key(seed: int, stream: int) -> np.ndarray:
    """Returns the Philox key for a seed and a stream.

    Raises:
        UsageError: If the seed is not a Python, numpy, or torch integer from 0 to 2**64 - 1.
    """
    try:
        key = operator.index(seed)
    except TypeError:
        key = -1
    if not 0 <= key < 2**64:
        raise UsageError(f"The seed is {seed!r}: use an integer from 0 to 2**64 - 1.")
    return np.array([key, stream], dtype=np.uint64)


def _checked_indices(indices: Sequence[int] | Tensor, limit: int) -> np.ndarray:
    """Converts the indices to an int64 array of shape (N,).

    Raises:
        UsageError: If an index is not an integer from 0 to ``limit`` - 1.
    """
    numbers = np.asarray(indices)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise UsageError(f"The indices are {_short(indices)}: use integers from 0, such as range(10).")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < limit:
        raise UsageError(f"The indices are {_short(indices)}: use integers from 0 to {limit - 1}.")
    return numbers.astype(np.int64)


def _short(value: object) -> str:
    return f"{' '.join(str(value).split()):.60}"


def normal(numbers: Tensor) -> Tensor:
    """Converts uniform noise from :func:`uniform` to standard normal noise of the same shape.

    The inverse normal CDF is evaluated at the centers of the 2**24 intervals, so absolute values never exceed 5.5.
    """
    return torch.special.ndtri(numbers.double() + 2**-25).float()


def slerp(first: Tensor, second: Tensor, weights: Tensor, distribution: Distribution) -> Tensor:
    """Spherically interpolates between the noise of two samples.

    If ``first`` and ``second`` are independent, the result has the same distribution as they do. Linear interpolation
    would reduce the variance, and networks rarely see noise like that during training. Normal noise is interpolated as
    cos(w π/2) first + sin(w π/2) second, which has a variance of 1 for any weight w. Uniform noise is converted to
    normal noise first, and back afterwards.

    Args:
        first: The noise of the first sample, of shape (*noise_shape). Corresponds to a weight of 0.
        second: The noise of the second sample, of shape (*noise_shape). Corresponds to a weight of 1.
        weights: Interpolation weights of shape (N,) in [0, 1].
        distribution: The distribution of the noise.

    Returns:
        A float32 tensor of shape (N, *noise_shape).
    """
    if distribution == "uniform":
        return torch.special.ndtr(slerp(normal(first), normal(second), weights, "normal").double()).float()
    angles = (weights.double() * math.pi / 2).view(-1, *[1] * first.ndim)
    return (angles.cos() * first + angles.sin() * second).float()


def permutation(seed: int, size: int, epoch: int) -> Tensor:
    """Returns a random order of ``size`` images as an int64 tensor of shape (size,).

    The order only depends on the seed, the epoch, and the number of images.
    """
    counter = np.array([0, 0, epoch, 0], dtype=np.uint64)
    keys = np.random.Philox(key=_key(seed, SHUFFLING), counter=counter).random_raw(size)
    return torch.from_numpy(np.argsort(keys, kind="stable"))
