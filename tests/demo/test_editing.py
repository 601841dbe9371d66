"""The Edit tab of the page: drawing with a mouse, a finger and the keyboard, inversion, and inpainting."""

from __future__ import annotations

import numpy as np
import torch
from helpers.browser import (
    DIFFUSION,
    DNN,
    LETTERS,
    choose,
    eventually,
    field,
    focus_with_keyboard,
    generated,
    open_tab,
    open_tab_with_keyboard,
    pictures,
    slide,
    tiles,
)
from playwright.sync_api import Locator, Page

import condgen
from condgen.files.images import to_bytes
from condgen.sampling.inpainting import inpaint

PIXELS = """(canvas) => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]"""


def canvas(page: Page) -> Locator:
    return page.locator("#canvas canvas").last


def drawing(page: Page, layer: int = 0, channel: int = 0) -> np.ndarray:
    """A channel of the picture (layer 0) or of the marks (layer 1) on the canvas: (28, 28) uint8."""
    pixels = page.locator("#canvas canvas").nth(layer).evaluate(PIXELS)
    return np.array(pixels, dtype=np.uint8).reshape(28, 28, 4)[..., channel]


def edit(page: Page, run: str, start: str) -> None:
    """Opens the Edit tab with a run, and waits until the canvas shows the image to start with."""
    open_tab(page, "Edit")
    eventually(page, lambda: pictures(page, "inversion"))  # the layout moves until then
    choose(page, run)
    page.wait_for_timeout(500)
    field(page, "Start with").click()
    page.get_by_role("option", name=start).click()
    eventually(page, lambda: pictures(page, "inversion"))


