"""``condgen demo``: serves the page until it is stopped."""

import os
import signal
import socket
import threading
from pathlib import Path

from condgen.demo.runs import find_runs
from condgen.errors import UsageError, check_number

MAX_CONNECTIONS = 100


def demo(runs: list[str], port: int = 7860, host: str = "127.0.0.1") -> None:
    """Serves a page in the browser on which runs generate images side by side, until Ctrl-C.

    Args:
        runs: run directories or checkpoint files; all runs under lightning_logs that have a checkpoint if not given.
        port: the port of the page.
        host: the address of the page; only this machine reaches the default, and 0.0.0.0 lets others in.
    """
    check_number("port", port, at_least=1, at_most=65_535)
    try:
        listener = socket.create_server((host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: this cannot be the name of a host
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"The page cannot be at {host}:{port} ({reason}): give another --port or --host.") from error
    with listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # otherwise each answer waits for 40 ms
        found = find_runs(runs, Path())
        # Gradio reads these when it is imported: it must send nothing to its makers.
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
        print(f"The page of {len(found):,} runs: http://{host}:{port} (Ctrl-C ends it)", flush=True)
        server.join()


def _exit(signum: int, frame: object) -> None:
    """Exits without the clean-up of the interpreter, which aborts if another thread is computing with torch."""
    os._exit(128 + signum)
