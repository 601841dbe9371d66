"""Readable errors if a checkpoint does not fit a training."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.callbacks import Callback

from condgen.errors import UsageError


@contextmanager
def restoring(path: Any) -> Iterator[None]:
    """Re-raises any error inside as "checkpoint ``path`` does not fit", or as one of the callback that raised it."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        callback = next((o for f in frames if isinstance(o := f.f_locals.get("self"), Callback)), None)
        if callback is not None:
            name = type(callback).__name__
            raise UsageError(
                f"The callback {name} cannot restore its state from {path} ({what}): leave it out."
            ) from error
        raise UsageError(f"{path} does not fit this training ({what}): take another checkpoint.") from error
