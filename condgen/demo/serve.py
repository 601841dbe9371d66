"""The ``condgen demo`` command, which starts a local web server."""

import os
import signal
import socket
import threading
from pathlib import Path

from condgen.demo.runs import find_runs
from condgen.errors import UsageError, check_number

MAX_CONNECTIONS = 100


def demo(runs: list[str], port: int = 7860, host: str = "127.0.0.1") -> None:
    """Serves a web page to sample from trained generators side by side. Press Ctrl-C to stop.

    Args:
        runs: Run directories or checkpoint files. Defaults to all runs in lightning_logs that have a checkpoint, or
            to the generator that comes with condgen if there are none.
        port: The port to listen on.
        host: The address to listen on. Use 0.0.0.0 to make the page accessible from other machines.
    """
    check_number("port", port, at_least=1, at_most=65_535)
    try:
        listener = socket.create_server((host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError is raised for invalid host names
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"The page cannot be served at {host}:{port} ({reason}): give another --port or --host."
        ) from error
    with listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # otherwise each response is delayed by 40 ms
        found = find_runs(runs, Path())
        # Disable Gradio's usage statistics and history. These variables are read on import.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False")
        try:
            import uvicorn

            from condgen.demo.page import application
        except ModuleNotFoundError as error:
            if error.name not in ("gradio", "uvicorn"):
                raise
            raise UsageError("The page needs gradio: pip install 'gradio>=6.27'.") from error
        app = application(found, host)
        config = uvicorn.Config(app, log_level="error", limit_concurrency=MAX_CONNECTIONS, ws="none")
        server = threading.Thread(target=uvicorn.Server(config).run, args=[[listener]], daemon=True)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _exit)
        server.start()
        runs_found = f"{len(found):,} run{'s' * (len(found) > 1)}"
        print(f"Serving a page of {runs_found} at http://{host}:{port} (stop with Ctrl-C)", flush=True)
        server.join()


def _exit(signum: int, frame: object) -> None:
    """Exits immediately, because the interpreter's cleanup would abort if another thread is running torch code."""
    os._exit(128 + signum)
