"""The empirical posterior against Bayes' rule."""

from __future__ import annotations

import pytest
import torch

from condgen.nn.posterior import LABEL_EXPONENT, EmpiricalPosterior

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
    images = torch.rand(5, 1, 4, 4, generator=random) * 2 - 1
    x_t = ALPHA.view(-1, 1, 1, 1) * images[[1, 4]] + 0.6 * torch.randn(2, 1, 4, 4, generator=random)
    posterior = posterior_of(images, [0, 0, 1, 1, 1])
    log_likelihood = posterior.log_likelihood(x_t, ALPHA, SIGMA)
    expected = log_density(x_t, images)
    assert expected.std(1).min() > 0.5
    assert torch.allclose(log_likelihood.softmax(1)[:, :5], expected.softmax(1), atol=1e-5)
    assert (log_likelihood[:, 5:] == -torch.inf).all()  # no images yet
    for labels, members in (([0, 0], [0, 1]), ([1, 1], [2, 3, 4]), ([3, 3], [0, 1, 2, 3, 4])):  # 3: any label
        mean = expected[:, members].softmax(1) @ images[members].flatten(1)
        assert torch.allclose(posterior.mean(log_likelihood, torch.tensor(labels)), mean, atol=1e-5)


def test_posterior_samples_labels_with_their_tempered_probabilities(random):
    images, labels = torch.rand(5, 1, 2, 2, generator=random) * 2 - 1, [0, 0, 1, 1, 1]
    x_t = 0.3 * images[[0, 3]] + 0.6 * torch.randn(2, 1, 2, 2, generator=random)
    posterior = posterior_of(images, labels)
    log_likelihood = posterior.log_likelihood(x_t, ALPHA, SIGMA)
    sampled = [
        posterior.sample_labels(row.expand(20_000, -1), torch.rand(20_000, 3, generator=random))
        for row in log_likelihood
    ]
    for found, likelihood in zip(sampled, log_density(x_t, images).exp(), strict=True):
        weights = torch.stack([likelihood[:2].mean(), likelihood[2:].mean()]) ** LABEL_EXPONENT  # labels equally likely
        frequencies = found.bincount(minlength=3) / len(found)
        assert frequencies.tolist() == pytest.approx([*(weights / weights.sum()).tolist(), 0], abs=0.02)


def test_posterior_mean_without_an_image_of_the_label_is_nan(random):
    posterior = posterior_of(torch.rand(2, 1, 2, 2, generator=random), [0, 1])
    log_likelihood = posterior.log_likelihood(torch.rand(2, 1, 2, 2, generator=random), ALPHA, SIGMA)
    assert posterior.mean(log_likelihood, torch.tensor([2, 1])).isnan().all(1).tolist() == [True, False]


@pytest.mark.parametrize("batches", [[8, 8, 5], [3, 3, 3, 3, 3, 3, 3], [21]])
def test_posterior_keeps_the_latest_images(batches):
    images, posterior = torch.arange(21.0).view(21, 1, 1, 1), EmpiricalPosterior(8, (1, 1, 1), num_classes=21)
    for batch in images.split(batches):
        posterior.add(batch, batch.flatten().long())
    assert sorted(posterior.images.flatten().tolist()) == list(range(13, 21))
    assert torch.equal(posterior.images.flatten().long(), posterior.labels)
