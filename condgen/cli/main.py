"""The ``condgen`` command: what needs no torch is answered here, the rest by :mod:`condgen.cli.lightning_cli`."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading

import condgen

HELP = """\
condgen draws images for labels: train a generator, look at its samples, go on from where it stopped.

  condgen fit --config configs/base.yaml        train; leaves lightning_logs/version_N
  condgen predict                               draw ten samples of each label with the newest run
  condgen fit --config configs/base.yaml --ckpt_path last
                                                go on with the newest run
  condgen validate                              the newest run's losses on the test images
  condgen test                                  its scores: how good, how varied, how new
  condgen score PATH                            those of samples in files, made by any program
  condgen compare RUN RUN ...                   those of several runs, as a table and a picture
  condgen plot RUN RUN ...                      the curves of one run or several as a picture
  condgen demo                                  a page in the browser to play with what runs draw
  condgen export --format onnx                  the newest run's generator for other programs: onnx, pt2, safetensors
  condgen judge --data KMNIST                   train what scores need for another data set

Options are those of the config; a flag beats the file:

  --model DNN                --model.latent_dim 16      the family and its settings
  --data FashionMNIST        --data.batch_size 128      the data set and its settings
  --trainer.max_epochs 20    --trainer.devices 2        Lightning's Trainer
  --ckpt_path last|best|FILE|RUN_DIRECTORY              a checkpoint: its model and data settings hold
  --seed_everything 7                                   another seed
  --import my_module                                    classes of your own, in any command

  condgen VERB --help           every option of a verb
  condgen fit --model.help DNN, --data.help MNIST       those of a family or a data set
  condgen fit ... --print_config                        the settings that would be used, as a config file
  condgen --print_completion shtab-bash|shtab-zsh|shtab-fish  a completion script for the shell
  condgen --version
"""


def main(argv: list[str] | None = None) -> int:
    """Runs a command line (``sys.argv[1:]`` if not given) and returns its exit code."""
    _prepare_streams()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `condgen compare RUN RUN | head`
        _discard_output()
        return 128 + signal.SIGPIPE
    except MemoryError:
        print("condgen: There is not enough memory to start.", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is not None:
            raise
        _discard_output()  # standard output is on a full disk
        print(f"condgen: the output cannot be written ({error.strerror}).", file=sys.stderr)
        return 1
    return code


def _prepare_streams() -> None:
    """Makes printing safe if a stream is closed (as for a daemon) or its encoding lacks a character, such as ±."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)  # else the next file opened would become the output
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"condgen {condgen.__version__}")
        return 0
    before = signal.signal(signal.SIGTERM, _end) if threading.current_thread() is threading.main_thread() else None
    try:
        if sys.stderr.isatty():
            print("Loading PyTorch ...", end="\r", file=sys.stderr, flush=True)  # the next line overwrites it
        from condgen.cli.lightning_cli import run

        return run(arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _end(signum: int, frame: object) -> None:
    """Ends with what a shell calls the exit code of a signal; a training that has begun saves before."""
    raise SystemExit(128 + signum)
