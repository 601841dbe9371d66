"""Scores beside training, and the samples that ``condgen test`` scores."""

from __future__ import annotations

import math

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.errors import UsageError, check_number
from condgen.evaluation.evaluator import Evaluator, find_evaluator
from condgen.evaluation.scores import first_of_each_label, rows_of, samples_per_label
from condgen.generators import ConditionalGenerator
from condgen.metrics.classifier import accuracy, in_parts
from condgen.metrics.diversity import Diversity
from condgen.metrics.frechet import FrechetDistance
from condgen.metrics.prdc import PrecisionRecallDensityCoverage
from condgen.metrics.set_metric import LabelledFeatures
from condgen.sampling.generate import sample_all_ranks

SAMPLES, REAL = 2_000, 10_000


@torch.no_grad()
def broadcast_buffers(trainer: Trainer, module: LightningModule) -> None:
    """Gives all processes the batch-norm statistics of the first one. DDP does so only in its next forward pass."""
    if trainer.world_size > 1:
        first = trainer.strategy.broadcast([buffer.cpu() for buffer in module.buffers()])
        for buffer, value in zip(module.buffers(), first, strict=True):
            buffer.copy_(value)


class TrainingScores(Callback):
    """Logs ``score_accuracy``, ``score_frechet_distance``, ``score_coverage`` and ``score_diversity`` while training.

    Of 2,000 samples, from the same noise every time, against 10,000 *training* images: ``checkpoint.monitor`` can be
    any of them, and the test images stay unseen. They are near what ``condgen test`` gives, but not the same: distances
    grow where there are fewer samples, and coverage falls. Nothing of the training changes.

    Args:
        every_n_epochs: take them in the validation of every so many epochs; null for never.
    """

    def __init__(self, every_n_epochs: int | None = 1) -> None:
        if every_n_epochs is not None:
            check_number("training_scores.every_n_epochs", every_n_epochs, at_least=1)
        self.every_n_epochs = every_n_epochs
        self.judge: Evaluator | None = None
        self._real: tuple[LabelledFeatures, LabelledFeatures] | None = None  # embeddings, pixels

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.every_n_epochs is None:
            return
        try:
            self.judge = find_evaluator(trainer.datamodule)  # type: ignore[attr-defined]
        except UsageError as error:
            rank_zero_warn(f"No scores while training. {error}")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At the start, where averaged weights are swapped in and not yet out again."""
        if self.judge is None or self.every_n_epochs is None or trainer.state.fn != "fit":
            return
        names = ("accuracy", "frechet_distance", "coverage", "diversity")
        if trainer.sanity_checking:  # which shows what will be logged
            scores = [math.nan] * len(names)
        elif (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        else:
            assert isinstance(pl_module, ConditionalGenerator)
            data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
            broadcast_buffers(trainer, pl_module)
            samples, _ = sample_all_ranks(trainer, pl_module, -(-SAMPLES // data.num_classes))
            scores = self._scores(samples, data, pl_module.device) if trainer.is_global_zero else []
            scores = trainer.strategy.broadcast(scores)
        for name, value in zip(names, scores, strict=True):
            pl_module.log(f"score_{name}", value, on_epoch=True, sync_dist=True, batch_size=1)

    def _scores(self, samples: Images, data: ImageDataModule, device: torch.device) -> list[float]:
        assert self.judge is not None
        judge = self.judge.to(device)
        if self._real is None:
            training, each = data.train_images, REAL // data.num_classes
            rows = first_of_each_label(training, dict.fromkeys(training.labels.unique().tolist(), each))
            real = rows_of(training, rows)
            embeddings = in_parts(judge.embed, real.images, device)
            self._real = LabelledFeatures(embeddings, real.labels), LabelledFeatures(real.images, real.labels)
        embeddings = in_parts(judge.embed, samples.images, device)
        distance, neighbours, diversity = (
            kind(sync_on_compute=False) for kind in (FrechetDistance, PrecisionRecallDensityCoverage, Diversity)
        )
        for metric, features, of_real in (
            (distance, embeddings, self._real[0]),
            (neighbours, embeddings, self._real[0]),
            (diversity, samples.images, self._real[1]),
        ):
            metric.update(features, samples.labels, real=False)
            metric.update(*of_real, real=True)
        _, _, _, coverage = neighbours.compute().mean(0).tolist()
        return [
            accuracy(judge.classifier, samples.images, samples.labels),
            float(distance.compute()),
            coverage,
            float(diversity.compute().mean()),
        ]


class ScoredSamples(Callback):
    """Draws what ``condgen test`` scores, by all processes, after the losses are measured.

    Args:
        samples_per_label: samples of each label; a thousand, or as many as the test set has, if not given.
    """

    def __init__(self, samples_per_label: int | None = None) -> None:
        if samples_per_label is not None:
            check_number("scores.samples_per_label", samples_per_label, at_least=2, at_most=1_000)
        self.samples_per_label = samples_per_label
        self.samples: Images | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.judge = find_evaluator(trainer.datamodule)  # type: ignore[attr-defined]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ConditionalGenerator)
        each = self.samples_per_label or samples_per_label(trainer.datamodule)  # type: ignore[attr-defined]
        self.samples, self.seconds = sample_all_ranks(trainer, pl_module, each)
