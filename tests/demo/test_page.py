"""``condgen demo`` with small trained runs: the page in a browser, and requests without a browser."""

from __future__ import annotations

import base64
import html
import io
import json
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
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
    has_picture,
    open_tab,
    open_tab_with_keyboard,
    pictures,
    slide,
    tiles,
    wait_for,
)
from helpers.processes import ForkedPython, free_port, python_process
from PIL import Image
from playwright.sync_api import Page

import condgen
from condgen.cli.main import main
from condgen.demo.middleware import CALL_PATH
from condgen.demo.requests import SamplesRequest
from condgen.demo.runs import find_runs
from condgen.demo.views import Views
from condgen.errors import UsageError
from condgen.files.images import to_bytes
from condgen.noise import slerp

# In a browser.


def test_page_shows_each_runs_samples_of_the_typed_labels(page, folder):
    assert page.locator("#samples b").all_inner_texts() == ["DNN", "Diffusion"]
    for run, picture in zip((DNN, DIFFUSION), pictures(page, "samples"), strict=True):
        assert (tiles(picture, 1, 10) == generated(folder, run, [2] * 10, range(10))).all()
    field(page, "Samples per label").fill("3")
    field(page, "Seed").fill("7")
    field(page, "Labels").fill("40")
    labels = [4] * 3 + [0] * 3
    eventually(page, lambda: [p.shape for p in pictures(page, "samples")] == [(62, 92, 3)] * 2)
    eventually(
        page, lambda: (tiles(pictures(page, "samples")[0], 2, 3) == generated(folder, DNN, labels, range(6), 7)).all()
    )
    assert (tiles(pictures(page, "samples")[1], 2, 3) == generated(folder, DIFFUSION, labels, range(6), 7)).all()


def test_page_enlarges_pictures_by_a_whole_number_that_fits(page):
    image = page.locator("#samples img").first
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    box = image.bounding_box()
    assert box["x"] + box["width"] <= 1280
    assert box["width"] % 302 == 0  # ten samples


def test_page_on_a_phone_shows_pictures_and_sliders_first_and_digits_of_56_pixels(page):
    page.set_viewport_size({"width": 390, "height": 844})
    image = page.locator("#samples img").first
    assert image.bounding_box()["width"] / 302 * 28 >= 56  # ten samples: the figure scrolls
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert image.bounding_box()["y"] < field(page, "Seed").first.bounding_box()["y"]
    for tab, slider, name in (
        ("Morph", "part", "interpolated"),
        ("Noise", "value", "moved"),
        ("Mix", "weight_1", "mixed"),
        ("Edit", "canvas", "inversion"),
        ("Film", "frame", "moment"),
        ("Epochs", "grid", "epoch"),
    ):
        open_tab(page, tab)
        page.locator(f"#{name} img").wait_for()
        image = page.locator(f"#{name} img").bounding_box()
        assert page.locator(f"#{slider}").bounding_box()["y"] < image["y"] < field(page, "Run").bounding_box()["y"]
        assert tab == "Edit" or image["y"] < 844 / 2  # on the same screen as the slider


LUMINANCE = """element => {
  const parts = getComputedStyle(element).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const linear = parts.map(part => part / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}"""


def test_page_hints_have_enough_contrast(page):
    hint = page.get_by_text("in amber, below").first
    assert 1.05 / (hint.evaluate(LUMINANCE) + 0.05) >= 4.5  # WCAG 2, level AA


def test_arrow_keys_move_between_the_tabs_of_the_page(page):
    page.get_by_role("tab", name="Samples").focus()
    for key, expected in (("ArrowRight", "Morph"), ("ArrowLeft", "Samples"), ("ArrowLeft", "Scores")):
        page.keyboard.press(key)
        focused = page.locator("[role=tab]:focus")
        eventually(page, lambda focused=focused: focused.get_attribute("aria-selected") == "true")
        assert focused.inner_text() == expected


