"""VAE: trains an encoder q(z | x, y) along with a decoder p(x | z, y).

The DNN learns to ignore its latent because the latent doesn't contain any information about the real image in the loss.
A VAE adds an encoder, which takes the real image and returns a normal distribution over latents. Now a latent stands
for one particular 3, and the decoder (the network from the article) no longer has to generate averages. To generate
images without the encoder, we sample latents from the prior p(z | y). The encoder, decoder and prior all share the same
objective, the evidence lower bound (ELBO) on the log-likelihood of the images (Kingma and Welling 2013, "Auto-Encoding
Variational Bayes", arXiv:1312.6114), in nats per image:

    ELBO = E[log p(x | z, y)]  -  E[log q(z | x, y) - log p(z | y)]
           reconstruction         KL

This differs from a textbook VAE in two ways, but the objective is still a valid lower bound:

- The likelihood is a logistic distribution discretized to 256 levels. The first and last levels include the tails
  (Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517). In MNIST, four out of five pixels are exactly black and the
  rest are gray. A Bernoulli distribution can't model gray levels, and a normal distribution doesn't put any probability
  mass on exact black. We also learn the scale for each pixel. It controls how the reconstruction is weighted against
  the KL, so there's no need for a β factor.
- The prior is a label-conditional normalizing flow (Dinh et al. 2017, arXiv:1605.08803), trained with the same
  objective. This is because the aggregate posterior isn't Gaussian, so samples from N(0, I) would often end up in
  regions the decoder wasn't trained on.
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
from condgen.noise import LIKELIHOOD, Distribution, normal, uniform


class Encoder(nn.Module):
    """Encoder for the latent posterior, with the layers of the article's network in reverse order.

    Args:
        image_shape: Image shape (C, H, W). H and W must be multiples of 4.
        num_classes: The number of classes.
        latent_dim: Latent size.
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
        """Encodes images (N, C, H, W) in [0, 1] with labels (N,).

        Returns the mean and log standard deviation of the posterior, both of shape (N, latent_dim).
        """
        mean, log_std = self.fc(with_label(self.conv(images), labels, self.num_classes)).chunk(2, dim=1)
        return mean.float(), log_std.float().clamp(-7, 2)


