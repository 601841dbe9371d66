"""The GAN's two losses, its gradient penalty, and the gradients of both networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from condgen.generators import GAN


class Linear(nn.Module):
    """A discriminator with a constant gradient."""

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
    """Real images, generated ones, and their labels."""
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.rand(2, 6, 1, 28, 28, generator=generator)
    return real, fake, torch.tensor([0, 1, 2, 3, 4, 4])


def test_gradient_penalty_is_the_mean_squared_gradient_on_real_and_fake_images(gan, images):
    gan.discriminator = Linear()
    penalty = gan.gradient_penalty(*images)
    squared = gan.discriminator.weights.square().sum()
    assert penalty.item() == pytest.approx(0.5 / 2 * 2 * squared.item(), rel=1e-5)
    penalty.backward()  # its gradient: twice the weights
    assert torch.allclose(gan.discriminator.weights.grad, 0.5 * 2 * gan.discriminator.weights, rtol=1e-4)


def test_relativistic_logits_are_the_difference_of_real_and_fake_logits_of_the_same_label(gan, images):
    real, fake, labels = images
    with torch.no_grad():
        more_real = gan.discriminator(real, labels) - gan.discriminator(fake, labels)
        logits = gan.relativistic_logits(real, fake, labels)
    assert torch.allclose(logits, more_real, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ahead", [0.0, 8.0, -8.0])
def test_one_backward_pass_gives_each_network_the_gradient_of_its_own_loss(gan, ahead, monkeypatch):
    """Also if real images seem far more real than generated ones, or far less."""
    generator = torch.Generator().manual_seed(0)
    real, labels, noise = torch.rand(20, 1, 28, 28, generator=generator), torch.arange(20) % 10, torch.rand(20, 62)
    monkeypatch.setattr(gan, "batch_uniform", lambda *_: noise)
    monkeypatch.setattr(gan, "log_train_loss", lambda *_, **__: None)
    real[:, 0, 0, 0] = 1  # exactly, unlike any generated image, so that real images can be told from them
    logits = gan.discriminator.forward
    monkeypatch.setattr(
        gan.discriminator, "forward", lambda x, labels: logits(x, labels) + ahead * (x[:, 0, 0, 0] == 1)
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


def test_discriminator_depends_on_the_label(gan, images):
    real, _, labels = images
    assert not torch.allclose(gan.discriminator(real, labels), gan.discriminator(real, (labels + 1) % 10))


def test_generate_uses_the_ema_weights(gan):
    gan.eval()
    labels, noise = torch.tensor([3]), gan.draw_noise(0, [0])
    with torch.no_grad():
        before = gan.generate(labels, noise)
        for weights in gan.network.parameters():
            weights.mul_(2)
        assert torch.equal(gan.generate(labels, noise), before)
        gan.ema.update_parameters(gan.network)  # the first update copies
        assert not torch.equal(gan.generate(labels, noise), before)
