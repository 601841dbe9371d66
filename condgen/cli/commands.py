"""The table of condgen's commands, from which ``condgen --help`` is made. It is read before torch is imported."""

import importlib
from collections.abc import Callable
from typing import Any

# name: (module:function under condgen, example arguments, description)
LIGHTNING_COMMANDS = {  # LightningCLI's: the function takes the CondgenCLI
    "fit": ("cli.fit:fit", "--config configs/base.yaml", "train; leaves lightning_logs/version_N"),
    "predict": ("cli.from_checkpoint:predict", "", "generate ten samples of each label with the newest run"),
    "validate": ("cli.from_checkpoint:validate", "", "the newest run's losses on the test images"),
    "test": ("cli.from_checkpoint:test", "", "its scores: quality, diversity and novelty of its samples"),
}
FUNCTION_COMMANDS = {  # the function's parameters are the command's options
    "score": ("evaluation.report:score", "PATH", "the scores of samples in files, made by any program"),
    "compare": ("evaluation.compare:compare", "RUN RUN ...", "the scores of several runs, as a table and a picture"),
    "evaluator": ("evaluation.evaluator:train_evaluator", "--data KMNIST", "train the classifiers that scores need"),
    "plot": ("evaluation.plot:plot", "RUN RUN ...", "the curves of one run or several as a picture"),
    "demo": ("demo.serve:demo", "", "a page in the browser to play with the generators of runs"),
    "export": ("export.command:export", "--format onnx", "the newest run's generator as onnx, pt2 or safetensors"),
}
COMMANDS = LIGHTNING_COMMANDS | FUNCTION_COMMANDS

HELP = """\
condgen generates images for labels: train a generator, look at its samples, resume its training.

{commands}

Resume the newest run with condgen fit --ckpt_path last. Options are those of the config; a flag overrides the file:

  --model DNN                --model.latent_dim 16      the family and its settings
  --data FashionMNIST        --data.batch_size 128      the data set and its settings
  --trainer.max_epochs 20    --trainer.devices 2        Lightning's Trainer
  --ckpt_path last|best|FILE|RUN_DIRECTORY              a checkpoint, with its model and data settings
  --seed_everything 7                                   another seed
  --import my_module                                    classes of your own, in any command

  condgen COMMAND --help        every option of a command
  condgen fit --model.help DNN, --data.help MNIST       the options of a family or a data set
  condgen fit ... --print_config                        the settings that would be used, as a config file
  condgen --print_completion shtab-bash|shtab-zsh|shtab-fish  a completion script for the shell
  condgen --version
"""


def help_text() -> str:
    """Returns the text of ``condgen --help``."""
    rows = (
        f"  {f'condgen {name} {arguments}':<41} {description}" for name, (_, arguments, description) in COMMANDS.items()
    )
    return HELP.format(commands="\n".join(rows))


def load(command: str) -> Callable[..., Any]:
    """Imports the function of a command."""
    module, _, function = COMMANDS[command][0].partition(":")
    return getattr(importlib.import_module(f"condgen.{module}"), function)
