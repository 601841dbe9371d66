"""Scores of generated images, as metrics that need nothing else of condgen."""

from condgen.evaluation.gan_train import GANTrainAccuracy
from condgen.evaluation.sets import (
    Diversity,
    FrechetDistance,
    KernelDistance,
    LabelFrechetDistance,
    Novelty,
    PrecisionRecallDensityCoverage,
)
from condgen.evaluation.variance import VarianceRatio

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
