"""Sample noise: reproducible from seed and index, correctly distributed, and checked for invalid arguments."""

import numpy as np
import pytest
import torch

from condgen.errors import UsageError
from condgen.noise import EVALUATION, TRAINING, normal, permutation, slerp, uniform


def test_uniform_noise_of_a_sample_is_independent_of_the_other_requested_indices():
    batch = uniform(3, range(100), (62,))
    assert torch.equal(uniform(3, [41], (62,))[0], batch[41])
    assert torch.equal(uniform(3, [99, 0, 1, 50], (62,)), batch[[99, 0, 1, 50]])
    assert torch.equal(uniform(3, torch.arange(7, 20), (62,)), batch[7:20])


@pytest.mark.parametrize(
    "other",
    [
        uniform(4, range(10), (5,)),
        uniform(3, range(10), (5,), stream=TRAINING),
        uniform(3, range(10), (5,), stream=EVALUATION),
        uniform(3, range(10), (5,), step=(1, 0)),
        uniform(3, range(10), (5,), step=(0, 1)),
        uniform(3, range(10, 20), (5,)),
        uniform(3 + 2**32, range(10), (5,)),
        uniform(2**64 - 1, range(10), (5,)),
    ],
)
def test_uniform_noise_differs_by_seed_stream_step_and_index(other: torch.Tensor):
    assert not set(uniform(3, range(10), (5,)).flatten().tolist()) & set(other.flatten().tolist())


def test_uniform_noise_passes_a_chi_square_test():
    numbers = uniform(0, range(2_000), (62,)).numpy().ravel()
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    expected = numbers.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi-square, 19 degrees of freedom: p = 0.0007


def test_noise_and_permutation_match_recorded_values():
    """A seed must give the same samples in every release. The values below were recorded once."""
    assert uniform(0, [0], (3,))[0].tolist() == [0.034741878509521484, 0.011546730995178223, 0.6119502186775208]
    assert permutation(0, 8, 0).tolist() == [5, 4, 6, 7, 0, 1, 2, 3]


def test_permutation_differs_by_seed_and_epoch():
    orders = [permutation(seed, 1000, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert all(torch.equal(order.sort().values, torch.arange(1000)) for order in orders)
    assert all((a == b).float().mean() < 0.05 for i, a in enumerate(orders) for b in orders[:i])


def test_normal_noise_is_standard_normal():
    numbers = normal(uniform(0, range(1000), (1000,)))
    assert numbers.isfinite().all()
    assert numbers.mean().abs() < 0.005
    assert numbers.std() == pytest.approx(1, abs=0.005)
    for bound, probability in ((1.0, 0.8413), (-2.0, 0.02275), (3.0, 0.99865)):
        assert (numbers < bound).float().mean() == pytest.approx(probability, abs=0.002)
    lowest, highest = normal(torch.tensor([0.0, 1 - 2**-24]))
    assert lowest == -highest
    assert 5 < highest < 5.5


@pytest.mark.parametrize("seed", [1.5, 1.0, "1", None, -1, 2**64, np.float64(1), torch.tensor(1.0), [1]])
def test_uniform_and_permutation_reject_invalid_seeds(seed):
    with pytest.raises(UsageError, match="seed"):
        uniform(seed, [0], (3,))
    with pytest.raises(UsageError, match="seed"):
        permutation(seed, 3, 0)


@pytest.mark.parametrize(
    "indices",
    [
        [0.5, 1.7],
        [0.0],
        torch.tensor([0.5]),
        np.array([1.0]),
        [True],
        ["0"],
        [-1],
        [0, 2**64],
        [2**62],
        torch.tensor([3, -1]),
        5,
        [[0, 1]],
    ],
)
def test_uniform_rejects_invalid_indices(indices):
    with pytest.raises(UsageError, match="indices"):
        uniform(0, indices, (62,))


@pytest.mark.parametrize("seed", [7, np.int32(7), np.uint64(7), torch.tensor(7)])
@pytest.mark.parametrize(
    "indices", [range(2), [0, 1], (0, 1), torch.arange(2), torch.arange(2).int(), np.arange(2, dtype=np.uint8)]
)
def test_uniform_accepts_numpy_and_torch_integers(seed, indices):
    assert torch.equal(uniform(seed, indices, (3,)), uniform(7, [0, 1], (3,)))


def test_uniform_of_no_indices_returns_an_empty_tensor():
    for indices in ([], range(0), torch.arange(0)):
        assert uniform(0, indices, (62,)).shape == (0, 62)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_slerp_preserves_the_noise_distribution(distribution):
    first, second = uniform(0, range(2), (20_000,))
    if distribution == "normal":
        first, second = normal(first), normal(second)
    interpolated = slerp(first, second, torch.linspace(0, 1, 5), distribution)
    assert interpolated.shape == (5, 20_000)
    assert torch.allclose(interpolated[[0, -1]], torch.stack((first, second)), atol=1e-6)
    expected = torch.linspace(0.05, 0.95, 19)
    if distribution == "normal":
        expected = torch.special.ndtri(expected)
    for row in interpolated:
        assert torch.allclose(row.quantile(torch.linspace(0.05, 0.95, 19)), expected, atol=0.04)
    correlation = torch.corrcoef(torch.stack((interpolated[2], first)))[0, 1].item()
    assert correlation == pytest.approx(0.5**0.5, abs=0.03)  # the midpoint is equally close to both ends
