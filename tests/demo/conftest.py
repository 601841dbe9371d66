"""Fixtures for the tests of the page: small trained runs, a server, and a browser."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.browser import DNN, wait_for
from helpers.idx_files import write_idx
from helpers.processes import condgen_process, free_port
from helpers.runs import FIVE_SMALL_BATCHES, SMALL
from playwright.sync_api import BrowserContext, Page

from condgen.cli.main import main


@pytest.fixture(scope="session")
def folder(trained, mnist_root, digits, tmp_path_factory) -> Path:
    """Three finished runs: a DNN on letters, a DNN on digits with scores, and a diffusion, the newest."""
    folder = tmp_path_factory.mktemp("demo")
    for part in ("train", "test"):
        raw = folder / "data" / "EMNIST" / "raw"
        write_idx(raw / f"emnist-letters-{part}-images-idx3-ubyte", digits[0][:64])
        write_idx(raw / f"emnist-letters-{part}-labels-idx1-ubyte", np.arange(64, dtype=np.uint8) % 26 + 1)
    letters = ["--data", "EMNIST", "--data.split", "letters", "--data.root", str(folder / "data")]
    diffusion = ["--model", "Diffusion", *SMALL["Diffusion"], "--data.root", str(mnist_root)]
    options = [
        "--trainer.default_root_dir",
        str(folder),
        "--trainer.max_epochs",
        "1",
        "--trainer.log_every_n_steps",
        "1",
    ]
    options += [*FIVE_SMALL_BATCHES, "--training_scores.every_n_epochs", "null"]
    runs = folder / "lightning_logs"
    assert main(["fit", *letters, *options]) == 0
    shutil.copytree(trained / "lightning_logs" / "version_0", runs / DNN)
    (runs / DNN / "scores.json").write_text(json.dumps(scores_of(runs / DNN)))
    assert main(["fit", *diffusion, *options]) == 0
    return folder


def scores_of(run: Path) -> dict:
    """The part of the content of ``scores.json`` that the page needs."""
    steps = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    score = {"value": 0.125, "uncertainty": 0.01, "real": 0.9375, "real_uncertainty": 0.02}
    return {
        "generator": "DNN",
        "settings": {},
        "checkpoint": {"path": str(run / "checkpoints" / "last.ckpt"), "steps": steps},
        "data": "MNIST",
        "source": "full",
        "test_images": 70,
        "evaluator": "0",
        "scores": {"accuracy": score, "coverage": score},
        "cost": {"parameters": 6_650_433},
    }


@pytest.fixture(scope="session")
def address(folder) -> Iterator[str]:
    """The address of the page of these runs, served in an environment with an unreachable proxy."""
    port = free_port()
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    process = condgen_process(["demo", "--port", port], folder, **proxies)
    wait_for(int(port), process)
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output


@pytest.fixture(scope="session")
def browser(chromium) -> BrowserContext:
    """A browser whose windows share a cache."""
    return chromium.new_context(viewport={"width": 1280, "height": 900})


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    """The page in a new window. After the test, it must have sent no request to another host and logged no error."""
    page = browser.new_page()
    foreign_requests, errors = [], []
    page.on(
        "request",
        lambda r: None if r.url.startswith((f"{address}/", "data:", "blob:")) else foreign_requests.append(r.url),
    )
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.locator("#samples img").first.wait_for(timeout=60_000)
    yield page
    page.close()
    assert not foreign_requests
    assert not errors