def discretized_logistic_log_prob(images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Computes the log-likelihood of images under logistic distributions discretized to 256 levels.

    Returns a tensor of shape (N,) in nats per image. The values are never above 0.

    Args:
        images: Images of shape (N, C, H, W). Pixel values must be multiples of 1/255 in [0, 1].
        location: Location for each pixel, of shape (N, C, H, W).
        log_scale: Log scale for each pixel, of shape (C, H, W).
    """
    inverse_scale = torch.exp(-log_scale)
    upper = (images - location + 1 / 510) * inverse_scale  # upper and lower end of the pixel's level
    lower = (images - location - 1 / 510) * inverse_scale
    # log(sigmoid(upper) - sigmoid(lower)) as a sum, because float32 would often round the difference to 0
    is_black, is_white = images < 1 / 510, images > 1 - 1 / 510
    log_cdf = torch.where(is_white, 0.0, F.logsigmoid(upper))
    log_survival = torch.where(is_black, 0.0, F.logsigmoid(-lower))
    log_width = torch.where(is_black | is_white, 0.0, torch.log(-torch.expm1(-inverse_scale / 255)))
    return (log_cdf + log_survival + log_width).flatten(1).sum(1)


class VAE(ConditionalGenerator):
    """Conditional VAE that uses the network from the article as its decoder.

    See the module docstring for how it works. Note that ``generate`` does not sample the pixels. It returns the
    location of each pixel's distribution, clipped to [0, 1].

    Args:
        latent_dim: Latent size. Must be at least 2.
        num_classes: The number of classes. Inferred from the dataset when using the command line.
        image_shape: Image shape (C, H, W). Inferred from the dataset when using the command line.
        flow_steps: The number of coupling layers in the prior. Use 0 for a standard normal prior, as in a textbook VAE.
        lr: Learning rate for Adam.
        schedule: Learning-rate schedule after the warm-up. Either constant, or linear or cosine decay to 0.
        warmup_steps: The number of steps for the linear learning-rate warm-up.
    """

    likelihood_steps = 16

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
        """Decodes latents (N, latent_dim) to pixel locations of shape (N, C, H, W) in [-0.5, 1.5].

        The range is wider than [0, 1] so that the Sigmoid can actually reach black (0) and white (1).
        """
        return 2 * self.decoder(with_label(latent, labels, self.num_classes)).float() - 0.5

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.decode(self.prior.sample(noise, labels), labels).clamp(0, 1)

    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        """Reconstructs images (N, C, H, W) in [0, 1] by decoding their posterior means."""
        mean, _ = self.encoder(images, labels)
        return self.decode(mean, labels).clamp(0, 1)

    @torch.no_grad()
    def invert(self, images: Tensor, labels: Tensor, steps: int | None = None) -> Tensor:
        """Finds the noise of the posterior mean, using the inverse of the prior's flow. Needs no ``steps``."""
        self.check_images_and_labels(images, labels)
        mean, _ = self.encoder(images, labels)
        noise, _ = self.prior.to_noise(mean, labels)
        return noise

    def elbo(self, images: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates both ELBO terms using one latent sample per image.

        Returns the log-likelihood and the KL for each image in nats, both of shape (N,).

        Args:
            images: Images of shape (N, C, H, W). Pixel values must be multiples of 1/255 in [0, 1].
            labels: Labels of shape (N,).
            noise: Standard normal noise of shape (N, latent_dim), used for the reparametrization.
        """
        mean, log_std = self.encoder(images, labels)
        latent = mean + log_std.exp() * noise
        log_posterior = normal_log_prob(noise) - log_std.sum(1)
        kl = log_posterior - self.prior.log_prob(latent, labels)
        log_likelihood = discretized_logistic_log_prob(images, self.decode(latent, labels), self.log_scale)
        return log_likelihood, kl

    def log_likelihood(self, images: Tensor, labels: Tensor, indices: Sequence[int], steps: int) -> Tensor:
        """Computes the importance-weighted lower bound on log p(image | label) in nats.

        With more latent samples, the bound gets tighter. With a single one, it is the ELBO (Burda et al. 2015,
        "Importance Weighted Autoencoders", arXiv:1509.00519).

        Args:
            images: Images of shape (N, C, H, W). Pixel values must be multiples of 1/255 in [0, 1].
            labels: Labels of shape (N,).
            indices: The index of each image, which determines the noise of its latents.
            steps: The number of latent samples per image.
        """
        noise = normal(uniform(0, indices, (steps, *self.noise_shape), stream=LIKELIHOOD)).to(images)
        terms = [self.elbo(images, labels, noise[:, k]) for k in range(steps)]
        log_weights = torch.stack([log_likelihood - kl for log_likelihood, kl in terms])
        return log_weights.logsumexp(0) - math.log(steps)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        noise, _ = self.batch_normal(len(labels), batch_idx, self.noise_shape)
        log_likelihood, kl = (term.mean() for term in self.elbo(images, labels, noise))
        loss = kl - log_likelihood
        self.log_train_loss(loss, reconstruction=-log_likelihood, kl=kl)
        return loss

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        noise, _ = self.batch_normal(len(labels), batch_idx, self.noise_shape)
        log_likelihood, kl = (term.mean() for term in self.elbo(images, labels, noise))
        self.measure_variance(self(labels, noise), images, labels)
        return {"loss": kl - log_likelihood, "reconstruction": -log_likelihood, "kl": kl}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam([fused_group(self.parameters(), lr=self.hparams.lr)])
        return with_schedule(optimizer, self, self.hparams.schedule, self.hparams.warmup_steps)
