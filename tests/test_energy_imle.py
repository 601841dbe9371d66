"""The two ways in which EnergyIMLE compares sets of images, where the right answer is known."""

from __future__ import annotations

import pytest
import torch

from condgen.generators import EnergyIMLE
from condgen.generators.energy_imle import energy_distance


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_energy_distance_is_that_of_all_pairs_of_a_label(random):
    drawn, real = torch.randn(2, 7, 3, generator=random)
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 2])  # the last one has no other of its label
    expected = 0.0
    for label in (0, 1):
        mine = torch.nonzero(labels == label).flatten().tolist()
        across = [float((drawn[i] - real[j]).norm()) for i in mine for j in mine]
        within = [float((x[i] - x[j]).norm()) for x in (drawn, real) for i in mine for j in mine if i != j]
        expected += (2 * sum(across) / len(across) - 2 * sum(within) / len(within)) / 2
    assert energy_distance(drawn, real, labels).item() == pytest.approx(expected, abs=1e-5)
    assert energy_distance(drawn[-1:], real[-1:], labels[-1:]).item() == 0


def test_it_has_no_bias_and_tells_a_spread_from_another(random):
    labels = torch.arange(40) % 2

    def mean_distance(spread: float) -> float:
        pairs = torch.randn(400, 2, 40, 2, generator=random)
        return float(torch.stack([energy_distance(spread * drawn, real, labels) for drawn, real in pairs]).mean())

    assert abs(mean_distance(1.0)) < 0.01
    assert mean_distance(0.5) > 0.05
    assert mean_distance(2.0) > 0.05


def test_points_that_follow_it_spread_as_the_real_ones_do(random):
    """All begin in one place, the real ones' mean: a loss between pairs would leave them there."""
    labels = torch.zeros(64, dtype=torch.long)
    points = (0.01 * torch.randn(64, 1, generator=random)).requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        energy_distance(points, 2 * torch.randn(64, 1, generator=random), labels).backward()
        optimizer.step()
    assert points.std().item() == pytest.approx(2, rel=0.2)


def test_each_real_image_finds_its_nearest_candidate_of_its_own_label():
    torch.manual_seed(0)
    generator = EnergyIMLE(candidates=5).eval()
    generator.draw_candidates(0)
    labels = torch.tensor([2, 7, 2])
    rows = torch.tensor([2, 17, 42])  # a candidate's label is its number modulo 10
    noise = generator.candidate_latents[rows]
    with torch.no_grad():
        images = generator.generate(labels, noise)
        assert torch.equal(generator.nearest_latents(images, labels), noise)
        other = generator.nearest_latents(images, (labels + 1) % 10)
    found = [int(torch.nonzero((generator.candidate_latents == latent).all(1))) for latent in other]
    assert [row % 10 for row in found] == [3, 8, 3]
    generator.draw_candidates(1)
    assert not torch.equal(generator.candidate_latents[rows], noise)


def test_an_image_that_is_drawn_as_it_is_costs_nothing_in_any_space(random):
    generator = EnergyIMLE(candidates=5)
    real, drawn = torch.rand(2, 64, 1, 28, 28, generator=random)
    labels = torch.arange(64) % 2
    assert generator.losses(real, labels, drawn, real)[1].item() == pytest.approx(0, abs=1e-6)
    # as far from each other as two real images are: noise is noise
    assert generator.losses(real, labels, drawn, drawn)[1].item() == pytest.approx(1, abs=0.05)


def test_a_step_takes_many_images_of_few_labels_and_every_label_has_its_turn():
    generator = EnergyIMLE(candidates=5, share=0.3)
    labels = torch.arange(200) % 10
    images = labels.view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    taken = torch.zeros(10, dtype=torch.long)
    for batch_idx in range(10):
        of_step, its_labels = generator.of_few_labels(images, labels, batch_idx)
        assert torch.equal(of_step[:, 0, 0, 0], its_labels)
        counts = its_labels.bincount(minlength=10)
        assert sorted(counts.tolist()) == [0] * 7 + [20] * 3
        taken += counts
    assert taken.tolist() == [60] * 10
