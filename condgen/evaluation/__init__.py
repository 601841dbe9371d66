"""Scores of generated images."""

from condgen.evaluation.variance import VarianceRatio

__all__ = ["VarianceRatio"]
