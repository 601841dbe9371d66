"""The energy distance and the drift, compared with their definitions and with distributions of known distance."""

from __future__ import annotations

import pytest
import torch

from condgen.generators import Drifting
from condgen.generators.drifting import drift, energy_distance

TEMPERATURES = (0.02, 0.05, 0.2)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_energy_distance_equals_its_definition_over_all_pairs(random):
    fake, real = torch.randn(3, 2, generator=random), torch.randn(5, 2, generator=random)
    across = sum(float((a - b).norm()) for a in fake for b in real)
    within = [sum(float((a - b).norm()) for a in x for b in x if a is not b) for x in (fake, real)]
    expected = 2 * across / (3 * 5) - within[0] / (3 * 2) - within[1] / (5 * 4)
    assert energy_distance(fake, real).item() == pytest.approx(expected, abs=1e-5)


def test_energy_distance_is_unbiased_and_detects_another_spread(random):
    def mean_distance(spread: float) -> float:
        pairs = torch.randn(1000, 2, 20, 2, generator=random)
        return float(torch.stack([energy_distance(spread * fake, real) for fake, real in pairs]).mean())

    assert abs(mean_distance(1.0)) < 0.01
    assert mean_distance(0.5) > 0.05
    assert mean_distance(2.0) > 0.05


def test_drift_moves_points_toward_the_real_points(random):
    fake = 0.01 * torch.randn(50, 2, generator=random)
    step = drift(fake, fake + torch.tensor([5.0, 0.0]), [0.2])
    assert step.square().sum(1).mean().sqrt().item() == pytest.approx(1, abs=1e-5)
    assert (step[:, 0] > 0.9).all()


def test_drift_cancels_for_equal_distributions_and_corrects_mean_and_spread(random):
    """The real points have a standard normal distribution. The fake points have the same or another one."""

    def mean_drift(mean: float, spread: float) -> tuple[float, float]:
        """The mean step to the right, and the mean step away from the mean of the fake points."""
        x = torch.randn(100, 30, 1, generator=random)
        steps = torch.stack(
            [drift(mean + spread * points, torch.randn(100, 1, generator=random), [0.2]) for points in x]
        )
        return float(steps.mean()), float((steps * x).mean())

    assert mean_drift(0, 1) == pytest.approx((0, 0), abs=0.15)
    assert mean_drift(-1, 1)[0] > 0.4
    assert mean_drift(0, 0.5)[1] > 0.4
    assert mean_drift(0, 2)[1] < -0.4


def test_repeated_drift_reaches_the_distribution_of_the_real_points(random):
    """All points start at the mean of the real points. With a loss between pairs they would stay there."""

    def real_points(number: int) -> torch.Tensor:
        return torch.tensor([1.0, 0.3]) * torch.randn(number, 2, generator=random)

    points = start = 0.01 * torch.randn(100, 2, generator=random)
    for step in range(400):
        points = points + 0.05 * (1 - step / 400) * drift(points, real_points(200), TEMPERATURES)
    real = real_points(2000)
    assert energy_distance(points, real) < energy_distance(start, real) / 10
    assert points.std(0).tolist() == pytest.approx([1, 0.3], rel=0.6)


def test_feature_sets_pair_images_of_the_same_label_in_every_feature_space(random):
    generator = Drifting()
    labels, fake_labels = torch.tensor([0, 0, 0, 1, 1, 2, 4, 4]), torch.tensor([0, 0, 1, 1, 2, 2, 4])
    images, fake = torch.rand(8, 1, 28, 28, generator=random), torch.rand(7, 1, 28, 28, generator=random)
    with torch.no_grad():
        pairs = list(generator.feature_sets(fake, fake_labels, images, labels))
    # label 2 has one real image and label 4 one fake image, so they have no distance within their set
    assert [(len(a), len(b)) for a, b in pairs] == [(2, 3), (2, 2)] * 4
    assert [a.shape[1] for a, _ in pairs[::2]] == [784, 16 * 14 * 14, 32 * 7 * 7, 64 * 4 * 4]
    for a, b in pairs:  # here fake and real images are both noise, so they are as far apart as two real images
        assert torch.cdist(a, b).mean().item() == pytest.approx(1, rel=0.15)
    assert torch.allclose(pairs[0][0] / pairs[0][0][0, 0], fake[:2].flatten(1) / fake[0, 0, 0, 0], rtol=1e-4)


def test_training_step_without_two_images_of_a_label_has_zero_gradients(monkeypatch):
    torch.manual_seed(0)
    generator = Drifting(fake_ratio=1.0)
    losses = []
    monkeypatch.setattr(generator, "batch_uniform", lambda rows, batch_idx, shape: torch.rand(rows, *shape))
    monkeypatch.setattr(generator, "log_train_loss", losses.append)
    monkeypatch.setattr(generator, "of_all_processes", lambda rows: rows)
    generator.training_step((torch.rand(5, 1, 28, 28), torch.arange(5)), 0).backward()
    assert all(not weights.grad.any() for weights in generator.network.parameters())
    assert losses[0] == 0
