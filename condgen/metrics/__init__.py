"""Metrics for comparing generated images with real ones. Each is a torchmetrics class around a pure function."""

from condgen.metrics.diversity import Diversity
from condgen.metrics.frechet import FrechetDistance, LabelFrechetDistance
from condgen.metrics.gan_train import GANTrainAccuracy
from condgen.metrics.kernel import KernelDistance
from condgen.metrics.novelty import Novelty
from condgen.metrics.prdc import PrecisionRecallDensityCoverage
from condgen.metrics.variance_ratio import VarianceRatio

__all__ = [
    "Diversity",
    "FrechetDistance",
    "GANTrainAccuracy",
    "KernelDistance",
    "LabelFrechetDistance",
    "Novelty",
    "PrecisionRecallDensityCoverage",
    "VarianceRatio",
]
