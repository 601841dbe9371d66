"""The ``condgen`` command. It prints the help and the version without importing torch."""

import io
import os
import signal
import sys
import threading

import condgen
from condgen.cli.commands import help_text


def main(argv: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code.

    Args:
        argv: Words of the command line after ``condgen``. The default is ``sys.argv[1:]``.
    """
    _prepare_streams()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reading process closed the pipe, as in `condgen compare RUN RUN | head`
        _discard_output()
        return 141  # the shells' exit code for SIGPIPE, which Windows does not have
    except MemoryError:
        print("condgen: There is not enough memory to start.", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is not None:
            raise
        _discard_output()  # standard output cannot be written, for example because the disk is full
        print(f"condgen: the output cannot be written ({error.strerror}).", file=sys.stderr)
        return 1
    return code


def _prepare_streams() -> None:
    """Prepares stdout and stderr so that ``print`` does not fail.

    A stream may be closed, as it is for a daemon, or its encoding may not contain a character such as ±.
    """
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)  # else the next file opened gets number 1 or 2
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"condgen {condgen.__version__}")
        return 0
    before = signal.signal(signal.SIGTERM, _end) if threading.current_thread() is threading.main_thread() else None
    try:
        if sys.stderr.isatty():
            print("Loading PyTorch ...", end="\r", file=sys.stderr, flush=True)  # the next line overwrites it
        from condgen.cli.run import run

        return run(arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _end(signum: int, frame: object) -> None:
    """Exits with the exit code that shells use for a signal.

    During training, another handler is active, which saves a checkpoint first.
    """
    raise SystemExit(128 + signum)
