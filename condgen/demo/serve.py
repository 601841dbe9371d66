"""``condgen demo``: serves the page until it is stopped."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from condgen.demo.shown import find_runs
from condgen.errors import UsageError, check_number


def demo(runs: list[str], port: int = 7860, host: str = "127.0.0.1") -> None:
    """Shows what runs draw on a page in the browser, side by side, until Ctrl-C.

    Args:
        runs: run directories or checkpoint files; all runs under lightning_logs that have a checkpoint if not given.
        port: of the page.
        host: the address at which it is served; as it is, only this machine reaches it, and 0.0.0.0 lets others in.
    """
    check_number("port", port, at_least=1, at_most=65_535)
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise UsageError(
            f"The page cannot be at {host}:{port} ({error.strerror}): give another --port or --host."
        ) from error
    shown = find_runs(runs, Path())
    # Gradio reads these when it is imported: nothing is told to anybody, and it reaches itself past any proxy.
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False")
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "localhost", host)))
    try:
        from condgen.demo.page import launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UsageError("The page needs gradio: pip install 'condgen[demo]'.") from error
    page = launch(shown, host, port)
    try:
        print(f"The page of {len(shown):,} runs: http://{host}:{port} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    finally:
        page.close(verbose=False)
