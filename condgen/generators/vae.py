"""VAE: a decoder p(x | z, y) and an encoder q(z | x, y).

The latent of the DNN contains no information about the real image in the loss, so the network learns to ignore the
latent. In a VAE, an encoder gets the real image and returns a normal distribution of latents for it. So a latent
encodes one specific 3, and the decoder, which is the network of the article, does not have to generate an average. To
generate images without the encoder, latents are sampled from the prior p(z | y). Encoder, decoder and prior are trained
with the same objective, the evidence lower bound (ELBO) of the log-likelihood of the images (Kingma and Welling 2013,
"Auto-Encoding Variational Bayes", arXiv:1312.6114), in nats per image:

    ELBO = E[log p(x | z, y)]  -  E[log q(z | x, y) - log p(z | y)]
           reconstruction         KL

There are two differences from a textbook VAE. The objective is still a valid lower bound.

- The likelihood is a logistic distribution that is discretized to 256 levels. The first and the last level include the
  tails (Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517). Four fifths of the pixels of MNIST are exactly black,
  and the others are gray. A Bernoulli distribution does not model gray levels, and a normal distribution has no
  probability mass at exactly black. The scale of each pixel's distribution is learned. It determines the weight of the
  reconstruction relative to the KL, so a factor β is not needed.
- The aggregate posterior is not Gaussian. Samples from N(0, I) are often in regions in which the decoder was not
  trained. Therefore the prior is a normalizing flow that is conditioned on the label (Dinh et al. 2017,
  arXiv:1605.08803), and it is trained with the same objective.
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
    """Encoder that maps an image and its label to the posterior of the latent.

    The layers of the article's network are used in reverse order.

    Args:
        image_shape: Shape (C, H, W) of the images. H and W must be multiples of 4.
        num_classes: Number of classes. Labels are 0 … ``num_classes`` - 1.
        latent_dim: Size of the latent.
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
        """Computes the posterior of images (N, C, H, W) in [0, 1] with labels (N,).

        Returns its mean and its log standard deviation, each with shape (N, latent_dim).
        """
        mean, log_std = self.fc(with_label(self.conv(images), labels, self.num_classes)).chunk(2, dim=1)
        return mean.float(), log_std.float().clamp(-7, 2)


def discretized_logistic_log_prob(images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Computes the log-likelihood of images under logistic distributions that are discretized to 256 levels.

    Args:
        images: Images with shape (N, C, H, W). Pixels are multiples of 1/255 in [0, 1].
        location: Location of the distribution of each pixel, with shape (N, C, H, W).
        log_scale: Log scale of each pixel's distribution, with shape (C, H, W).

    Returns:
        The log-likelihood in nats per image, with shape (N,). It is at most 0.
    """
    inverse_scale = torch.exp(-log_scale)
    upper = (images - location + 1 / 510) * inverse_scale  # ends of the interval of the pixel's level
    lower = (images - location - 1 / 510) * inverse_scale
    # log(sigmoid(upper) - sigmoid(lower)) as a sum, because float32 would often round the difference to 0
    is_black, is_white = images < 1 / 510, images > 1 - 1 / 510
    log_cdf = torch.where(is_white, 0.0, F.logsigmoid(upper))
    log_survival = torch.where(is_black, 0.0, F.logsigmoid(-lower))
    log_width = torch.where(is_black | is_white, 0.0, torch.log(-torch.expm1(-inverse_scale / 255)))
    return (log_cdf + log_survival + log_width).flatten(1).sum(1)


class VAE(ConditionalGenerator):
    """Conditional VAE with the network of the article as its decoder.

    See the module docstring for the method. ``generate`` returns the location of the distribution of each
    pixel, clipped to [0, 1]. It does not sample from this distribution.

    Args:
        latent_dim: Size of the latent, at least 2.
        num_classes: Number of classes. The command line takes it from the data set.
        image_shape: Shape (C, H, W) of the images. The command line takes it from the data set.
        flow_steps: Number of coupling layers of the prior. With 0, the prior is a standard normal distribution, as in a
            textbook VAE.
        lr: Learning rate of Adam.
        schedule: Learning-rate schedule after the warm-up: constant, or linear or cosine decay to 0.
        warmup_steps: Number of steps of the linear learning-rate warm-up.
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
            raise UsageError(
                f"model.latent_dim is {latent_dim}. Use 2 or more, because the coupling layers need two dimensions."
            )
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
        """Decodes latents (N, latent_dim) to the location of each pixel's distribution.

        The location has shape (N, C, H, W) and is in [-0.5, 1.5]. Black (0) and white (1) are inside this interval, so
        that the Sigmoid can reach them.
        """
        return 2 * self.decoder(with_label(latent, labels, self.num_classes)).float() - 0.5

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.decode(self.prior.sample(noise, labels), labels).clamp(0, 1)

    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        """Reconstructs images (N, C, H, W) in [0, 1] by decoding the means of their posteriors."""
        mean, _ = self.encoder(images, labels)
        return self.decode(mean, labels).clamp(0, 1)

    def elbo(self, images: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates the two terms of the ELBO with one sample of the latent for each image.

        Returns the log-likelihood and the KL, each as the mean over all images, in nats per image.

        Args:
            images: Images with shape (N, C, H, W). Pixels are multiples of 1/255 in [0, 1].
            labels: Labels, with shape (N,).
            noise: Standard normal noise with shape (N, latent_dim). The reparametrization uses it to sample each
                posterior.
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
