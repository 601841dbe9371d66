"""The command ``condgen demo``, which serves the page until it is stopped."""

import os
import signal
import socket
import threading
from pathlib import Path

from condgen.demo.runs import find_runs
from condgen.errors import UsageError, check_number

MAX_CONNECTIONS = 100


def demo(runs: list[str], port: int = 7860, host: str = "127.0.0.1") -> None:
    """Serves a page on which trained generators generate images side by side. Ctrl-C stops it.

    Args:
        runs: Run directories or checkpoint files. By default, all runs under lightning_logs that have a checkpoint.
        port: Port of the page.
        host: Address of the page. The default can only be reached from this machine, 0.0.0.0 also from other machines.
    """
    check_number("port", port, at_least=1, at_most=65_535)
    try:
        listener = socket.create_server((host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: the host name is invalid
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"The page cannot be served at {host}:{port} ({reason}): give another --port or --host."
        ) from error
    with listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # otherwise each response is delayed by 40 ms
        found = find_runs(runs, Path())
        # Gradio reads these variables when it is imported. They turn off its usage statistics and its history.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False")
        try:
            import uvicorn

            from condgen.demo.page import application
        except ModuleNotFoundError as error:
            if error.name not in ("gradio", "uvicorn"):
                raise
            raise UsageError("The page needs gradio: pip install 'gradio>=6.20'.") from error
        app = application(found, host)
        config = uvicorn.Config(app, log_level="error", limit_concurrency=MAX_CONNECTIONS, ws="none")
        server = threading.Thread(target=uvicorn.Server(config).run, args=[[listener]], daemon=True)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _exit)
        server.start()
        print(f"Serving a page of {len(found):,} runs at http://{host}:{port} (stop with Ctrl-C)", flush=True)
        server.join()


def _exit(signum: int, frame: object) -> None:
    """Exits without the interpreter's clean-up, which would abort if another thread is computing with torch."""
    os._exit(128 + signum)
