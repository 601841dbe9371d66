"""Random numbers as a function of seed, sample and step, without any generator state.

Philox is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): its n-th output
is a hash of a key and n. The key is (seed, stream), and the counter is (sample, step). So any process can generate any
sample's noise, a resumed run gets the same numbers as an uninterrupted one, and no generator state has to be saved.
Only Philox's raw bits are used, because numpy guarantees them from release to release.
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

# Streams of one seed, which never share numbers.
SAMPLING, TRAINING, EVALUATION, SHUFFLING, AUGMENTATION = range(5)

Distribution = Literal["uniform", "normal"]  # in [0, 1); with mean 0 and variance 1

_PER_COUNT = 8  # 32-bit words that one value of Philox's 256-bit counter gives


def uniform(
    seed: int,
    indices: Sequence[int] | Tensor,
    shape: Sequence[int],
    *,
    stream: int = SAMPLING,
    step: tuple[int, int] = (0, 0),
) -> Tensor:
    """Uniform noise in [0, 1) of samples; that of one sample depends on seed, stream, step and its index alone.

    Args:
        seed: 0 to 2**64 - 1.
        indices: (N,) indices of the samples, at least 0.
        shape: of one sample's noise.
        stream: the purpose of the noise, such as ``SAMPLING``.
        step: batch index and epoch, each at least 0.

    Returns:
        (N, *shape), float32 multiples of 2**-24, on the CPU.

    Raises:
        UsageError: the seed or an index is not an integer, or out of range.
    """
    size = math.prod(shape)
    counts = -(-size // _PER_COUNT)
    numbers = _checked_indices(indices, 2**63 // max(1, counts))
    philox = np.random.Philox(key=_key(seed, stream), counter=np.array([0, *step, 0], dtype=np.uint64))
    words = np.empty((len(numbers), counts * _PER_COUNT), dtype=np.uint32)
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1  # rows in between have consecutive indices and counters
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
    """Philox's key; raises UsageError unless the seed is an integer, of any library, from 0 to 2**64 - 1."""
    try:
        key = operator.index(seed)
    except TypeError:
        key = -1
    if not 0 <= key < 2**64:
        raise UsageError(f"The seed is {seed!r}: give an integer from 0 to 2**64 - 1.")
    return np.array([key, stream], dtype=np.uint64)


def _checked_indices(indices: Sequence[int] | Tensor, limit: int) -> np.ndarray:
    """Returns the indices as int64; raises UsageError unless they are integers from 0 to below ``limit``."""
    numbers = np.asarray(indices)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise UsageError(f"The indices are {_short(indices)}: give integers from 0, such as range(10).")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < limit:
        raise UsageError(f"The indices are {_short(indices)}: give integers from 0 to {limit - 1}.")
    return numbers.astype(np.int64)


def _short(value: object) -> str:
    return f"{' '.join(str(value).split()):.60}"


def normal(numbers: Tensor) -> Tensor:
    """Maps uniform noise of :func:`uniform` to standard normal noise of the same shape.

    It uses the inverse normal CDF at the centre of each of the 2**24 steps, so no magnitude exceeds 5.5.
    """
    return torch.special.ndtri(numbers.double() + 2**-25).float()


def slerp(first: Tensor, second: Tensor, weights: Tensor, distribution: Distribution) -> Tensor:
    """Spherical interpolation between the noise of two samples.

    The result has the same distribution as both ends, if these are independent. Linear interpolation would shrink the
    variance, and networks have rarely seen such noise. Normal noise follows cos(w π/2) first + sin(w π/2) second, whose
    variance is 1 for every weight w; uniform noise is mapped to normal noise and back.

    Args:
        first: (*noise_shape), at weight 0.
        second: (*noise_shape), at weight 1.
        weights: (N,) in [0, 1].
        distribution: of both ends.

    Returns:
        (N, *noise_shape), float32.
    """
    if distribution == "uniform":
        return torch.special.ndtr(slerp(normal(first), normal(second), weights, "normal").double()).float()
    angles = (weights.double() * math.pi / 2).view(-1, *[1] * first.ndim)
    return (angles.cos() * first + angles.sin() * second).float()


def permutation(seed: int, size: int, epoch: int) -> Tensor:
    """Returns the order of ``size`` images in an epoch: (size,) int64, a function of seed and epoch."""
    counter = np.array([0, 0, epoch, 0], dtype=np.uint64)
    keys = np.random.Philox(key=_key(seed, SHUFFLING), counter=counter).random_raw(size)
    return torch.from_numpy(np.argsort(keys, kind="stable"))
