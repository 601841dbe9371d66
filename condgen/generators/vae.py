"""VAE: a decoder p(x | z, y) and an encoder q(z | x, y).

The DNN's latent has nothing to do with the image that it is compared with, so the network learns to ignore it. Here the
encoder sees that image and returns a normal distribution of latents for it. Now the latent says which of the many
threes is meant, and the decoder, the article's network, does not have to average. To sample without an image, one must
know the distribution of the latents: the prior p(z | y). One number trains all three, the evidence lower bound of the
images' log-likelihood (Kingma and Welling 2013, "Auto-Encoding Variational Bayes", arXiv:1312.6114), in nats per image:

    ELBO = E[log p(x | z, y)]  -  E[log q(z | x, y) - log p(z | y)]
           reconstruction         KL

Two things improve on the textbook's VAE, and the loss remains a valid lower bound:

- The likelihood is a logistic distribution that is discretised to 256 levels; the outermost levels contain the tails
  (Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517). Four fifths of MNIST's pixels are exactly black, and the
  others grey: a Bernoulli distribution has no grey levels, and a normal one no mass at exact black. The scale of each
  pixel is learnt, and with it the weight of the reconstruction against the KL, so there is no β.
- The aggregate posterior is not Gaussian: samples from N(0, I) often fall where the decoder was never trained. So the
  prior is learnt by the same bound: for each label a normalising flow (Dinh et al. 2017, arXiv:1605.08803).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from condgen.errors import UsageError
from condgen.generators.base import ConditionalGenerator
from condgen.generators.dnn import DNNNetwork, with_label
from condgen.generators.settings import Count, NonNegativeInt, PositiveFloat, PositiveInt, Size
from condgen.nn.coupling import FlowPrior, normal_log_prob
from condgen.nn.schedule import ScheduleName, fused_group, with_schedule
from condgen.noise import Distribution


class Encoder(nn.Module):
    """The article's network in reverse: an image and its label to the posterior of the latent.

    Args:
        image_shape: (C, H, W) of the images; H and W are multiples of 4.
        num_classes: labels are 0 … ``num_classes`` - 1.
        latent_dim: size of the latent.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int, latent_dim: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.num_classes = num_classes
        self.conv = nn.Sequential(
            nn.Conv2d(channels, 64, kernel_size=4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 128, kernel_size=4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.fc = nn.Sequential(
            nn.Linear(128 * (height // 4) * (width // 4) + num_classes, 1024, bias=False),
            nn.BatchNorm1d(1024),
            nn.ReLU(),
            nn.Linear(1024, 2 * latent_dim),
        )

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [0, 1] and labels (N,) to mean and log standard deviation (N, latent_dim) each."""
        mean, log_std = self.fc(with_label(self.conv(images), labels, self.num_classes)).chunk(2, dim=1)
        return mean.float(), log_std.float().clamp(-7, 2)


def discretized_logistic_log_prob(images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Log-likelihood of images under logistic distributions that are discretised to 256 levels.

    Args:
        images: (N, C, H, W), multiples of 1/255 in [0, 1].
        location: (N, C, H, W), of each pixel's distribution before it is discretised.
        log_scale: (C, H, W), of each pixel's distribution.

    Returns:
        (N,), in nats per image, at most 0.
    """
    inverse_scale = torch.exp(-log_scale)
    upper = (images - location + 1 / 510) * inverse_scale  # the ends of the level's interval
    lower = (images - location - 1 / 510) * inverse_scale
    # log(sigmoid(upper) - sigmoid(lower)) as a sum, because float32 would often round the difference to 0
    is_black, is_white = images < 1 / 510, images > 1 - 1 / 510
    log_cdf = torch.where(is_white, 0.0, F.logsigmoid(upper))
    log_survival = torch.where(is_black, 0.0, F.logsigmoid(-lower))
    log_width = torch.where(is_black | is_white, 0.0, torch.log(-torch.expm1(-inverse_scale / 255)))
    return (log_cdf + log_survival + log_width).flatten(1).sum(1)


class VAE(ConditionalGenerator):
    """A conditional VAE with the article's network as its decoder; see the module.

    ``generate`` returns the location of each pixel's distribution, clipped to [0, 1], and does not sample the pixel.

    Args:
        latent_dim: size of the latent, 2 or more.
        num_classes: follows the data set.
        image_shape: (C, H, W), follows the data set.
        flow_steps: coupling layers of the prior; 0 for the textbook's prior, a standard normal distribution.
        lr: learning rate of Adam.
        schedule: learning-rate schedule after the warm-up: constant, or linear or cosine decay to 0.
        warmup_steps: steps of linear learning-rate warm-up.
    """

    def __init__(
        self,
        latent_dim: Size = 24,
        num_classes: PositiveInt = 10,
        image_shape: Sequence[PositiveInt] = (1, 28, 28),
        flow_steps: Count = 8,
        lr: PositiveFloat = 2e-3,
        schedule: ScheduleName = "cosine",
        warmup_steps: NonNegativeInt = 100,
    ) -> None:
        super().__init__(num_classes, image_shape)
        self.save_hyperparameters()
        if latent_dim < 2:
            raise UsageError(f"model.latent_dim is {latent_dim}: give 2 or more, which the coupling layers need.")
        self.encoder = Encoder(self.image_shape, num_classes, latent_dim)
        self.decoder = DNNNetwork(latent_dim + num_classes, self.image_shape)
        self.prior = FlowPrior(latent_dim, num_classes, flow_steps)
        self.log_scale = nn.Parameter(torch.full(self.image_shape, math.log(0.2)))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.hparams.latent_dim,)

    @property
    def noise_distribution(self) -> Distribution:
        return "normal"

    @property
    def sampler(self) -> nn.Module:
        return nn.ModuleList((self.prior, self.decoder))

    def decode(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Returns the location of each pixel's distribution, (N, C, H, W) in [-0.5, 1.5]: black and white lie
        inside."""
        return 2 * self.decoder(with_label(latent, labels, self.num_classes)).float() - 0.5

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.decode(self.prior.sample(noise, labels), labels).clamp(0, 1)

    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        """Decodes the posterior means of images (N, C, H, W) in [0, 1]."""
        mean, _ = self.encoder(images, labels)
        return self.decode(mean, labels).clamp(0, 1)

    def elbo(self, images: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One-sample estimates of the ELBO's parts, log-likelihood and KL: means over images, in nats per image.

        Args:
            images: (N, C, H, W), multiples of 1/255 in [0, 1].
            labels: (N,).
            noise: (N, latent_dim), standard normal, for the reparametrised sample of each posterior.
        """
        mean, log_std = self.encoder(images, labels)
        latent = mean + log_std.exp() * noise
        log_posterior = normal_log_prob(noise) - log_std.sum(1)
        kl = log_posterior - self.prior.log_prob(latent, labels)
        log_likelihood = discretized_logistic_log_prob(images, self.decode(latent, labels), self.log_scale)
        return log_likelihood.mean(), kl.mean()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        noise, _ = self.batch_normal(len(labels), batch_idx, self.noise_shape)
        log_likelihood, kl = self.elbo(images, labels, noise)
        loss = kl - log_likelihood
        self.log_train_loss(loss, reconstruction=-log_likelihood, kl=kl)
        return loss

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        noise, _ = self.batch_normal(len(labels), batch_idx, self.noise_shape)
        log_likelihood, kl = self.elbo(images, labels, noise)
        self.measure_variance(self(labels, noise), images, labels)
        return {"loss": kl - log_likelihood, "reconstruction": -log_likelihood, "kl": kl}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam([fused_group(self.parameters(), lr=self.hparams.lr)])
        return with_schedule(optimizer, self, self.hparams.schedule, self.hparams.warmup_steps)
