"""What the tests of the page do in a browser, and the runs that it shows."""

from __future__ import annotations

import base64
import io
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import Page

import condgen
from condgen.files.images import to_bytes

LETTERS, DNN, DIFFUSION = "version_0", "version_1", "version_2"  # the names of the runs


def wait_for(port: int, process) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(process.communicate(timeout=1)[0])


def eventually(page: Page, condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not within 30 seconds: {page.locator('.shown:visible').all_inner_texts()}"
        page.wait_for_timeout(50)


def pictures(page: Page, name: str) -> list[np.ndarray]:
    """The pictures that a part of the page shows: (H, W, 3) uint8 each."""
    sources = page.locator(f"#{name} img").evaluate_all("images => images.map(image => image.src)")
    contents = [base64.b64decode(source.partition(",")[2]) for source in sources]
    return [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents]


def tiles(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The red channel of the images of a grid: (rows * columns, 28, 28)."""
    assert picture.shape == (30 * rows + 2, 30 * columns + 2, 3)
    return np.stack(
        [picture[30 * r + 2 : 30 * r + 30, 30 * c + 2 : 30 * c + 30, 0] for r in range(rows) for c in range(columns)]
    )


def generated(
    folder: Path, run: str, labels: list[int], indices: list[int] | range, seed: int = 0, **settings
) -> np.ndarray:
    """The images that ``generate`` returns in Python: (N, 28, 28) uint8."""
    generator = condgen.load(folder / "lightning_logs" / run, **settings)
    with torch.no_grad():
        return to_bytes(generator.generate(torch.tensor(labels), generator.sample_noise(seed, indices)))[:, 0].numpy()


def field(page: Page, label: str):
    return page.get_by_label(label, exact=True).locator("visible=true")


def choose(page: Page, run: str) -> None:
    """Selects another run in the open tab."""
    field(page, "Run").click()
    page.get_by_role("option", name=run).click()


def open_tab(page: Page, name: str) -> None:
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():  # on a phone, Gradio puts the last tabs into a menu
        page.locator(".overflow-menu > button").first.click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()


def open_tab_with_keyboard(page: Page, name: str) -> None:
    page.get_by_role("tab", name="Samples").focus()
    for _ in range(8):
        if page.locator("[role=tab]:focus").inner_text() == name:
            return
        page.keyboard.press("ArrowRight")
    raise AssertionError(f"{name} cannot be reached with ArrowRight")


def slide(page: Page, name: str, value: float) -> None:
    page.locator(f"#{name} input[type=range]").fill(str(value))


def has_picture(page: Page, name: str, image: np.ndarray) -> Callable[[], bool]:
    """A function that says whether a part of the page has exactly one picture, this image (28, 28)."""
    return lambda: [picture[..., 0].tolist() for picture in pictures(page, name)] == [image.tolist()]


def focus_with_keyboard(page: Page, selector: str, key: str = "Tab") -> None:
    """Presses Tab until an element has the focus."""
    for _ in range(60):
        if page.locator(f"{selector}:focus").count():
            return
        page.keyboard.press(key)
    raise AssertionError(f"{selector} cannot be reached with {key}")
