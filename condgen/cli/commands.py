"""The table of commands and the text of ``condgen --help``. This module should not import torch."""

import importlib
from collections.abc import Callable
from typing import Any

# name: (module:function under condgen, example arguments, description)
LIGHTNING_COMMANDS = {  # based on LightningCLI, the function gets the CondgenCLI object
    "fit": ("cli.fit:fit", "--config configs/base.yaml", "train a generator and write lightning_logs/version_N"),
    "predict": ("cli.from_checkpoint:predict", "", "generate ten samples of each label with the newest run"),
    "validate": ("cli.from_checkpoint:validate", "", "compute the newest run's losses on the test images"),
    "test": ("cli.from_checkpoint:test", "", "compute the newest run's scores and losses"),
}
FUNCTION_COMMANDS = {  # plain functions whose parameters become the options
    "score": ("evaluation.report:score", "PATH", "compute the scores of sample files from any program"),
    "compare": ("evaluation.compare:compare", "RUN RUN ...", "compare the scores of several runs"),
    "invert": ("evaluation.inversion:invert", "test", "find the noise of images and generate them with other labels"),
    "evaluator": ("evaluation.evaluator:train_evaluator", "--data KMNIST", "train the classifiers that scores need"),
    "plot": ("evaluation.plot:plot", "RUN RUN ...", "plot the curves of one or more runs"),
    "demo": ("demo.serve:demo", "", "serve a web page to try out the generators of runs"),
    "export": ("export.command:export", "--format onnx", "export the newest run's generator to a file"),
}
COMMANDS = LIGHTNING_COMMANDS | FUNCTION_COMMANDS

HELP = """\
condgen trains class-conditional image generators and generates images for labels.

{commands}

Resume the newest run with condgen fit --ckpt_path last. Every setting of a config file is also an option on the
command line, and the option overrides the file:

  --model DNN                --model.latent_dim 16      the model family and its hyperparameters
  --data FashionMNIST        --data.batch_size 128      the dataset and its settings
  --trainer.max_epochs 20    --trainer.devices 2        Lightning's Trainer
  --ckpt_path last|best|mnist|FILE|RUN_DIRECTORY        a checkpoint, with its model and data settings
  --seed_everything 7                                   the seed
  --import my_module                                    a module with your own classes, for any command

  condgen COMMAND --help        all options of a command
  condgen fit --model.help DNN, --data.help MNIST       the options of a model family or a dataset
  condgen fit ... --print_config                        print the settings as a config file
  condgen --print_completion shtab-bash|shtab-zsh|shtab-fish  print a completion script for the shell
  condgen --version
"""


def help_text() -> str:
    """Returns the text to print for ``condgen --help``."""
    rows = (
        f"  {f'condgen {name} {arguments}':<41} {description}" for name, (_, arguments, description) in COMMANDS.items()
    )
    return HELP.format(commands="\n".join(rows))


def load(command: str) -> Callable[..., Any]:
    """Imports the function behind a command and returns it."""
    module, _, function = COMMANDS[command][0].partition(":")
    return getattr(importlib.import_module(f"condgen.{module}"), function)
