"""The ``condgen`` command. Help and version are answered here, without importing torch."""

import io
import os
import signal
import sys
import threading

import condgen
from condgen.cli.commands import help_text


def main(argv: list[str] | None = None) -> int:
    """Runs a command line (``sys.argv[1:]`` if not given) and returns its exit code."""
    _prepare_streams()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as in `condgen compare RUN RUN | head`
        _discard_output()
        return 141  # as shells report SIGPIPE, which Windows lacks
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
    """Exits with the code that shells use for a signal. A running training saves first: it has its own handler."""
    raise SystemExit(128 + signum)
