"""The commands that use a trained checkpoint: ``condgen validate``, ``test`` and ``predict``."""

from condgen.checkpoints.find import output_directory
from condgen.cli.lightning_cli import CondgenCLI
from condgen.cli.output import say
from condgen.errors import UsageError
from condgen.evaluation.report import about_checkpoint, report
from condgen.sampling.prediction_files import PredictionFiles
from condgen.training.scores import ScoredSamples


def validate(cli: CondgenCLI) -> None:
    """Computes the losses on the test images and prints them."""
    cli.trainer.run_directory = cli.run_directory()
    cli.trainer.validate(cli.model, **cli.trainer_arguments(), verbose=cli.config.verbose)


def test(cli: CondgenCLI) -> None:
    """Computes the losses on the test images as well as the scores of generated samples.

    The results are printed, and the scores are also saved to the run directory.
    """
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    run = trainer.run_directory = cli.run_directory()
    trainer.test(model, **cli.trainer_arguments(), verbose=cli.config.verbose)
    scored = next(callback for callback in trainer.callbacks if isinstance(callback, ScoredSamples))
    if trainer.is_global_zero and scored.samples is not None:
        assert cli.checkpoint is not None
        assert cli.checkpoint_path is not None
        origin = about_checkpoint(cli.checkpoint, cli.checkpoint_path)
        progress = trainer.progress_bar_callback is not None
        report(model, data, scored.evaluator, scored.samples, scored.seconds, origin, run, scored.likelihoods, progress)


def predict(cli: CondgenCLI) -> None:
    """Generates samples and saves them to files.

    Raises:
        UsageError: If the number of batches is limited, or if no output folder is given for a checkpoint that is not in
            a run directory.
    """
    assert cli.checkpoint_path is not None
    cli.trainer.run_directory = output_directory(cli.checkpoint_path)
    files = next(callback for callback in cli.trainer.callbacks if isinstance(callback, PredictionFiles))
    if cli.trainer.limit_predict_batches != 1.0 or cli.trainer.fast_dev_run:
        raise UsageError("predict always generates all samples: leave out limit_predict_batches and fast_dev_run.")
    if cli.trainer.run_directory is None and files.dirpath is None:
        raise UsageError(f"{cli.checkpoint_path} is not in a run directory: set --predictions.dirpath to a folder.")
    cli.trainer.predict(cli.model, **cli.trainer_arguments(), return_predictions=False)
    say(f"Samples: {files.folder} (grid.png shows them, manifest.csv lists them)")