def paint(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Paints a line with the mouse between two pixels (x, y)."""
    box = canvas(page).bounding_box()
    (x1, y1), (x2, y2) = (
        (box["x"] + p[0] / 28 * box["width"], box["y"] + p[1] / 28 * box["height"]) for p in (start, end)
    )
    page.mouse.move(x1, y1)
    page.mouse.down()
    page.mouse.move(x2, y2, steps=5)
    page.mouse.up()


def inversion_shows(page: Page, image: np.ndarray) -> bool:
    return any((picture[2:30, 2:30, 0] == image).all() for picture in pictures(page, "inversion"))


def test_edit_tab_inverts_the_picture_and_shows_its_noise_with_every_label(page, folder):
    edit(page, DIFFUSION, "Sample")
    sample = generated(folder, DIFFUSION, [2], [0])[0]
    eventually(page, lambda: (drawing(page) == sample).all() and inversion_shows(page, sample))
    paint(page, (4, 4), (24, 4))
    drawn = drawing(page)
    assert (drawn[3:5, 6:22] == 255).all()
    assert (drawn[10:] == sample[10:]).all()
    eventually(page, lambda: inversion_shows(page, drawn))
    generator = condgen.load(folder / "lightning_logs" / DIFFUSION)
    noise = generator.invert(torch.tensor(drawn / 255, dtype=torch.float32)[None, None], torch.tensor([2]))
    with torch.no_grad():
        expected = to_bytes(generator.generate(torch.arange(10), noise.expand(10, -1, -1, -1)))[:, 0].numpy()
    shown = tiles(pictures(page, "inversion")[0], 1, 12)
    assert np.abs(shown[2:].astype(int) - expected).max() <= 1
    assert np.abs(shown[1].astype(int) - expected[2]).max() <= 1


def test_edit_tab_generates_the_marked_pixels_again_and_keeps_the_others(page, folder):
    edit(page, DIFFUSION, "Sample")
    page.get_by_label("Inpaint").check()
    slide(page, "thickness", 7)
    before = drawing(page)
    paint(page, (9, 14), (19, 14))
    eventually(page, lambda: pictures(page, "inpainting"))
    known = drawing(page, 1, 3) < 128
    assert (drawing(page) == before).all()
    assert 50 < (~known).sum() < 200
    images = tiles(pictures(page, "inpainting")[0], 1, 10)
    assert (images[:, known] == before[known]).all()
    generator = condgen.load(folder / "lightning_logs" / DIFFUSION)
    image = torch.tensor(before / 255, dtype=torch.float32).expand(10, 1, 28, 28)
    expected = inpaint(
        generator, image, torch.tensor(known), torch.full((10,), 2), generator.sample_noise(0, range(10))
    )
    assert np.abs(images.astype(int) - to_bytes(expected)[:, 0].numpy()).max() <= 1
    page.get_by_label("Erase").check()  # also removes the marks
    slide(page, "thickness", 9)
    paint(page, (5, 14), (23, 14))
    eventually(page, lambda: "paint over it" in page.locator("#inpainting").inner_text())
    assert (drawing(page)[12:16, 8:20] == 0).all()


def test_edit_tab_starts_with_a_test_image_and_selects_its_label(page, mnist_root):
    edit(page, DNN, "Test image")
    field(page, "Number").fill("5")
    raw = mnist_root / "MNIST" / "raw"
    image = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(-1, 28, 28)[5]
    label = (raw / "t10k-labels-idx1-ubyte").read_bytes()[8 + 5]
    eventually(page, lambda: (drawing(page) == image).all() and inversion_shows(page, image))
    assert field(page, "Label").input_value() == str(label)
    assert "cannot inpaint" in page.locator("#inpainting").inner_text()


def test_edit_tab_keeps_a_drawing_when_the_tab_run_or_label_changes(page):
    edit(page, DIFFUSION, "Nothing")
    eventually(page, lambda: (drawing(page) == 0).all() and inversion_shows(page, drawing(page)))
    paint(page, (14, 4), (14, 24))
    drawn = drawing(page)
    assert (drawn[6:22, 13:15] == 255).all()
    assert (drawn[:, :10] == 0).all()
    open_tab(page, "Film")
    open_tab(page, "Edit")
    field(page, "Number").fill("-1")  # has no meaning without a sample or test image
    for run in (DNN, LETTERS):  # letters have the same size, but other labels
        choose(page, run)
        eventually(page, lambda: "cannot inpaint" in page.locator("#inpainting").inner_text())
        assert (drawing(page) == drawn).all()
    choose(page, DIFFUSION)
    eventually(page, lambda: field(page, "Label").input_value() == "0")  # Gradio fails if an open list gets shorter
    field(page, "Label").click()
    page.get_by_role("option", name="7").click()
    eventually(page, lambda: inversion_shows(page, drawn))
    page.get_by_role("button", name="Start over").click()
    eventually(page, lambda: (drawing(page) == 0).all())


def test_edit_tab_keeps_an_edited_sample_when_the_label_or_seed_changes(page, folder):
    edit(page, DIFFUSION, "Sample")
    field(page, "Label").click()
    page.get_by_role("option", name="3").click()
    sample = generated(folder, DIFFUSION, [3], [0])[0]
    eventually(page, lambda: (drawing(page) == sample).all())  # not edited yet
    page.get_by_label("Inpaint").check()
    paint(page, (9, 14), (19, 14))
    eventually(page, lambda: pictures(page, "inpainting"))
    before, known = pictures(page, "inpainting")[0], drawing(page, 1, 3) < 128
    field(page, "Seed").fill("1")
    eventually(page, lambda: pictures(page, "inpainting") and (pictures(page, "inpainting")[0] != before).any())
    field(page, "Label").click()
    page.get_by_role("option", name="8").click()
    page.get_by_text("marked pixels of a 8").wait_for()
    assert (drawing(page) == sample).all()
    assert ((drawing(page, 1, 3) < 128) == known).all()


def test_results_of_the_edit_tab_belong_to_the_picture_if_the_user_draws_during_start_over(page):
    edit(page, DNN, "Nothing")
    paint(page, (4, 4), (24, 4))
    page.get_by_role("button", name="Start over").click(no_wait_after=True)
    paint(page, (4, 20), (24, 20))  # before the server has answered
    page.wait_for_timeout(1500)  # for all answers but the last
    eventually(page, lambda: inversion_shows(page, drawing(page)))


def test_edit_tab_works_with_the_keyboard_alone(page):
    open_tab_with_keyboard(page, "Edit")
    eventually(page, lambda: pictures(page, "inversion"))
    before = drawing(page)

    focus_with_keyboard(page, "#canvas canvas")
    for _ in range(12):
        page.keyboard.press("ArrowUp")
    page.keyboard.press(" ")
    for _ in range(8):
        page.keyboard.press("Shift+ArrowRight")
    drawn = drawing(page)
    assert (drawn[2, 14:22] == 255).all()
    assert (drawn[6:] == before[6:]).all()
    eventually(page, lambda: inversion_shows(page, drawn))
    focus_with_keyboard(page, "#brush input[value=Inpaint]")
    page.keyboard.press(" ")
    eventually(page, lambda: page.locator("#brush input:checked").input_value() == "Inpaint")
    focus_with_keyboard(page, "#canvas canvas", "Shift+Tab")
    page.keyboard.press(" ")
    eventually(page, lambda: pictures(page, "inpainting"))


def test_edit_tab_on_a_phone_draws_with_a_finger(browser, address):
    context = browser.browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(address)
    edit(page, DIFFUSION, "Nothing")
    eventually(page, lambda: (drawing(page) == 0).all())
    canvas(page).scroll_into_view_if_needed()
    box = canvas(page).bounding_box()
    assert box["width"] >= 250
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    drawn = drawing(page)
    assert drawn[13:15, 13:15].min() > 200
    eventually(page, lambda: inversion_shows(page, drawn))
    assert box["y"] < field(page, "Run").bounding_box()["y"]
    context.close()
