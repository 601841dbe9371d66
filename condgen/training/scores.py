"""Callbacks for evaluating samples, both during training and in ``condgen test``."""

import math

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.errors import UsageError, check_number
from condgen.evaluation.evaluator import Evaluator, find_evaluator, no_evaluator
from condgen.evaluation.likelihood import Likelihoods, measure_likelihoods
from condgen.evaluation.scores import first_of_each_label, rows_of, samples_per_label
from condgen.generators import ConditionalGenerator
from condgen.metrics.classifier import accuracy, in_parts
from condgen.metrics.diversity import Diversity
from condgen.metrics.frechet import FrechetDistance
from condgen.metrics.prdc import PrecisionRecallDensityCoverage
from condgen.metrics.set_metric import LabeledFeatures
from condgen.sampling.generate import sample_all_ranks

SAMPLES, REAL = 2_000, 10_000  # number of generated samples and of training images
NAMES = ("accuracy", "frechet_distance", "coverage", "diversity")


@torch.no_grad()
def broadcast_buffers(trainer: Trainer, module: nn.Module) -> None:
    """Syncs batch norm statistics from rank 0, which DDP would only do in the next forward pass."""
    if trainer.world_size > 1:
        first = trainer.strategy.broadcast([buffer.cpu() for buffer in module.buffers()])
        for buffer, value in zip(module.buffers(), first, strict=True):
            buffer.copy_(value)


class TrainingScores(Callback):
    """Logs ``score_accuracy``, ``score_frechet_distance``, ``score_coverage`` and ``score_diversity`` during training.

    They are computed from 2,000 samples and 10,000 *training* images. Since no test images are involved, it's fine to
    use any of them as ``checkpoint.monitor``. The noise is the same in every epoch. Note that you will see larger
    distances and a lower coverage than with ``condgen test``, which uses more samples. This has no effect on training.

    Args:
        every_n_epochs: How often to compute the scores. Set this to null to disable them.
    """

    def __init__(self, every_n_epochs: int | None = 1) -> None:
        if every_n_epochs is not None:
            check_number("training_scores.every_n_epochs", every_n_epochs, at_least=1)
        self.every_n_epochs = every_n_epochs
        self.evaluator: Evaluator | None = None
        self._real: tuple[LabeledFeatures, LabeledFeatures] | None = None  # embeddings and pixels

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.every_n_epochs is None:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        try:
            self.evaluator = find_evaluator(data)
            problem = no_evaluator(data)
        except UsageError as error:
            problem = str(error)
        if self.evaluator is None:
            rank_zero_warn(f"Scores are not measured during training. {problem}")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes and logs the scores.

        We can't wait until the end of validation, because weight averaging callbacks will have switched back to the
        original weights by then.
        """
        if self.evaluator is None or self.every_n_epochs is None or trainer.state.fn != "fit":
            return
        if trainer.sanity_checking:  # only register the names, so that monitors can be checked before training
            scores = [math.nan] * len(NAMES)
        elif (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        else:
            assert isinstance(pl_module, ConditionalGenerator)
            data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
            broadcast_buffers(trainer, pl_module.sampler)
            samples, _ = sample_all_ranks(trainer, pl_module, -(-SAMPLES // data.num_classes))
            evaluator = self.evaluator.to(pl_module.device)
            scores = self._score(samples, data, evaluator) if trainer.is_global_zero else []
            scores = trainer.strategy.broadcast(scores)
        for name, value in zip(NAMES, scores, strict=True):
            pl_module.log(f"score_{name}", value, on_epoch=True, sync_dist=True, batch_size=1)

    def _score(self, samples: Images, data: ImageDataModule, evaluator: Evaluator) -> list[float]:
        device = next(evaluator.parameters()).device
        if self._real is None:
            training, each = data.train_images, REAL // data.num_classes
            rows = first_of_each_label(training, dict.fromkeys(training.labels.unique().tolist(), each))
            real = rows_of(training, rows)
            embedded = LabeledFeatures(in_parts(evaluator.embed, real.images, device), real.labels)
            self._real = embedded, LabeledFeatures(real.images, real.labels)
        real_embedded, real_pixels = self._real
        embedded = LabeledFeatures(in_parts(evaluator.embed, samples.images, device), samples.labels)
        distance = FrechetDistance().score(embedded, real_embedded)
        _, _, _, coverage = PrecisionRecallDensityCoverage().score(embedded, real_embedded).mean(0).tolist()
        diversity = Diversity().score(LabeledFeatures(samples.images, samples.labels), real_pixels).mean()
        right = accuracy(evaluator.classifier, samples.images, samples.labels)
        return [right, float(distance), coverage, float(diversity)]


class ScoredSamples(Callback):
    """Generates the samples for ``condgen test`` on all processes, after the test losses have been computed.

    Also computes the likelihood of test images for families that have one.

    Args:
        samples_per_label: The number of samples per label. Defaults to 1,000, or fewer if some label doesn't have
            that many test images.
    """

    def __init__(self, samples_per_label: int | None = None) -> None:
        if samples_per_label is not None:
            check_number("scores.samples_per_label", samples_per_label, at_least=2, at_most=1_000)
        self.samples_per_label = samples_per_label
        self.samples: Images | None = None
        self.likelihoods: Likelihoods | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.evaluator = find_evaluator(trainer.datamodule)  # type: ignore[attr-defined]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ConditionalGenerator)
        each = self.samples_per_label or samples_per_label(trainer.datamodule)  # type: ignore[attr-defined]
        self.samples, self.seconds = sample_all_ranks(trainer, pl_module, each)
        self.likelihoods = measure_likelihoods(trainer, pl_module)