@pytest.mark.parametrize(
    ("tab", "slider", "shown"),
    [("Mix", "weight_1", "mixed"), ("Film", "frame", "moment"), ("Morph", "part", "interpolated")],
)
def test_sliders_of_the_page_work_with_the_keyboard_alone(page, tab, slider, shown):
    open_tab_with_keyboard(page, tab)
    eventually(page, lambda: pictures(page, shown))
    before = pictures(page, shown)
    focus_with_keyboard(page, f"#{slider} input[type=range]")
    page.keyboard.press("Home" if tab != "Morph" else "End")
    eventually(page, lambda: pictures(page, shown) and (pictures(page, shown)[0] != before[0]).any())


def test_page_samples_with_the_selected_settings_and_runs(page, folder):
    field(page, "Sampling steps").fill("2")
    field(page, "Guidance").fill("3")
    other = generated(folder, DIFFUSION, [2] * 10, range(10), sampling_steps=2, guidance=3.0)
    assert (other != generated(folder, DIFFUSION, [2] * 10, range(10))).any()
    eventually(page, lambda: (tiles(pictures(page, "samples")[1], 1, 10) == other).all())
    assert "guidance 3 · sampling steps 2" in page.locator("#samples").inner_text()
    assert (tiles(pictures(page, "samples")[0], 1, 10) == generated(folder, DNN, [2] * 10, range(10))).all()
    field(page, "Runs").press("Backspace")
    eventually(page, lambda: page.locator("#samples b").all_inner_texts() == ["DNN"])


def test_page_uses_the_labels_of_each_runs_dataset(page, folder):
    field(page, "Labels").fill("cab")
    page.get_by_text("MNIST has no 'c'").first.wait_for()
    field(page, "Runs").press("Backspace")
    field(page, "Runs").press("Backspace")
    field(page, "Runs").click()
    page.get_by_role("option", name=LETTERS).click()
    cab = generated(folder, LETTERS, np.repeat([2, 0, 1], 10).tolist(), range(30))
    eventually(page, lambda: [p.shape for p in pictures(page, "samples")] == [(92, 302, 3)])
    assert (tiles(pictures(page, "samples")[0], 3, 10) == cab).all()
    open_tab(page, "Morph")
    for run, label in ((LETTERS, "a"), (DIFFUSION, "0")):
        choose(page, run)
        eventually(page, lambda label=label: field(page, "Label").input_value() == label)
        eventually(page, has_picture(page, "interpolated", generated(folder, run, [0], [0])[0]))


def test_page_shows_the_samples_of_runs_that_have_the_labels(page):
    field(page, "Runs").click()
    page.get_by_role("option", name=LETTERS).click()
    page.get_by_text("EMNIST-letters has no '2'").wait_for()
    assert page.locator("#samples b").all_inner_texts() == ["DNN", "Diffusion"]


