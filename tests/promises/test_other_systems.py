"""condgen needs nothing that only Unix has: here Python's Unix-only modules and names are taken away."""

import subprocess
import sys
from pathlib import Path

WITHOUT_UNIX = """
import builtins, os, signal, sys
import asyncio, lightning.pytorch, mlxtend.data, subprocess, tempfile, torchvision, yaml  # they use these themselves

find = builtins.__import__

def without_unix(name, globals=None, *args, **kwargs):
    importer = (globals or {}).get("__name__", "")
    if importer.startswith("condgen") and name in ("fcntl", "resource", "pwd", "grp", "termios"):
        raise ModuleNotFoundError(name)
    return find(name, globals, *args, **kwargs)

builtins.__import__ = without_unix
sys.modules["fcntl"] = None  # also for filelock, which then uses its locks for any system
for name in ("fork", "forkpty", "setpgrp", "setsid", "killpg", "getpgid", "getuid", "geteuid", "getgid", "mkfifo",
             "sched_getaffinity", "sched_setaffinity", "statvfs", "sync", "O_NONBLOCK", "O_DIRECTORY", "O_NOFOLLOW"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGUSR2", "SIGHUP", "SIGALRM", "SIGPIPE", "SIGCHLD", "SIGQUIT", "pthread_kill"):
    if hasattr(signal, name):
        delattr(signal, name)

from condgen.cli.main import main
for arguments in (
    "fit --data.source sample --trainer.max_epochs 1 --trainer.limit_train_batches 3 --trainer.limit_val_batches 2",
    "fit --ckpt_path last --trainer.max_epochs 2",
    "predict --data.samples_per_label 2",
    "plot",
    "export --format safetensors",
):
    assert main(arguments.split()) == 0, arguments
"""


def test_fit_resume_predict_and_export_need_no_unix_names(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "lightning_logs" / "version_0"
    assert (run / "predictions" / "grid.png").is_file()
    assert (run / "export" / "safetensors" / "generator.safetensors").is_file()
    assert not list(Path(run).rglob("*.partial"))
