"""The GAN's two losses, its gradient penalty, the gradients of both networks, and the EMA."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from condgen.generators import GAN


class LinearDiscriminator(nn.Module):
    """A discriminator whose gradient with respect to the image is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(-1, 1, 28 * 28).view(1, 28, 28))

    def forward(self, images, labels):
        return (images * self.weights).sum((1, 2, 3)) + labels


@pytest.fixture
def gan() -> GAN:
    torch.manual_seed(0)
    return GAN(penalty=0.5)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Real images, generated images, and their labels."""
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.rand(2, 6, 1, 28, 28, generator=generator)
    return real, fake, torch.tensor([0, 1, 2, 3, 4, 4])


def test_gradient_penalty_is_the_mean_squared_gradient_on_real_and_fake_images(gan, images):
    gan.discriminator = LinearDiscriminator()
    penalty = gan.gradient_penalty(*images)
    squared_norm = gan.discriminator.weights.square().sum()
    assert penalty.item() == pytest.approx(0.5 / 2 * 2 * squared_norm.item(), rel=1e-5)
    penalty.backward()  # the gradient of the squared norm is twice the weights
    assert torch.allclose(gan.discriminator.weights.grad, 0.5 * 2 * gan.discriminator.weights, rtol=1e-4)


def test_relativistic_logits_are_the_difference_of_real_and_fake_logits(gan, images):
    real, fake, labels = images
    with torch.no_grad():
        expected = gan.discriminator(real, labels) - gan.discriminator(fake, labels)
        logits = gan.relativistic_logits(real, fake, labels)
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 8.0, -8.0])
def test_gan_training_step_gives_each_network_the_gradient_of_its_own_loss(gan, offset, monkeypatch):
    """The offset is added to the logits of real images, so that the discriminator is almost certain, right or wrong."""
    generator = torch.Generator().manual_seed(0)
    real, labels, noise = torch.rand(20, 1, 28, 28, generator=generator), torch.arange(20) % 10, torch.rand(20, 62)
    monkeypatch.setattr(gan, "batch_uniform", lambda *_: noise)
    monkeypatch.setattr(gan, "log_train_loss", lambda *_, **__: None)
    real[:, 0, 0, 0] = 1  # a value that no generated image has: it marks real images
    logits = gan.discriminator.forward
    monkeypatch.setattr(
        gan.discriminator, "forward", lambda x, labels: logits(x, labels) + offset * (x[:, 0, 0, 0] == 1)
    )
    gan.training_step((real, labels), 0).backward()

    fake = gan.network(torch.cat((noise, F.one_hot(labels, 10).float()), 1))
    discriminator_loss = F.softplus(gan.discriminator(fake.detach(), labels) - gan.discriminator(real, labels)).mean()
    penalty = gan.gradient_penalty(real[[0, 8, 16]], fake[[0, 8, 16]], labels[[0, 8, 16]])
    generator_loss = F.softplus(gan.discriminator(real, labels) - gan.discriminator(fake, labels)).mean()
    for network, loss in ((gan.discriminator, discriminator_loss + penalty), (gan.network, generator_loss)):
        parameters = list(network.parameters())
        for parameter, expected in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-7 + 1e-3 * float(expected.abs().max()))


def test_gan_discriminator_depends_on_the_label(gan, images):
    real, _, labels = images
    assert not torch.allclose(gan.discriminator(real, labels), gan.discriminator(real, (labels + 1) % 10))


def test_gan_generates_with_the_ema_weights(gan):
    gan.eval()
    labels, noise = torch.tensor([3]), gan.sample_noise(0, [0])
    with torch.no_grad():
        before = gan.generate(labels, noise)
        for weights in gan.network.parameters():
            weights.mul_(2)
        assert torch.equal(gan.generate(labels, noise), before)
        gan.ema.update_parameters(gan.network)  # the first update copies
        assert not torch.equal(gan.generate(labels, noise), before)