def test_page_shows_the_nearest_training_image_below_each_sample(page, mnist_root):
    page.get_by_label("Nearest training images").check()
    eventually(page, lambda: pictures(page, "samples")[0].shape == (62, 302, 3))
    raw = mnist_root / "MNIST" / "raw"
    training = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28)
    twos = training[np.frombuffer((raw / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8) == 2].astype(
        float
    )
    for picture in pictures(page, "samples"):
        images = tiles(picture, 2, 10)
        for sample, nearest in zip(images[:10], images[10:], strict=True):
            assert (nearest == twos[((twos - sample) ** 2).sum((1, 2)).argmin()]).all()


def test_morph_tab_follows_the_slider_and_saves_an_animation(page, folder):
    open_tab(page, "Morph")
    field(page, "To sample").fill("5")
    choose(page, DNN)
    ends = generated(folder, DNN, [2, 2], [0, 5])
    eventually(page, has_picture(page, "interpolated", ends[0]))
    box = page.locator("#part input[type=range]").bounding_box()
    page.mouse.move(box["x"] + 9, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    eventually(page, lambda: not has_picture(page, "interpolated", ends[0])())  # while the mouse button is still down
    page.mouse.up()
    slide(page, "part", 0.5)
    generator = condgen.load(folder / "lightning_logs" / DNN)
    noise = slerp(*generator.sample_noise(0, [0, 5]), torch.tensor([0.5]), "uniform")
    with torch.no_grad():
        middle = to_bytes(generator.generate(torch.tensor([2]), noise))[0, 0].numpy()
    eventually(page, has_picture(page, "interpolated", middle))
    assert (middle != ends[0]).any()
    assert (middle != ends[1]).any()
    slide(page, "part", 1)
    eventually(page, has_picture(page, "interpolated", ends[1]))
    strip = tiles(pictures(page, "strip")[0], 1, 11)
    assert (strip[[0, 5, 10]] == [ends[0], middle, ends[1]]).all()
    with page.expect_download() as download:
        page.locator("#animation a", has_text="WEBP").click()
    with Image.open(download.value.path()) as animation:
        assert (animation.n_frames, animation.size) == (40, (280, 280))  # forwards and backwards, enlarged ten times
        assert (np.asarray(animation.convert("L"))[5::10, 5::10] == ends[0]).all()
        animation.seek(20)
        assert (np.asarray(animation.convert("L"))[5::10, 5::10] == ends[1]).all()


def test_page_sends_no_requests_when_nothing_changes(page):
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    open_tab(page, "Morph")
    for number in range(9):
        field(page, "To sample").fill(str(number))

    def is_quiet() -> bool:
        before = len(requests)
        page.wait_for_timeout(1000)
        return len(requests) == before

    eventually(page, is_quiet)


def test_page_fades_a_picture_while_the_server_computes_it(page):
    open_tab(page, "Mix")
    eventually(page, lambda: pictures(page, "mixed"))
    page.route(f"**{CALL_PATH}*", lambda route: None)  # holds the requests
    slide(page, "weight_1", 0.5)
    eventually(page, lambda: opacity(page, "mixed") < 0.5)
    assert opacity(page, "alone") == 1  # does not change
    page.unroute(f"**{CALL_PATH}*")  # sends them
    eventually(page, lambda: opacity(page, "mixed") == 1)


def opacity(page: Page, name: str) -> float:
    return float(page.locator(f"#{name} .html-container").evaluate("part => getComputedStyle(part).opacity"))


def test_noise_tab_slider_changes_one_coordinate(page, folder):
    open_tab(page, "Noise")
    page.locator("#moved img").wait_for()
    slider = page.locator("#value input[type=range]")
    # the noise of the DNN is uniform
    eventually(page, lambda: [slider.get_attribute(name) for name in ("min", "max")] == ["0", "1"])
    choose(page, DIFFUSION)
    eventually(page, lambda: [slider.get_attribute(name) for name in ("min", "max")] == ["-3", "3"])
    choose(page, DNN)
    eventually(page, lambda: [slider.get_attribute(name) for name in ("min", "max")] == ["0", "1"])
    field(page, "Coordinate").fill("61")
    field(page, "Sample").fill("4")
    generator = condgen.load(folder / "lightning_logs" / DNN)
    noise = generator.sample_noise(0, [4]).repeat(11, 1)
    eventually(page, lambda: float(slider.input_value()) == pytest.approx(float(noise[0, 61]), abs=0.006))
    noise[:, 61] = torch.linspace(0, 1, 11)
    with torch.no_grad():
        span = to_bytes(generator.generate(torch.full((11,), 2), noise))[:, 0].numpy()
    eventually(page, lambda: (tiles(pictures(page, "range")[0], 1, 11) == span).all())
    slide(page, "value", 1)
    eventually(page, has_picture(page, "moved", span[10]))


def frames_of(source: str) -> int:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).n_frames


def test_mix_tab_has_a_slider_for_each_selected_label(page, folder):
    open_tab(page, "Mix")
    choose(page, DIFFUSION)
    field(page, "Samples").fill("2")

    def shown() -> np.ndarray:
        return tiles(pictures(page, "mixed")[0], 1, 2)

    eventually(page, lambda: pictures(page, "mixed")[0].shape == (32, 62, 3))
    for one, other, label in (("weight_1", "weight_2", 0), ("weight_2", "weight_1", 9)):
        slide(page, one, 1)
        slide(page, other, 0)
        expected = generated(folder, DIFFUSION, [label] * 2, range(2))
        eventually(page, lambda expected=expected: (shown() == expected).all())
    slide(page, "weight_1", 1)
    slide(page, "weight_2", 1)
    eventually(page, lambda: "50% 0, 50% 9" in page.locator("#mixed").inner_text())
    assert (shown() != expected).any()
    field(page, "Labels").click()
    page.get_by_role("option", name="4").click()
    eventually(page, lambda: "33% 0, 33% 9, 33% 4" in page.locator("#mixed").inner_text())
    weights = torch.zeros(2, 10)
    weights[:, [0, 4, 9]] = 1 / 3
    generator = condgen.load(folder / "lightning_logs" / DIFFUSION)
    with torch.no_grad():
        images = to_bytes(generator.generate(weights, generator.sample_noise(0, range(2))))[:, 0].numpy()
    assert np.abs(shown().astype(int) - images).max() <= 1
    fours = tiles(pictures(page, "alone")[0], 3, 2)[4:]
    assert (fours == generated(folder, DIFFUSION, [4] * 2, range(2))).all()
    slide(page, "weight_2", 0.5)
    field(page, "Labels").click()
    page.get_by_role("option", name="7").click()  # the other sliders keep their positions
    eventually(page, lambda: "29% 0, 14% 9, 29% 4, 29% 7" in page.locator("#mixed").inner_text())
    for number in (1, 2, 3, 4):
        slide(page, f"weight_{number}", 0)
    page.get_by_text("All parts of the mix are 0").wait_for()
    field(page, "Samples").fill("3")
    eventually(page, lambda: pictures(page, "alone")[0].shape == (122, 92, 3))


def test_film_tab_slider_goes_from_noise_to_the_samples(page, folder):
    open_tab(page, "Film")
    choose(page, DIFFUSION)
    field(page, "Sampling steps").fill("4")
    field(page, "Samples").fill("2")
    slider = page.locator("#frame input[type=range]")
    eventually(page, lambda: slider.get_attribute("max") == "5" and slider.input_value() == "5")
    images = generated(folder, DIFFUSION, [2] * 2, range(2), sampling_steps=4)

    def shown() -> np.ndarray:
        return pictures(page, "moment")[0][..., 0]

    eventually(page, lambda: shown().shape == (60, 62))  # two samples; above: the noisy image, below: the prediction
    eventually(page, lambda: (shown()[2:30, 2:30] == images[0]).all() and (shown()[30:58, 32:60] == images[1]).all())
    slide(page, "frame", 1)
    noise = condgen.load(folder / "lightning_logs" / DIFFUSION).sample_noise(0, range(1))
    expected = to_bytes((noise / 2 + 0.5).clamp(0, 1))[0, 0].numpy()
    eventually(page, lambda: (shown()[2:30, 2:30] == expected).all())
    eventually(page, lambda: frames_of(page.locator("#emerging img").get_attribute("src")) == 5)


def test_epochs_tab_slider_shows_the_grids_of_all_epochs(page, folder):
    open_tab(page, "Epochs")
    choose(page, DNN)
    slider = page.locator("#grid input[type=range]")
    eventually(page, lambda: slider.input_value() == "2")  # the last epoch is selected first
    eventually(page, lambda: frames_of(page.locator("#film img").get_attribute("src")) == 2)
    for number, file in ((1, "epoch=000.png"), (2, "epoch=001.png")):
        eventually(page, lambda: slider.get_attribute("max") == "2")
        slide(page, "grid", number)
        picture = np.asarray(Image.open(folder / "lightning_logs" / DNN / "samples" / file).convert("RGB"))
        eventually(page, lambda picture=picture: [p.tolist() for p in pictures(page, "epoch")] == [picture.tolist()])


def test_scores_tab_shows_scores_of_real_images_and_the_command_for_missing_scores(page, folder):
    assert "accuracy 0.125 · coverage 0.125" in page.locator("#samples figure").first.inner_text()
    open_tab(page, "Scores")
    row = page.locator("#scores tr", has_text="coverage")
    eventually(page, lambda: row.all_inner_texts())
    assert row.inner_text().split() == ["coverage", "0.125", "±", "0.010", "0.938", "±", "0.020"]
    assert f"condgen test --ckpt_path lightning_logs/{DIFFUSION}" in page.locator("#scores").inner_text()


def test_saved_files_equal_those_of_condgen_predict(page, folder, tmp_path):
    field(page, "Samples per label").fill("4")
    field(page, "Labels").fill("31")
    eventually(page, lambda: [p.shape for p in pictures(page, "samples")] == [(62, 122, 3)] * 2)
    run = folder / "lightning_logs" / DIFFUSION
    asked = ["--data.labels", "31", "--data.samples_per_label", "4", "--predictions.format", "npz"]
    assert main(["predict", "--ckpt_path", str(run), *asked, "--predictions.dirpath", str(tmp_path / "drawn")]) == 0
    saved = {}
    for kind in ("PNG", "NPZ"):
        with page.expect_download() as download:
            page.locator("#samples figure", has_text="Diffusion").get_by_text(kind).click()
        saved[kind] = Path(download.value.path())
        assert download.value.suggested_filename == f"Diffusion-{DIFFUSION}-seed-0.{kind.lower()}"
    assert (np.asarray(Image.open(saved["PNG"])) == pictures(page, "samples")[1]).all()
    with np.load(saved["NPZ"]) as page_has, np.load(next((tmp_path / "drawn").glob("*.npz"))) as predict_has:
        assert sorted(page_has) == sorted(predict_has) == ["images", "indices", "labels"]
        for name in page_has:
            assert page_has[name].dtype == predict_has[name].dtype
            assert np.abs(page_has[name].astype(int) - predict_has[name]).max() <= 1  # a level, of another block size
        assert page_has["images"].shape == (8, 1, 28, 28)


INVALID_INPUTS = (
    ("Labels", "20x6", "MNIST has no 'x', but 0, 1, 2"),
    ("Labels", "<img src=x onerror=alert(1)>", "MNIST has no '<'"),
    ("Labels", "2" * 21, "type at most 20"),
    ("Samples per label", "10000", "samples per label is 10000. Input should be less than or equal to 20"),
    ("Seed", "-1", "seed is -1. Input should be greater than or equal to 0"),
    ("Sampling steps", "many", "sampling steps is 'many'. Input should be a valid integer"),
)


def test_page_shows_a_message_instead_of_pictures_for_invalid_input(page):
    for label, typed, message in INVALID_INPUTS:
        valid = field(page, label).input_value()
        field(page, label).fill(typed)
        page.get_by_text(message).first.wait_for()
        eventually(page, lambda: page.locator("#samples img").count() == 0)
        field(page, label).fill(valid)
        eventually(page, lambda: page.locator("#samples img").count() > 0)


# Requests to the server without a browser.

JSON = {"Content-Type": "application/json"}


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(address: str, view: str, *values: object) -> str:
    """Calls a view with the values of a tab's inputs, as the page does. Returns the first text of the response."""
    with DIRECT.open(f"{address}/config") as response:
        functions = json.load(response)["dependencies"]
    number = next(function["id"] for function in functions if function["api_name"] == view)
    body = {"data": values, "fn_index": number, "session_hash": "program"}
    request = urllib.request.Request(address + CALL_PATH, json.dumps(body).encode(), JSON)
    with DIRECT.open(request, timeout=60) as response:
        return next(value for value in json.load(response)["data"] if isinstance(value, str))


def test_demo_request_returns_the_images_of_generate(address, folder):
    source = call(address, "samples", [DNN], "2", 2, 0, "", "", False).partition("base64,")[2].partition('"')[0]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    assert (tiles(picture, 1, 2) == generated(folder, DNN, [2, 2], [0, 1])).all()


@pytest.mark.parametrize(
    ("view", "values", "message"),
    [
        ("samples", ([DNN], "2", 10_000, 0, "", "", False), "samples per label is 10000. Input should be less than"),
        ("samples", ([DNN], "2", 1.5, 0, "", "", False), "samples per label is 1.5. Input should be a valid integer"),
        ("samples", ([DNN], "2" * 10_000, 1, 0, "", "", False), "at most 400 characters"),
        ("samples", ([DNN], None, 1, 0, "", "", False), "Labels is empty"),
        ("samples", ([DNN], "", 1, 0, "", "", False), "Type at least one label"),
        ("samples", ([DNN], "2", None, 0, "", "", False), "Samples per label is empty"),
        ("samples", ([DNN] * 9, "2", 1, 0, "", "", False), "at most 8 items"),
        ("samples", ([], "2", 1, 0, "", "", False), "Runs is empty"),
        ("samples", (DNN, "2", 1, 0, "", "", False), "runs is 'version_1'. Input should be a valid list"),
        ("samples", ([DNN], ["2"], 1, 0, "", "", False), "labels is ['2']. Input should be a valid string"),
        ("samples", ([DNN], "2", 1, 0, "", "", "maybe"), "nearest is 'maybe'. Input should be a valid boolean"),
        ("samples", ([DIFFUSION], "2", 1, 0, ["2"], "", False), "guidance is ['2']. Input should be a valid number"),
        ("samples", ([DIFFUSION], "2", 1, 0, 10**400, "", False), "guidance is 1"),
        ("samples", ([DIFFUSION], "2", 1, 0, "", 10**400, False), "sampling steps is 1"),
        ("samples", ([DIFFUSION], "2", 1, 0, "1e9", "", False), "guidance is '1e9'. Input should be less than"),
        ("samples", ([DIFFUSION], "2", 1, 0, "", "10000", False), "sampling steps is '10000'. Input should be less"),
        ("samples", ([DIFFUSION], "2" * 20, 20, 0, "2", "100", False), "evaluations of the network"),
        ("samples", (["../../etc/passwd"], "2", 1, 0, "", "", False), "no run '../../etc/passwd' here"),
        ("interpolated", ("/etc/passwd", "2", 0, 0, 1, "", "", 0), "/etc/passwd"),
        ("interpolated", (DNN, "2", 0, 0, 1, "", "", 7), "part is 7. Input should be less than or equal to 1"),
        ("interpolated", (DNN, "2", 0, -1, 1, "", "", 0), "from sample is -1"),
        ("moved", (DNN, "2", 0, 0, 62, "", "", 0), "coordinate is 62: use 0 to 61"),
        ("moved", (DNN, "2", 0, 0, 10**30, "", "", 0), "coordinate is 1"),
        ("moved", (DNN, "2", 0, 0, 0, "", "", 4), "value is 4. Input should be less than or equal to 3"),
        ("mixed", (DNN, ["2"] * 6, 2, 0, "", "", 1, 1, 1, 1, 1), "at most 5 items"),
        ("mixed", (DNN, ["2"], 2, 0, "", "", -1, 1, 1, 1, 1), "weight 1 is -1"),
        ("edit", (DNN, "2", 0, "upload", 0, None), "start is 'upload'"),
        ("edit", (DNN, "2", 0, "Test image", 999_999, None), "number is 999999: use 0 to"),
        ("epoch", ("..", 1), "There is no run '..' here"),
        ("scores", (["../.."],), "There is no run"),
    ],
)  # fmt: skip
def test_demo_request_with_values_out_of_bounds_returns_a_short_message(address, view, values, message):
    response = html.unescape(call(address, view, *values))
    assert response.startswith("<p role=alert>")
    assert message in response
    assert len(response) < 700


@pytest.mark.parametrize("value", [{"path": "/etc/passwd"}, [{"path": "/etc/passwd"}], [1], [[DNN]], [DNN] * 999])
def test_demo_refuses_a_request_with_values_of_wrong_types(address, value):
    with pytest.raises(urllib.error.HTTPError) as error:
        call(address, "scores", value)
    assert error.value.code == 400


@pytest.mark.parametrize("path", ["/etc/passwd", f"lightning_logs/{DNN}/config.yaml", "../../etc/passwd"])
def test_demo_serves_no_files_from_the_disk(address, folder, path):
    for file in (path, str(folder / path)):
        with pytest.raises(urllib.error.HTTPError) as error:
            DIRECT.open(f"{address}/gradio_api/file={file}")
        assert error.value.code in (403, 404)


def test_demo_listens_on_this_machine_only_and_names_a_port_in_use(address, folder, monkeypatch, capsys):
    port = address.rpartition(":")[2]
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.2", int(port))) != 0
    monkeypatch.chdir(folder)
    assert main(["demo", "--port", port]) == 1
    assert one_line(capsys).startswith(f"condgen: The page cannot be served at 127.0.0.1:{port}")


# One of them is not a forked process, because the interpreter's own shutdown, which can abort, is tested too.
@pytest.mark.parametrize(
    ("start", "signum", "code"), [(python_process, signal.SIGTERM, 143), (ForkedPython, signal.SIGINT, 130)]
)
def test_signal_stops_the_demo_while_it_generates(folder, start, signum, code):
    port = free_port()
    process = start(["condgen", "demo", "--port", port], folder)
    wait_for(int(port), process)
    address, values = f"http://127.0.0.1:{port}", ([DIFFUSION] * 8, "22222", 20, 0, "2", "50", False)
    call(address, "scores", [DIFFUSION])  # waits until the server responds
    with ThreadPoolExecutor() as pool:
        response = pool.submit(call, address, "samples", *values)
        time.sleep(1)
        assert not response.done()
        process.send_signal(signum)
        process.communicate(timeout=20)
        assert isinstance(response.exception(), OSError)
    assert process.returncode == code


# Without a server.


def one_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_demo_without_gradio_says_what_to_install(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "condgen.demo.page", raising=False)
    assert main(["demo", "--port", free_port()]) == 1
    assert "pip install 'gradio" in one_line(capsys)


def test_find_runs_returns_newest_runs_first_or_the_given_order(folder, last, monkeypatch):
    assert list(find_runs([], folder)) == [DIFFUSION, DNN, LETTERS]
    runs = folder / "lightning_logs"
    best = runs / DNN / "checkpoints" / "best.ckpt"
    given = find_runs([str(runs / LETTERS), str(best), last, str(runs / LETTERS)], folder)
    assert list(given) == [str(runs / LETTERS / "checkpoints" / "last.ckpt"), f"{DNN}/best.ckpt", last]
    assert [run.family for run in given.values()] == ["DNN"] * 3


def test_find_runs_skips_a_damaged_run_unless_it_is_given(folder, tmp_path, capsys):
    shutil.copytree(folder / "lightning_logs", tmp_path / "lightning_logs")
    broken = tmp_path / "lightning_logs" / DNN
    (broken / "checkpoints" / "last.ckpt").write_bytes(b"half")
    assert list(find_runs([], tmp_path)) == [DIFFUSION, LETTERS]
    assert f"{DNN}/checkpoints/last.ckpt" in one_line(capsys)
    with pytest.raises(UsageError, match=r"last\.ckpt"):
        find_runs([str(broken)], tmp_path)


def test_demo_does_not_download_training_images(folder, tmp_path, monkeypatch):
    runs = find_runs([], folder)
    monkeypatch.setattr(runs[DNN].data, "root", tmp_path)
    request = SamplesRequest(runs=[DNN], labels="2", samples_per_label=1, seed=0, nearest=True)
    assert f"cannot be read from {tmp_path}" in Views(runs).samples(request)
    assert not list(tmp_path.iterdir())


def test_demo_shows_no_scores_of_another_checkpoint(folder):
    checkpoints = folder / "lightning_logs" / DNN / "checkpoints"
    run = find_runs([str(checkpoints / "best.ckpt")], folder)[f"{DNN}/best.ckpt"]
    with pytest.raises(
        UsageError, match=r"another checkpoint or other data: run `condgen test --ckpt_path .*best.ckpt`"
    ):
        _ = run.scores
    assert "accuracy" not in Views({"best": run}).samples(
        SamplesRequest(runs=["best"], labels="2", samples_per_label=1, seed=0, nearest=False)
    )


def test_demo_shows_no_scores_after_the_run_is_resumed(folder, tmp_path):
    shutil.copytree(folder / "lightning_logs" / DNN, tmp_path / "run")
    (run,) = find_runs([str(tmp_path / "run")], tmp_path).values()
    assert "accuracy" in run.scores["scores"]
    content = torch.load(run.checkpoint, weights_only=True)
    torch.save({**content, "global_step": content["global_step"] + 1}, run.checkpoint)
    with pytest.raises(UsageError, match="another checkpoint"):
        _ = run.scores


def test_demo_loads_a_rewritten_checkpoint_again(folder, tmp_path):
    path = tmp_path / "some.ckpt"
    shutil.copy(folder / "lightning_logs" / DNN / "checkpoints" / "last.ckpt", path)
    run = find_runs([str(path)], tmp_path)["some.ckpt"]
    first = run.generator()
    assert run.generator() is first
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {name: tensor * 2 for name, tensor in content["state_dict"].items()}
    torch.save(content, path)
    assert run.generator() is not first
