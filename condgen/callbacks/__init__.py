"""What happens beside training: grids, checkpoints, scores, the progress bar; and prediction files."""

from condgen.callbacks.checkpoint import RunCheckpoint, Stopped
from condgen.callbacks.finite import FiniteTraining
from condgen.callbacks.prediction_files import PredictionFiles
from condgen.callbacks.progress import RunProgressBar
from condgen.callbacks.sample_grids import SampleGrids
from condgen.callbacks.scores import ScoredSamples, TrainingScores

__all__ = [
    "FiniteTraining",
    "PredictionFiles",
    "RunCheckpoint",
    "RunProgressBar",
    "SampleGrids",
    "ScoredSamples",
    "Stopped",
    "TrainingScores",
]
