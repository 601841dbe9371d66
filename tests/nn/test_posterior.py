"""The empirical posterior compared with Bayes' rule."""

from __future__ import annotations

import pytest
import torch

from condgen.nn.posterior import EmpiricalPosterior

ALPHA, SIGMA = torch.tensor([0.3, 0.4]), torch.tensor([0.7, 0.6])


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def posterior_of(images: torch.Tensor, labels: list[int], size: int = 8) -> EmpiricalPosterior:
    posterior = EmpiricalPosterior(size, images.shape[1:], num_classes=3)
    posterior.add(images, torch.tensor(labels))
    return posterior


def log_density(x_t: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """log p(x_t | image) for each noisy and each clean image, from the definition of x_t."""
    alpha, sigma = (c.view(-1, 1, 1, 1, 1) for c in (ALPHA, SIGMA))
    return torch.distributions.Normal(alpha * images, sigma).log_prob(x_t[:, None]).sum((2, 3, 4))


def test_posterior_follows_bayes_rule(random):
    images = torch.rand(7, 1, 4, 4, generator=random) * 2 - 1
    x, buffer = images[:2], images[2:]
    batch_labels, buffer_labels = torch.tensor([1, 2]), [0, 0, 1, 1, 1]
    x_t = ALPHA.view(-1, 1, 1, 1) * x + 0.6 * torch.randn(2, 1, 4, 4, generator=random)
    posterior = posterior_of(buffer, buffer_labels)
    log_likelihood = posterior.log_likelihood(x_t, x, ALPHA, SIGMA)
    density = log_density(x_t, images)
    assert density.std(1).min() > 0.5
    assert (log_likelihood[:, 6:] == -torch.inf).all()  # the buffer is not full
    for row in range(2):
        candidates = [row, 2, 3, 4, 5, 6]  # the image itself, then the buffer
        expected = density[row, candidates]
        assert torch.allclose(log_likelihood[row, :6].softmax(0), expected.softmax(0), atol=1e-5)
        candidate_labels = [int(batch_labels[row]), *buffer_labels]
        for label in {*candidate_labels, 3}:  # 3 is the null label: all candidates count
            chosen = [i for i, candidate in enumerate(candidate_labels) if label in (candidate, 3)]
            mean = (expected[chosen].softmax(0)[:, None, None, None] * images[candidates][chosen]).sum(0)
            found = posterior.mean(log_likelihood, x, batch_labels, torch.tensor([label, label]))[row]
            assert torch.allclose(found, mean, atol=1e-5)


def test_posterior_samples_labels_by_their_probability_over_the_buffer_alone(random):
    images, labels = torch.rand(5, 1, 2, 2, generator=random) * 2 - 1, [0, 0, 1, 1, 1]
    x = torch.rand(2, 1, 2, 2, generator=random) * 2 - 1
    x_t = 0.3 * x + 0.6 * torch.randn(2, 1, 2, 2, generator=random)
    posterior = posterior_of(images, labels)
    log_likelihood = posterior.log_likelihood(x_t, x, ALPHA, SIGMA)
    sampled = [
        posterior.sample_labels(row.expand(20_000, -1), torch.rand(20_000, 3, generator=random))
        for row in log_likelihood
    ]
    for labels_of_row, likelihood in zip(sampled, log_density(x_t, images).exp(), strict=True):
        weights = torch.stack([likelihood[:2].mean(), likelihood[2:].mean()])  # the prior over labels is uniform
        frequencies = labels_of_row.bincount(minlength=3) / len(labels_of_row)
        assert frequencies.tolist() == pytest.approx([*(weights / weights.sum()).tolist(), 0], abs=0.02)


def test_posterior_mean_with_an_empty_buffer_is_the_image_itself(random):
    posterior = EmpiricalPosterior(8, (1, 2, 2), num_classes=3)
    x, labels = torch.rand(2, 1, 2, 2, generator=random), torch.tensor([0, 3])
    log_likelihood = posterior.log_likelihood(torch.rand(2, 1, 2, 2, generator=random), x, ALPHA, SIGMA)
    assert torch.equal(posterior.mean(log_likelihood, x, torch.tensor([0, 1]), labels), x)


@pytest.mark.parametrize("batches", [[8, 8, 5], [3, 3, 3, 3, 3, 3, 3], [21]])
def test_posterior_buffer_keeps_the_latest_images(batches):
    images, posterior = torch.arange(21.0).view(21, 1, 1, 1), EmpiricalPosterior(8, (1, 1, 1), num_classes=21)
    for batch in images.split(batches):
        posterior.add(batch, batch.flatten().long())
    assert sorted(posterior.images.flatten().tolist()) == list(range(13, 21))
    assert torch.equal(posterior.images.flatten().long(), posterior.labels)
