"""How far sets of images are from each other, and where the drift takes them, where the right answer is known."""

from __future__ import annotations

import pytest
import torch

from condgen.generators import Drifting
from condgen.generators.drifting import drift, energy_distance

TEMPERATURES = (0.02, 0.05, 0.2)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_energy_distance_is_that_of_all_pairs(random):
    fake, real = torch.randn(3, 2, generator=random), torch.randn(5, 2, generator=random)
    across = sum(float((a - b).norm()) for a in fake for b in real)
    within = [sum(float((a - b).norm()) for a in x for b in x if a is not b) for x in (fake, real)]
    expected = 2 * across / (3 * 5) - within[0] / (3 * 2) - within[1] / (5 * 4)
    assert energy_distance(fake, real).item() == pytest.approx(expected, abs=1e-5)


def test_it_has_no_bias_and_tells_a_spread_from_another(random):
    def mean_distance(spread: float) -> float:
        pairs = torch.randn(1000, 2, 20, 2, generator=random)
        return float(torch.stack([energy_distance(spread * fake, real) for fake, real in pairs]).mean())

    assert abs(mean_distance(1.0)) < 0.01
    assert mean_distance(0.5) > 0.05
    assert mean_distance(2.0) > 0.05


def test_points_drift_to_where_the_real_ones_are(random):
    fake = 0.01 * torch.randn(50, 2, generator=random)
    moved = drift(fake, fake + torch.tensor([5.0, 0.0]), [0.2])
    assert moved.square().sum(1).mean().sqrt().item() == pytest.approx(1, abs=1e-5)
    assert (moved[:, 0] > 0.9).all()


def test_where_both_are_distributed_alike_the_moves_cancel_and_elsewhere_they_mend_it(random):
    """Real points are of the standard normal distribution, fake ones of another or the same."""

    def moves(mean: float, spread: float) -> tuple[float, float]:
        """To the right, and away from the middle."""
        x = torch.randn(100, 30, 1, generator=random)
        moved = torch.stack(
            [drift(mean + spread * points, torch.randn(100, 1, generator=random), [0.2]) for points in x]
        )
        return float(moved.mean()), float((moved * x).mean())

    assert moves(0, 1) == pytest.approx((0, 0), abs=0.15)
    assert moves(-1, 1)[0] > 0.4
    assert moves(0, 0.5)[1] > 0.4
    assert moves(0, 2)[1] < -0.4


def test_points_that_drift_end_distributed_as_the_real_ones(random):
    """All begin in one place, the real ones' mean: a loss between pairs would leave them there."""

    def draw(number: int) -> torch.Tensor:
        return torch.tensor([1.0, 0.3]) * torch.randn(number, 2, generator=random)

    points = begin = 0.01 * torch.randn(100, 2, generator=random)
    for step in range(400):
        points = points + 0.05 * (1 - step / 400) * drift(points, draw(200), TEMPERATURES)
    real = draw(2000)
    assert energy_distance(points, real) < energy_distance(begin, real) / 10
    assert points.std(0).tolist() == pytest.approx([1, 0.3], rel=0.6)


def test_images_are_compared_with_those_of_their_label_in_every_space(random):
    generator = Drifting()
    labels, fake_labels = torch.tensor([0, 0, 0, 1, 1, 2, 4, 4]), torch.tensor([0, 0, 1, 1, 2, 2, 4])
    images, fake = torch.rand(8, 1, 28, 28, generator=random), torch.rand(7, 1, 28, 28, generator=random)
    with torch.no_grad():
        pairs = list(generator.feature_sets(fake, fake_labels, images, labels))
    # of 2 there is one real image, of 4 one fake image: they have no distances within
    assert [(len(a), len(b)) for a, b in pairs] == [(2, 3), (2, 2)] * 4
    assert [a.shape[1] for a, _ in pairs[::2]] == [784, 16 * 14 * 14, 32 * 7 * 7, 64 * 4 * 4]
    for a, b in pairs:  # noise is as far from noise as two real images are from each other
        assert torch.cdist(a, b).mean().item() == pytest.approx(1, rel=0.15)
    assert torch.allclose(pairs[0][0] / pairs[0][0][0, 0], fake[:2].flatten(1) / fake[0, 0, 0, 0], rtol=1e-4)


def test_a_batch_without_two_of_a_label_changes_nothing_and_breaks_nothing(monkeypatch):
    torch.manual_seed(0)
    generator = Drifting(fake_ratio=1.0)
    logged = []
    monkeypatch.setattr(generator, "batch_uniform", lambda rows, batch_idx, shape: torch.rand(rows, *shape))
    monkeypatch.setattr(generator, "log_train_loss", logged.append)
    monkeypatch.setattr(generator, "of_all_processes", lambda rows: rows)
    generator.training_step((torch.rand(5, 1, 28, 28), torch.arange(5)), 0).backward()
    assert all(not weights.grad.any() for weights in generator.network.parameters())
    assert logged[0] == 0
