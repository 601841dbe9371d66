"""Entry point for the ``condgen`` command. Help and version are printed without importing torch."""

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
        argv: The arguments that come after ``condgen``. Defaults to ``sys.argv[1:]``.
    """
    _prepare_streams()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # e.g. `condgen compare RUN RUN | head`
        _discard_output()
        return 141  # the usual exit code for SIGPIPE, which doesn't exist on Windows
    except MemoryError:
        print("condgen: There is not enough memory to start.", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is not None:
            raise
        _discard_output()  # stdout can't be written, e.g. because the disk is full
        print(f"condgen: the output cannot be written ({error.strerror}).", file=sys.stderr)
        return 1
    return code


def _prepare_streams() -> None:
    """Makes sure that we can always print to stdout and stderr.

    They may be closed (e.g. in a daemon), or their encoding might not support a character like ±.
    """
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)  # otherwise, the next file we open gets 1 or 2
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
            print("Loading PyTorch ...", end="\r", file=sys.stderr, flush=True)  # gets overwritten by the next line
        from condgen.cli.run import run

        return run(arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _end(signum: int, frame: object) -> None:
    """Exits with the exit code that shells use for a signal.

    This is only used outside of training, where a different handler first saves a checkpoint.
    """
    raise SystemExit(128 + signum)
