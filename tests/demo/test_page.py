"""``condgen demo``: a browser looks at the page of small real runs, and programs ask it for what they should not."""

from __future__ import annotations

import base64
import io
import json
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.idx_files import write_idx
from helpers.processes import condgen_process, free_port, python_process
from helpers.runs import FIVE_SMALL_BATCHES, SMALL
from PIL import Image
from playwright.sync_api import BrowserContext, Page, sync_playwright

import condgen
from condgen.cli.main import main
from condgen.demo.answers import Answers
from condgen.demo.runs import find_runs
from condgen.errors import UsageError
from condgen.files.images import to_bytes
from condgen.noise import between

LETTERS, DNN, DIFFUSION = "version_0", "version_1", "version_2"


@pytest.fixture(scope="module")
def folder(trained, mnist_root, digits, tmp_path_factory) -> Path:
    """Three finished runs: a DNN on letters, a DNN on digits that alone has scores, and, the newest, a diffusion."""
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
    """What ``condgen test`` writes, as far as the page shows it."""
    steps = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    number = {"value": 0.125, "uncertainty": 0.01, "floor": 0.9375, "floor_uncertainty": 0.02}
    return {
        "generator": "DNN",
        "settings": {},
        "checkpoint": {"path": str(run / "checkpoints" / "last.ckpt"), "steps": steps},
        "data": "MNIST",
        "source": "full",
        "test_images": 70,
        "judge": "0",
        "scores": {"accuracy": number, "coverage": number},
        "cost": {"parameters": 6_650_433},
    }


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    """The page of these runs, served where a proxy is set that answers nobody; it is ended by Ctrl-C."""
    port = free_port()
    nobody = "http://127.0.0.1:9"
    process = condgen_process(["demo", "--port", port], folder, HTTP_PROXY=nobody, HTTPS_PROXY=nobody, ALL_PROXY=nobody)
    wait_for(int(port), process)
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output


def wait_for(port: int, process) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(process.communicate(timeout=1)[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """A browser, whose windows share what it has fetched once."""
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-dev-shm-usage"]  # in a container it may neither, nor has it the room
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield chromium.new_context(viewport={"width": 1280, "height": 900})
        chromium.close()


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    """The page in a new window; it asks no other host for anything, and complains of nothing."""
    page = browser.new_page()
    elsewhere, complaints = [], []
    page.on(
        "request", lambda r: None if r.url.startswith((f"{address}/", "data:", "blob:")) else elsewhere.append(r.url)
    )
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.locator("#side_by_side img").first.wait_for(timeout=60_000)
    yield page
    page.close()
    assert not elsewhere
    assert not complaints


def eventually(page: Page, condition: Callable[[], object]) -> None:
    """Waits until something holds on the page."""
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, f"not within half a minute: {page.locator('.shown:visible').all_inner_texts()}"
        page.wait_for_timeout(50)


def pictures(page: Page, name: str) -> list[np.ndarray]:
    """The pictures that a part of the page shows: (H, W, 3) uint8 each."""
    found = page.locator(f"#{name} img").evaluate_all("images => images.map(image => image.src)")
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2]))).convert("RGB")) for src in found]


