"""Random numbers that depend only on the seed, the sample index and the training step.

Philox is a counter-based random number generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
Its n-th output is a hash of a key and n. Here, the key is (seed, stream), and the counter is (sample, step). Therefore
any process can generate the noise of any sample, and a resumed run gets the same numbers as an uninterrupted run. No
generator state has to be saved. Only Philox's raw bits are used, because numpy guarantees that they stay the same in
future releases.
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

# Each stream gives independent random numbers for the same seed.
SAMPLING, TRAINING, EVALUATION, SHUFFLING, AUGMENTATION = range(5)

Distribution = Literal["uniform", "normal"]  # uniform in [0, 1), or normal with mean 0 and variance 1

_PER_COUNT = 8  # 32-bit words that Philox returns for each value of its 256-bit counter


def uniform(
    seed: int,
    indices: Sequence[int] | Tensor,
    shape: Sequence[int],
    *,
    stream: int = SAMPLING,
    step: tuple[int, int] = (0, 0),
) -> Tensor:
    """Generates uniform noise in [0, 1) for samples.

    The noise of a sample depends only on the seed, the stream, the step and the index of the sample.

    Args:
        seed: Seed from 0 to 2**64 - 1.
        indices: Indices of the samples, with shape (N,). Each index is at least 0.
        shape: Shape of the noise of one sample.
        stream: Purpose of the noise, such as ``SAMPLING``.
        step: Batch index and epoch, each at least 0.

    Returns:
        Noise with shape (N, *shape) and dtype float32, on the CPU. All values are multiples of 2**-24.

    Raises:
        UsageError: If the seed or an index is not an integer or is out of range.
    """
    size = math.prod(shape)
    counts = -(-size // _PER_COUNT)
    numbers = _checked_indices(indices, 2**63 // max(1, counts))
    philox = np.random.Philox(key=_key(seed, stream), counter=np.array([0, *step, 0], dtype=np.uint64))
    words = np.empty((len(numbers), counts * _PER_COUNT), dtype=np.uint32)
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1  # rows between breaks have consecutive counters
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
    """Returns Philox's key for a seed and a stream.

    Raises:
        UsageError: If the seed is not an integer (of Python, numpy or torch) from 0 to 2**64 - 1.
    """
    try:
        key = operator.index(seed)
    except TypeError:
        key = -1
    if not 0 <= key < 2**64:
        raise UsageError(f"The seed is {seed!r}: use an integer from 0 to 2**64 - 1.")
    return np.array([key, stream], dtype=np.uint64)


def _checked_indices(indices: Sequence[int] | Tensor, limit: int) -> np.ndarray:
    """Converts indices to an int64 array with shape (N,).

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
    """Converts the uniform noise of :func:`uniform` to standard normal noise of the same shape.

    The inverse CDF of the normal distribution is evaluated at the centers of the 2**24 intervals, so no absolute value
    exceeds 5.5.
    """
    return torch.special.ndtri(numbers.double() + 2**-25).float()


def slerp(first: Tensor, second: Tensor, weights: Tensor, distribution: Distribution) -> Tensor:
    """Interpolates spherically between the noise of two samples.

    If ``first`` and ``second`` are independent, the interpolated noise has the same distribution as they have. Linear
    interpolation would reduce the variance, and networks rarely see noise with a reduced variance in training. Normal
    noise is interpolated as cos(w π/2) first + sin(w π/2) second, which has variance 1 for every weight w. Uniform
    noise is converted to normal noise, interpolated, and converted back.

    Args:
        first: Noise of the first sample, with shape (*noise_shape). It is returned for weight 0.
        second: Noise of the second sample, with shape (*noise_shape). It is returned for weight 1.
        weights: Interpolation weights in [0, 1], with shape (N,).
        distribution: Distribution of the noise.

    Returns:
        Interpolated noise with shape (N, *noise_shape) and dtype float32.
    """
    if distribution == "uniform":
        return torch.special.ndtr(slerp(normal(first), normal(second), weights, "normal").double()).float()
    angles = (weights.double() * math.pi / 2).view(-1, *[1] * first.ndim)
    return (angles.cos() * first + angles.sin() * second).float()


def permutation(seed: int, size: int, epoch: int) -> Tensor:
    """Returns the order of ``size`` images in an epoch, with shape (size,) and dtype int64.

    The order depends only on the seed, the epoch and the number of images.
    """
    counter = np.array([0, 0, epoch, 0], dtype=np.uint64)
    keys = np.random.Philox(key=_key(seed, SHUFFLING), counter=counter).random_raw(size)
    return torch.from_numpy(np.argsort(keys, kind="stable"))
