"""The GAN's two losses, their penalty, and whose weights each of them moves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from condgen.generators import GAN


class Linear(nn.Module):
    """A discriminator whose slope is the same everywhere."""

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
    """Real images, drawn ones, and their labels."""
    generator = torch.Generator().manual_seed(0)
    real, drawn = torch.rand(2, 6, 1, 28, 28, generator=generator)
    return real, drawn, torch.tensor([0, 1, 2, 3, 4, 4])


def test_the_penalty_is_the_mean_squared_slope_on_real_and_on_drawn_images(gan, images):
    gan.discriminator = Linear()
    _, penalty, _ = gan.discriminator_loss(*images)
    slope = gan.discriminator.weights.square().sum()
    assert penalty.item() == pytest.approx(0.5 / 2 * 2 * slope.item(), rel=1e-5)
    penalty.backward()  # it moves the discriminator: twice the slope
    assert torch.allclose(gan.discriminator.weights.grad, 0.5 * 2 * gan.discriminator.weights, rtol=1e-4)


def test_the_losses_are_of_the_difference_between_a_real_and_a_drawn_image_of_the_same_label(gan, images):
    real, drawn, labels = images
    with torch.no_grad():
        more_real = gan.discriminator(real, labels) - gan.discriminator(drawn, labels)
    loss, _, real_logits = gan.discriminator_loss(real, drawn, labels)
    assert loss.item() == pytest.approx(-F.logsigmoid(more_real).mean().item(), rel=1e-4)
    assert gan.generator_loss(real_logits, drawn, labels).item() == pytest.approx(
        -F.logsigmoid(-more_real).mean().item(), rel=1e-4
    )


def test_neither_loss_moves_the_other_network(gan, images, monkeypatch):
    real, _, labels = images
    noise = gan.draw_noise(0, range(6))
    monkeypatch.setattr(gan, "batch_uniform", lambda *_: noise)
    monkeypatch.setattr(GAN, "log", lambda *_, **__: None)
    gan.training_step((real, labels), 0).backward()

    gan_2 = GAN(penalty=0.5)
    gan_2.load_state_dict(gan.state_dict())
    one_hot = F.one_hot(labels, 10).float()
    drawn = gan_2.network(torch.cat((noise, one_hot), 1))
    loss, penalty, real_logits = gan_2.discriminator_loss(real, drawn.detach(), labels)
    of_discriminator = torch.autograd.grad(loss + penalty, list(gan_2.discriminator.parameters()), retain_graph=True)
    of_generator = torch.autograd.grad(
        F.softplus(real_logits.detach() - gan_2.discriminator(drawn, labels)).mean(), list(gan_2.network.parameters())
    )
    for parameters, gradients in (
        (gan.discriminator.parameters(), of_discriminator),
        (gan.network.parameters(), of_generator),
    ):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


def test_the_verdict_hangs_on_the_label(gan, images):
    real, _, labels = images
    assert not torch.allclose(gan.discriminator(real, labels), gan.discriminator(real, (labels + 1) % 10))


def test_the_average_draws(gan):
    gan.eval()
    labels, noise = torch.tensor([3]), gan.draw_noise(0, [0])
    with torch.no_grad():
        before = gan.generate(labels, noise)
        for weights in gan.network.parameters():
            weights.mul_(2)
        assert torch.equal(gan.generate(labels, noise), before)
        gan.averaged.update_parameters(gan.network)  # the first: nothing to average yet
        assert not torch.equal(gan.generate(labels, noise), before)