def tiles(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The images of a grid: (rows * columns, 28, 28) of red."""
    assert picture.shape == (30 * rows + 2, 30 * columns + 2, 3)
    return np.stack(
        [picture[30 * r + 2 : 30 * r + 30, 30 * c + 2 : 30 * c + 30, 0] for r in range(rows) for c in range(columns)]
    )


def drawn(
    folder: Path, run: str, labels: list[int], indices: list[int] | range, seed: int = 0, **settings
) -> np.ndarray:
    """What Python draws: (N, 28, 28) uint8."""
    generator = condgen.load(folder / "lightning_logs" / run, **settings)
    with torch.no_grad():
        return to_bytes(generator.generate(torch.tensor(labels), generator.draw_noise(seed, indices)))[:, 0].numpy()


def field(page: Page, label: str):
    return page.get_by_label(label, exact=True).locator("visible=true")


def choose(page: Page, run: str) -> None:
    """Chooses another run where one is chosen."""
    field(page, "Run").click()
    page.get_by_role("option", name=run).click()


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def slide(page: Page, name: str, value: float) -> None:
    page.locator(f"#{name} input[type=range]").fill(str(value))


def shows(page: Page, name: str, image: np.ndarray) -> Callable[[], bool]:
    """Whether the one picture of a part of the page is this image (28, 28)."""
    return lambda: [picture[..., 0].tolist() for picture in pictures(page, name)] == [image.tolist()]


# What a person sees.


def test_each_run_draws_the_digits_that_are_typed(page, folder):
    assert page.locator("#side_by_side b").all_inner_texts() == ["DNN", "Diffusion"]
    for run, picture in zip((DNN, DIFFUSION), pictures(page, "side_by_side"), strict=True):
        assert (tiles(picture, 1, 10) == drawn(folder, run, [2] * 10, range(10))).all()
    field(page, "Samples of each").fill("3")
    field(page, "Seed").fill("7")
    field(page, "Draw").fill("40")
    labels = [4] * 3 + [0] * 3
    eventually(page, lambda: [p.shape for p in pictures(page, "side_by_side")] == [(62, 92, 3)] * 2)
    eventually(
        page, lambda: (tiles(pictures(page, "side_by_side")[0], 2, 3) == drawn(folder, DNN, labels, range(6), 7)).all()
    )
    assert (tiles(pictures(page, "side_by_side")[1], 2, 3) == drawn(folder, DIFFUSION, labels, range(6), 7)).all()


def test_pixels_are_enlarged_by_whole_times_as_far_as_they_fit(page):
    image = page.locator("#side_by_side img").first
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    shown = image.bounding_box()
    assert shown["x"] + shown["width"] <= 1280
    assert shown["width"] % 302 == 0  # ten samples


def test_phone_shows_the_pictures_first_and_digits_of_56_pixels(page):
    page.set_viewport_size({"width": 390, "height": 844})
    image = page.locator("#side_by_side img").first
    assert image.bounding_box()["width"] / 302 * 28 >= 56  # ten samples, to which the figure scrolls
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert image.bounding_box()["y"] < field(page, "Seed").first.bounding_box()["y"]
    for tab, name in (("Morph", "morph"), ("Noise", "move"), ("Epochs", "epoch")):
        open_tab(page, tab)
        page.locator(f"#{name} img").wait_for()
        assert page.locator(f"#{name} img").bounding_box()["y"] < field(page, "Run").first.bounding_box()["y"]


LUMINANCE = """element => {
  const parts = getComputedStyle(element).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const linear = parts.map(part => part / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}"""


def test_hints_are_dark_enough_on_white(page):
    hint = page.get_by_text("in amber, below").first
    assert 1.05 / (hint.evaluate(LUMINANCE) + 0.05) >= 4.5  # of WCAG 2, level AA


def test_arrow_keys_move_between_the_tabs(page):
    page.get_by_role("tab", name="Side by side").focus()
    for key, expected in (("ArrowRight", "Morph"), ("ArrowLeft", "Side by side"), ("ArrowLeft", "Scores")):
        page.keyboard.press(key)
        focused = page.locator("[role=tab]:focus")
        eventually(page, lambda focused=focused: focused.get_attribute("aria-selected") == "true")
        assert focused.inner_text() == expected


def test_runs_are_chosen_and_sampled_in_another_way(page, folder):
    field(page, "Sampling steps").fill("2")
    field(page, "Guidance").fill("3")
    other = drawn(folder, DIFFUSION, [2] * 10, range(10), sampling_steps=2, guidance=3.0)
    assert (other != drawn(folder, DIFFUSION, [2] * 10, range(10))).any()
    eventually(page, lambda: (tiles(pictures(page, "side_by_side")[1], 1, 10) == other).all())
    assert "guidance 3 · sampling steps 2" in page.locator("#side_by_side").inner_text()
    assert (tiles(pictures(page, "side_by_side")[0], 1, 10) == drawn(folder, DNN, [2] * 10, range(10))).all()
    field(page, "Runs").press("Backspace")
    eventually(page, lambda: page.locator("#side_by_side b").all_inner_texts() == ["DNN"])


def test_each_data_set_is_spelled_with_its_own_labels(page, folder):
    field(page, "Draw").fill("cab")
    page.get_by_text("MNIST has no 'c'").first.wait_for()
    field(page, "Runs").press("Backspace")
    field(page, "Runs").press("Backspace")
    field(page, "Runs").click()
    page.get_by_role("option", name=LETTERS).click()
    cab = drawn(folder, LETTERS, np.repeat([2, 0, 1], 10).tolist(), range(30))
    eventually(page, lambda: [p.shape for p in pictures(page, "side_by_side")] == [(92, 302, 3)])
    assert (tiles(pictures(page, "side_by_side")[0], 3, 10) == cab).all()
    open_tab(page, "Morph")
    for run, label in ((LETTERS, "a"), (DIFFUSION, "0")):
        choose(page, run)
        eventually(page, lambda label=label: field(page, "Label").input_value() == label)
        eventually(page, shows(page, "morph", drawn(folder, run, [0], [0])[0]))


def test_below_a_sample_stands_the_nearest_training_image(page, mnist_root):
    page.get_by_label("Nearest training images").check()
    eventually(page, lambda: pictures(page, "side_by_side")[0].shape == (62, 302, 3))
    raw = mnist_root / "MNIST" / "raw"
    images = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28)
    twos = images[np.frombuffer((raw / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8) == 2].astype(float)
    for picture in pictures(page, "side_by_side"):
        shown = tiles(picture, 2, 10)
        for sample, found in zip(shown[:10], shown[10:], strict=True):
            assert (found == twos[((twos - sample) ** 2).sum((1, 2)).argmin()]).all()


def test_a_sample_morphs_into_another_while_the_slider_is_dragged(page, folder):
    open_tab(page, "Morph")
    field(page, "To sample").fill("5")
    choose(page, DNN)
    ends = drawn(folder, DNN, [2, 2], [0, 5])
    eventually(page, shows(page, "morph", ends[0]))
    box = page.locator("#part input[type=range]").bounding_box()
    page.mouse.move(box["x"] + 9, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    eventually(page, lambda: not shows(page, "morph", ends[0])())  # the button is still down
    page.mouse.up()
    slide(page, "part", 0.5)
    generator = condgen.load(folder / "lightning_logs" / DNN)
    noise = between(*generator.draw_noise(0, [0, 5]), torch.tensor([0.5]), "uniform")
    with torch.no_grad():
        middle = to_bytes(generator.generate(torch.tensor([2]), noise))[0, 0].numpy()
    eventually(page, shows(page, "morph", middle))
    assert (middle != ends[0]).any()
    assert (middle != ends[1]).any()
    slide(page, "part", 1)
    eventually(page, shows(page, "morph", ends[1]))
    strip = tiles(pictures(page, "whole_way")[0], 1, 11)
    assert (strip[[0, 5, 10]] == [ends[0], middle, ends[1]]).all()
    with page.expect_download() as download:
        page.locator("#moving a", has_text="WEBP").click()
    with Image.open(download.value.path()) as animation:
        assert (animation.n_frames, animation.size) == (40, (280, 280))  # there and back, each pixel ten times ten
        assert (np.asarray(animation.convert("L"))[5::10, 5::10] == ends[0]).all()
        animation.seek(20)
        assert (np.asarray(animation.convert("L"))[5::10, 5::10] == ends[1]).all()


def test_page_sends_no_requests_when_nothing_changes(page):
    open_tab(page, "Morph")
    for number in range(9):
        field(page, "To sample").fill(str(number))
    page.wait_for_timeout(1500)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(500)
    assert not requests


def test_one_coordinate_of_the_noise_is_moved(page, folder):
    open_tab(page, "Noise")
    page.locator("#move img").wait_for()
    slider = page.locator("#value input[type=range]")
    eventually(page, lambda: [slider.get_attribute(name) for name in ("min", "max")] == ["0", "1"])  # the DNN's 62
    choose(page, DIFFUSION)
    eventually(page, lambda: [slider.get_attribute(name) for name in ("min", "max")] == ["-3", "3"])
    choose(page, DNN)
    eventually(page, lambda: [slider.get_attribute(name) for name in ("min", "max")] == ["0", "1"])
    field(page, "Coordinate").fill("61")
    field(page, "Sample").fill("4")
    generator = condgen.load(folder / "lightning_logs" / DNN)
    noise = generator.draw_noise(0, [4]).repeat(11, 1)
    eventually(page, lambda: float(slider.input_value()) == pytest.approx(float(noise[0, 61]), abs=0.006))
    noise[:, 61] = torch.linspace(0, 1, 11)
    with torch.no_grad():
        span = to_bytes(generator.generate(torch.full((11,), 2), noise))[:, 0].numpy()
    eventually(page, lambda: (tiles(pictures(page, "span")[0], 1, 11) == span).all())
    slide(page, "value", 1)
    eventually(page, shows(page, "move", span[10]))


def frames_of(source: str) -> int:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).n_frames


def test_the_grids_of_all_epochs_are_on_a_slider(page, folder):
    open_tab(page, "Epochs")
    choose(page, DNN)
    slider = page.locator("#grid input[type=range]")
    eventually(page, lambda: slider.input_value() == "2")  # it opens on the last one
    eventually(page, lambda: frames_of(page.locator("#training img").get_attribute("src")) == 2)
    for number, file in ((1, "epoch=000.png"), (2, "epoch=001.png")):
        eventually(page, lambda: slider.get_attribute("max") == "2")
        slide(page, "grid", number)
        picture = np.asarray(Image.open(folder / "lightning_logs" / DNN / "samples" / file).convert("RGB"))
        eventually(page, lambda picture=picture: [p.tolist() for p in pictures(page, "epoch")] == [picture.tolist()])


def test_scores_stand_beside_those_of_real_images_and_those_that_are_missing_are_named(page, folder):
    assert "accuracy 0.125 · coverage 0.125" in page.locator("#side_by_side figure").first.inner_text()
    open_tab(page, "Scores")
    row = page.locator("#scores tr", has_text="coverage")
    eventually(page, lambda: row.all_inner_texts())
    assert row.inner_text().split() == ["coverage", "0.125", "±", "0.010", "0.938", "±", "0.020"]
    assert f"condgen test --ckpt_path lightning_logs/{DIFFUSION}" in page.locator("#scores").inner_text()


def test_what_is_seen_is_saved_as_condgen_predict_has_it(page, folder, tmp_path):
    field(page, "Samples of each").fill("4")
    field(page, "Draw").fill("31")
    eventually(page, lambda: [p.shape for p in pictures(page, "side_by_side")] == [(62, 122, 3)] * 2)
    run = folder / "lightning_logs" / DIFFUSION
    asked = ["--data.labels", "31", "--data.samples_per_label", "4", "--predictions.format", "npz"]
    assert main(["predict", "--ckpt_path", str(run), *asked, "--predictions.dirpath", str(tmp_path / "drawn")]) == 0
    saved = {}
    for kind in ("PNG", "NPZ"):
        with page.expect_download() as download:
            page.locator("#side_by_side figure", has_text="Diffusion").get_by_text(kind).click()
        saved[kind] = Path(download.value.path())
        assert download.value.suggested_filename == f"Diffusion-{DIFFUSION}-seed-0.{kind.lower()}"
    assert (np.asarray(Image.open(saved["PNG"])) == pictures(page, "side_by_side")[1]).all()
    with np.load(saved["NPZ"]) as page_has, np.load(next((tmp_path / "drawn").glob("*.npz"))) as predict_has:
        assert sorted(page_has) == sorted(predict_has) == ["images", "indices", "labels"]
        for name in page_has:
            assert page_has[name].dtype == predict_has[name].dtype
            assert np.abs(page_has[name].astype(int) - predict_has[name]).max() <= 1  # a level, of another block size
        assert page_has["images"].shape == (8, 1, 28, 28)


NONSENSE = (
    ("Draw", "20x6", "MNIST has no 'x', but 0, 1, 2"),
    ("Draw", "<img src=x onerror=alert(1)>", "MNIST has no '<'"),
    ("Draw", "2" * 21, "type at most 20"),
    ("Samples of each", "10000", "samples is 10000: give 1 to 20"),
    ("Seed", "-1", "seed is -1: give 0 to"),
    ("Sampling steps", "many", "sampling steps is 'many': give a number"),
)


def test_nonsense_is_answered_in_plain_words_and_no_picture(page):
    for label, typed, says in NONSENSE:
        right = field(page, label).input_value()
        field(page, label).fill(typed)
        page.get_by_text(says).first.wait_for()
        eventually(page, lambda: page.locator("#side_by_side img").count() == 0)
        assert page.locator("[data-testid=toast-body] img").count() == 0
        field(page, label).fill(right)
        eventually(page, lambda: page.locator("#side_by_side img").count() > 0)  # and it goes on


# What a program may ask for.


JSON = {"Content-Type": "application/json"}


def ask(address: str, what: str, *data: object) -> tuple[str, str]:
    """The event and the data with which the page's server answers."""
    url = f"{address}/gradio_api/call/{what}"
    request = urllib.request.Request(url, json.dumps({"data": data}).encode(), JSON)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request) as answer:
        event = json.load(answer)["event_id"]
    with direct.open(f"{url}/{event}", timeout=60) as answer:
        lines = answer.read().decode().split("\n")
    return lines[0].removeprefix("event: "), lines[1].removeprefix("data: ")


def test_a_program_gets_the_same_picture(address, folder):
    event, data = ask(address, "side_by_side", [DNN], "2", 2, 0, False, "", "")
    assert event == "complete"
    source = json.loads(data)[0].partition("base64,")[2].partition('"')[0]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    assert (tiles(picture, 1, 2) == drawn(folder, DNN, [2, 2], [0, 1])).all()


@pytest.mark.parametrize(
    ("what", "data", "says"),
    [
        ("side_by_side", ([DNN], "2", 10_000, 0, False, "", ""), "samples is 10000: give 1 to 20"),
        ("side_by_side", ([DNN], "2", 1.5, 0, False, "", ""), "samples is 1.5: give a whole number"),
        ("side_by_side", ([DNN], "2" * 10_000, 1, 0, False, "", ""), "too long"),
        ("side_by_side", ([DNN], None, 1, 0, False, "", ""), "text is None: give a string"),
        ("side_by_side", ([DNN], "", 1, 0, False, "", ""), "Type what to draw"),
        ("side_by_side", ([DNN], "2", None, 0, False, "", ""), "samples of each is None: give a number"),
        ("side_by_side", ([DNN] * 9, "2", 1, 0, False, "", ""), "9 runs are chosen: choose 1 to 8"),
        ("side_by_side", ([], "2", 1, 0, False, "", ""), "0 runs are chosen"),
        ("side_by_side", (DNN, "2", 1, 0, False, "", ""), "names is 'version_1': give a list of strings"),
        ("side_by_side", ([DNN], ["2"], 1, 0, False, "", ""), "text is ['2']: give a string"),
        ("side_by_side", ([DNN], "2", 1, 0, "no", "", ""), "near is 'no': give true or false"),
        ("side_by_side", ([DIFFUSION], "2", 1, 0, False, ["2"], ""), "settings is ['2']: give a number"),
        ("side_by_side", ([DIFFUSION], "2", 1, 0, False, 10**400, ""), "guidance is 1"),
        ("side_by_side", ([DIFFUSION], "2", 1, 0, False, "", 10**400), "sampling steps is 1"),
        ("side_by_side", ([DIFFUSION], "2", 1, 0, False, "1e9", ""), "guidance is 1000000000.0: give 0 to 20"),
        ("side_by_side", ([DIFFUSION], "2", 1, 0, False, "", "1e4"), "sampling steps is 10000.0: give 1 to 100"),
        ("side_by_side", ([DIFFUSION], "2" * 20, 20, 0, False, "2", "100"), "evaluations of the network"),
        ("side_by_side", (["../../etc/passwd"], "2", 1, 0, False, "", ""), "no run '../../etc/passwd' here"),
        ("morph", (0, "/etc/passwd", "2", 0, 0, 1, "", ""), "/etc/passwd"),
        ("morph", (7, DNN, "2", 0, 0, 1, "", ""), "The part of the way is 7: give 0 to 1"),
        ("morph", (0, DNN, "2", 0, -1, 1, "", ""), "sample is -1"),
        ("move", (0, DNN, "2", 0, 0, 62, "", ""), "coordinate is 62: give 0 to 61"),
        ("span", (DNN, "2", 0, 0, 10**30, "", ""), "coordinate is 1"),
        ("epoch", ("..", 1), "There is no run '..' here"),
        ("scores", (["../.."],), "There is no run"),
    ],
)  # fmt: skip
def test_a_program_is_held_to_the_same_bounds(address, what, data, says):
    event, answer = ask(address, what, *data)
    assert (event, "base64" in answer) == ("error", False)
    assert says in json.loads(answer)["error"]
    assert len(answer) < 700


@pytest.mark.parametrize("value", [{"path": "/etc/passwd"}, [{"path": "/etc/passwd"}], [1], [[DNN]], [DNN] * 999])
def test_values_of_no_input_are_refused(address, value):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(address, "scores", value)
    assert refused.value.code == 400


@pytest.mark.parametrize("path", ["/etc/passwd", f"lightning_logs/{DNN}/config.yaml", "../../etc/passwd"])
def test_no_file_is_given_away(address, folder, path):
    for file in (path, str(folder / path)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address}/gradio_api/file={file}")
        assert refused.value.code in (403, 404)


def test_the_page_answers_this_machine_only_and_its_port_is_taken(address, folder, monkeypatch, capsys):
    port = address.rpartition(":")[2]
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.2", int(port))) != 0
    monkeypatch.chdir(folder)
    assert main(["demo", "--port", port]) == 1
    assert one_line(capsys).startswith(f"condgen: The page cannot be at 127.0.0.1:{port}")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_the_page_while_it_generates(folder, signum, code):
    port = free_port()
    process = python_process(["condgen", "demo", "--port", port], folder)  # the interpreter's own end can abort
    wait_for(int(port), process)
    url = f"http://127.0.0.1:{port}/gradio_api/call/side_by_side"
    data = {"data": [[DIFFUSION] * 8, "22222", 20, 0, False, "2", "50"]}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(urllib.request.Request(url, json.dumps(data).encode(), JSON)) as answer:
        event = json.load(answer)["event_id"]
    with direct.open(f"{url}/{event}"):  # reads it, so that it is generated
        time.sleep(1)
        process.send_signal(signum)
        process.communicate(timeout=20)
    assert process.returncode == code


# Without a browser.


def one_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_without_gradio_it_says_how_to_get_it(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "condgen.demo.page", raising=False)
    assert main(["demo", "--port", free_port()]) == 1
    assert "pip install 'gradio" in one_line(capsys)


def test_runs_are_the_newest_first_or_those_that_are_given(folder, last, monkeypatch):
    assert list(find_runs([], folder)) == [DIFFUSION, DNN, LETTERS]
    runs = folder / "lightning_logs"
    best = runs / DNN / "checkpoints" / "best.ckpt"
    given = find_runs([str(runs / LETTERS), str(best), last, str(runs / LETTERS)], folder)
    assert list(given) == [str(runs / LETTERS / "checkpoints" / "last.ckpt"), f"{DNN}/best.ckpt", last]
    assert [run.family for run in given.values()] == ["DNN"] * 3


def test_a_broken_run_is_left_out_unless_it_is_asked_for(folder, tmp_path, capsys):
    shutil.copytree(folder / "lightning_logs", tmp_path / "lightning_logs")
    broken = tmp_path / "lightning_logs" / DNN
    (broken / "checkpoints" / "last.ckpt").write_bytes(b"half")
    assert list(find_runs([], tmp_path)) == [DIFFUSION, LETTERS]
    assert f"{DNN}/checkpoints/last.ckpt" in one_line(capsys)
    with pytest.raises(UsageError, match=r"last\.ckpt"):
        find_runs([str(broken)], tmp_path)


def test_training_images_that_are_not_there_are_not_downloaded(folder, tmp_path, monkeypatch):
    runs = find_runs([], folder)
    monkeypatch.setattr(runs[DNN].data, "root", tmp_path)
    with pytest.raises(UsageError, match="not on this disk"):
        Answers(runs).side_by_side([DNN], "2", 1, 0, True)
    assert not list(tmp_path.iterdir())


def test_scores_of_another_checkpoint_are_not_shown_for_this_one(folder):
    checkpoints = folder / "lightning_logs" / DNN / "checkpoints"
    run = find_runs([str(checkpoints / "best.ckpt")], folder)[f"{DNN}/best.ckpt"]
    with pytest.raises(UsageError, match=r"another checkpoint or other data: `condgen test --ckpt_path .*best.ckpt`"):
        _ = run.scores
    assert "accuracy" not in Answers({"best": run}).side_by_side(["best"], "2", 1, 0)


def test_scores_go_when_their_run_is_trained_on(folder, tmp_path):
    shutil.copytree(folder / "lightning_logs" / DNN, tmp_path / "run")
    (run,) = find_runs([str(tmp_path / "run")], tmp_path).values()
    assert "accuracy" in run.scores["scores"]
    content = torch.load(run.checkpoint, weights_only=True)
    torch.save({**content, "global_step": content["global_step"] + 1}, run.checkpoint)
    with pytest.raises(UsageError, match="another checkpoint"):
        _ = run.scores


def test_a_checkpoint_that_is_written_anew_is_loaded_anew(folder, tmp_path):
    path = tmp_path / "some.ckpt"
    shutil.copy(folder / "lightning_logs" / DNN / "checkpoints" / "last.ckpt", path)
    run = find_runs([str(path)], tmp_path)["some.ckpt"]
    first = run.generator()
    assert run.generator() is first
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {name: tensor * 2 for name, tensor in content["state_dict"].items()}
    torch.save(content, path)
    assert run.generator() is not first
