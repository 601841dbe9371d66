"""``condgen demo``: serves the page until it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

from condgen.demo.shown import find_runs
from condgen.errors import UsageError, check_number

CONNECTIONS = 100  # at once


def demo(runs: list[str], port: int = 7860, host: str = "127.0.0.1") -> None:
    """Shows what runs draw on a page in the browser, side by side, until Ctrl-C.

    Args:
        runs: run directories or checkpoint files; all runs under lightning_logs that have a checkpoint if not given.
        port: of the page.
        host: the address at which it is served; as it is, only this machine reaches it, and 0.0.0.0 lets others in.
    """
    check_number("port", port, at_least=1, at_most=65_535)
    try:
        listener = socket.create_server((host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host has this form
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"The page cannot be at {host}:{port} ({reason}): give another --port or --host.") from error
    with listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each part of an answer waits for 40 ms
        shown = find_runs(runs, Path())
        # Gradio reads these when it is imported: nothing is reported to anybody.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False")
        try:
            import uvicorn

            from condgen.demo.page import application
        except ModuleNotFoundError as error:
            if error.name not in ("gradio", "uvicorn"):
                raise
            raise UsageError("The page needs gradio: pip install 'gradio>=6.20'.") from error
        config = uvicorn.Config(application(shown, host), log_level="error", limit_concurrency=CONNECTIONS, ws="none")
        server = threading.Thread(target=uvicorn.Server(config).run, args=[[listener]], daemon=True)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _exit)
        server.start()
        print(f"The page of {len(shown):,} runs: http://{host}:{port} (Ctrl-C ends it)", flush=True)
        server.join()


def _exit(signum: int, frame: object) -> None:
    """Exits without the interpreter's clean-up, which aborts if another thread is computing with torch."""
    os._exit(128 + signum)
