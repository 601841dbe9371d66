"""Prints results to stdout and errors to stderr."""

import errno
import os
import signal
import sys
import traceback
from argparse import ArgumentError

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from condgen.errors import CollectiveError, UsageError, printable
from condgen.training.signals import StoppedBySignal

SYSTEM_REFUSES = {  # caused by the user's disk, permissions, limits or paths
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG,
    errno.ENFILE, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip


@rank_zero_only
def say(text: str) -> None:
    """Prints the given text on rank zero only."""
    print(text, flush=True)


def report_error(error: BaseException) -> int:
    """Prints an error on a single line and returns the exit code to use.

    The exit code is 2 if the command line can't be parsed, 128 + N after signal N, and 1 for other errors. If ``error``
    is a ``SystemExit``, we use its own code.

    Raises:
        BaseException: The given error if it turns out to be a bug.
    """
    is_child = os.environ.get("LOCAL_RANK", "0") != "0"  # not the first process on this machine
    if isinstance(error, StoppedBySignal):
        say(f"\nStopped. Checkpoint saved. Resume with: {error.resume_command}")
        # Lightning kills all other processes if a child process exits with an error code
        return 0 if is_child and "TORCHELASTIC_RUN_ID" not in os.environ else 128 + error.signum
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return _fail("interrupted", 128 + signal.SIGINT)
    if isinstance(error, SystemExit) and error.code != 128 + signal.SIGTERM:
        return error.code if isinstance(error.code, int) else 0 if error.code is None else _fail(str(error.code), 2)
    if isinstance(error, SIGTERMException | SystemExit):
        return 128 + signal.SIGTERM if is_child else _fail("terminated", 128 + signal.SIGTERM)
    cause: BaseException | None = error
    while cause and not isinstance(cause, UsageError | ArgumentError | MisconfigurationException):
        cause = cause.__cause__ or cause.__context__  # jsonargparse wraps any exception raised in a constructor
    if isinstance(cause, CollectiveError) and is_child:
        return 1
    if message := str(cause) if cause else _message(error):
        return _fail(message, 2 if isinstance(cause, ArgumentError) else 1)
    raise error


def raised_in(error: BaseException) -> str:
    """Returns the name of the module in which an exception was raised."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals["__name__"]) if frames else ""


def _message(error: BaseException) -> str | None:
    """Returns the message to print for an error, e.g. if we run out of memory, or None if the error is a bug."""
    # torch raises a plain RuntimeError if it runs out of CPU memory, so all we have to go by is the text
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        return f"There is not enough memory ({reason}). Use a smaller --data.batch_size."
    if raised_in(error).startswith(("torch.utils.data.", "multiprocessing.", "torch.multiprocessing.")):
        return f"The data loader's workers failed ({error}). Use fewer --data.num_workers."
    calls = {(frame.f_globals["__name__"], frame.f_code.co_name) for frame, _ in traceback.walk_tb(error.__traceback__)}
    if isinstance(error, ValueError) and ("torch.nn.functional", "batch_norm") in calls:
        return "Batch norm needs at least two images in the batch of each process: increase --data.batch_size."
    if isinstance(error, OSError) and error.errno in SYSTEM_REFUSES:
        return f"{error.filename or 'A file'} cannot be used ({error.strerror})."
    return None


def _fail(message: str, code: int) -> int:
    print(f"condgen: {printable(' '.join(message.split())[:600])}", file=sys.stderr)
    return code
