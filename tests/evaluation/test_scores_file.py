"""``scores.json`` may come from anybody: it is validated when it is read, and printed without control characters."""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
from typing import Any

import pytest
import torch
from helpers.runs import refused
from PIL import Image

from condgen.cli.main import main
from condgen.demo.runs import find_runs
from condgen.demo.score_table import score_tables
from condgen.errors import UsageError
from condgen.evaluation.scores_file import read_scores, write_scores

SCORE = {"value": 0.5, "uncertainty": 0.01, "real": 0.9, "real_uncertainty": 0.02}
CONTENT: dict[str, Any] = {
    "generator": "DNN",
    "settings": {"latent_dim": 62, "unet_channels": [8, 16]},
    "checkpoint": {"path": "run/checkpoints/last.ckpt", "steps": 10, "epochs": 2, "training_minutes": None},
    "samples": {"number": 70, "seed": 0},
    "data": "MNIST",
    "source": "full",
    "test_images": 70,
    "evaluator": "0123",
    "versions": {"condgen": "1"},
    "scores": {
        "accuracy": SCORE,
        "coverage": {**SCORE, "per_label": {"0": 0.5, "1": None}},
        "novelty": {"value": None, "uncertainty": None, "real": None, "real_uncertainty": None},
    },
    "cost": {"parameters": 6_650_433, "training_minutes": None},
}


def with_value(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a path such as ``scores.accuracy.value``, or without the key if it is ``...``."""
    content = copy.deepcopy(content)
    *parents, name = path.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    if value is ...:
        del inner[name]
    else:
        inner[name] = value
    return content


HUGE = 10**400
DAMAGE: list[tuple[str, Any]] = [
    *[(name, ...) for name in ("data", "test_images", "scores", "cost", "scores.accuracy", "scores.coverage")],
    *[(f"scores.accuracy.{name}", ...) for name in SCORE],
    *[(f"scores.novelty.{name}", ...) for name in SCORE],
    *[(f"scores.coverage.{name}", value) for name in ("value", "real") for value in (None, "0.5", [0.5], True, -1, 2)],
    *[(f"scores.coverage.{name}", HUGE) for name in SCORE],
    *[(f"scores.coverage.{name}", float("nan")) for name in SCORE],
    *[("scores.novelty.value", value) for value in ("0.5", [0.5], {}, True, float("inf"), 1e308)],
    *[("scores.accuracy.uncertainty", value) for value in ("0.01", -0.01, [0.01], False, float("inf"))],
    *[("scores.novelty.real_uncertainty", value) for value in ("0.01", -0.01)],
    *[("scores.coverage.per_label", value) for value in ([0.5], "0.5", {"0": "0.5"}, {"0": [1]})],
    *[("scores.novelty", value) for value in (None, 0.5, "0.5", [])],
    *[("scores", value) for value in (None, {}, [], "0.5")],
    *[
        ("cost", value)
        for value in (None, [], "0.5", {"parameters": "many"}, {"parameters": [1]}, {"parameters": HUGE})
    ],
    *[
        (name, value)
        for name in ("data", "generator", "source", "evaluator")
        for value in (None, 5, [], {}, "x" * 10**6)
    ],
    *[(name, value) for name in ("samples", "checkpoint", "settings", "versions") for value in (None, 5, [], "x")],
    *[(f"samples.{name}", value) for name in ("number", "seed") for value in ("70", [], 0.5, -1, HUGE, None)],
    *[(f"checkpoint.{name}", value) for name in ("steps", "epochs") for value in ("10", [], 0.5, -1, HUGE, None)],
    *[("checkpoint.path", value) for value in (5, None, [], "x" * 10**5)],
    *[("checkpoint.training_minutes", value) for value in ("1", -1, HUGE)],
    *[("test_images", value) for value in (None, "70", -1, 0.5, HUGE, True)],
    ("settings.latent_dim", HUGE),
    ("settings.latent_dim", float("nan")),
    ("settings.latent_dim", "x" * 10**5),
    ("settings." + "x" * 10**4, 1),
    ("scores." + "x" * 10**4, SCORE),
    ("cost." + "x" * 10**4, 1),
]


def damaged_id(damage: tuple[str, Any]) -> str:
    return f"{damage[0]:.40}={damage[1]!r:.20}"


@pytest.mark.parametrize("damage", DAMAGE, ids=damaged_id)
def test_read_scores_error_names_a_file_with_an_invalid_value(damage, tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(with_value(CONTENT, *damage)))
    with pytest.raises(UsageError, match=r"scores\.json") as refusal:
        read_scores(tmp_path)
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b"\xff\xfe\0",
        b"[" * 100_000,
        b'{"scores":' * 100_000,
        b'{"a": ' * 500 + b"1" + b"}" * 500,
        json.dumps(CONTENT).replace("70", "7" * 5_000).encode(),
        json.dumps(CONTENT).encode() + b" " * 2**21,
    ],
)
def test_compare_error_names_a_file_without_valid_json_scores(content, tmp_path, capsys):
    (tmp_path / "scores.json").write_bytes(content)
    assert "scores.json" in refused(["compare", str(tmp_path), "--output", str(tmp_path / "x.png")], capsys)
    assert not (tmp_path / "x.png").exists()


def test_read_scores_accepts_a_file_without_optional_values(tmp_path):
    content = copy.deepcopy(CONTENT)
    for name in ("generator", "settings", "checkpoint"):
        del content[name]
    content["samples"] = {"number": 70, "path": "samples"}
    (tmp_path / "scores.json").write_text(json.dumps(content))
    assert read_scores(tmp_path) == content


def test_read_scores_returns_the_content_of_write_scores(tmp_path):
    about = {key: value for key, value in CONTENT.items() if key not in ("scores", "cost")}
    write_scores(tmp_path / "scores.json", CONTENT["scores"], CONTENT["cost"], about)
    assert read_scores(tmp_path) == CONTENT


def test_scores_of_a_file_with_an_undecodable_name_are_written_and_read(tmp_path):
    """On Linux, a file name is a sequence of bytes and need not be valid UTF-8."""
    about = {**CONTENT, "samples": {"number": 70, "path": os.fsdecode(b"samples\xff\n.npz")}}
    write_scores(tmp_path / "scores.json", CONTENT["scores"], CONTENT["cost"], about)
    assert read_scores(tmp_path)["samples"]["number"] == 70


@pytest.mark.timeout(20)
@pytest.mark.parametrize("command", ["compare", "plot"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "name"])
def test_compare_and_plot_refuse_a_fifo_a_folder_and_a_long_name_without_waiting(command, kind, tmp_path, capsys):
    file = tmp_path / {"compare": "scores.json", "plot": "metrics.csv"}[command]
    if kind == "name":
        assert "too long" in refused([command, "x" * 300], capsys)
        return
    os.mkfifo(file) if kind == "fifo" else file.mkdir()
    error = refused([command, str(tmp_path)], capsys)
    assert str(file) in error
    assert "not a regular file" in error


# Text from a file is not interpreted.

ESCAPES = "\x1b[31mred\x1b[0m\nnext\r\u202eback\ud800"


@pytest.mark.parametrize(
    "damage",
    [
        ("generator", ESCAPES),
        ("data", ESCAPES),
        ("source", ESCAPES),
        ("evaluator", ESCAPES),
        (f"scores.{ESCAPES}", SCORE),
        (f"cost.{ESCAPES}", 5),
        ("checkpoint.path", ESCAPES),
        (f"settings.{ESCAPES}", ESCAPES),
    ],
    ids=damaged_id,
)
def test_compare_prints_no_control_characters_of_a_scores_file(damage, tmp_path, capsys):
    for name, content in (("a", with_value(CONTENT, *damage)), ("b", CONTENT)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps(content))
    output = ["--output", str(tmp_path / "scores.png")]
    samples = ["--samples", str(tmp_path / "samples.png")]
    for arguments in (["a"], ["a", "b"], ["b", "a"], ["a", *samples]):
        words = [str(tmp_path / word) if len(word) == 1 else word for word in arguments]
        main(["compare", *words, *output])
        printed = capsys.readouterr()
        assert not {"\x1b", "\r", "\u202e", "\ud800"} & {*printed.out, *printed.err}
        assert printed.err.count("\n") <= 1


@pytest.mark.parametrize("text", ["$", r"$\frac{1}$", "a$b$c_", "_hidden", "%s {0}"])
def test_compare_does_not_parse_the_text_of_a_scores_file(text, tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(with_value(with_value(CONTENT, "generator", text), "data", text)))
    assert main(["compare", str(tmp_path), "--output", str(tmp_path / "scores.png")]) == 0
    assert Image.open(tmp_path / "scores.png").format == "PNG"


@pytest.mark.parametrize("value", [0, 1, 0.5])
@pytest.mark.parametrize("uncertainty", [0, None, 1e19])
def test_compare_accepts_extreme_scores(value, uncertainty, tmp_path):
    score = {"value": value, "uncertainty": uncertainty, "real": value, "real_uncertainty": uncertainty}
    huge = {"value": -1e19, "uncertainty": 1e19, "real": 10**19, "real_uncertainty": None}
    content = with_value(CONTENT, "scores", {"accuracy": score, "coverage": score, "novelty": huge})
    (tmp_path / "scores.json").write_text(
        json.dumps(with_value(content, "cost", {"parameters": 10**19, "minutes": -1e19}))
    )
    assert main(["compare", str(tmp_path), "--output", str(tmp_path / "scores.png")]) == 0


def test_compare_reads_a_file_of_10000_entries_quickly(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["scores"] |= {f"score {number}": SCORE for number in range(5_000)}
    content["cost"] |= {f"cost {number}": number for number in range(5_000)}
    (tmp_path / "scores.json").write_text(json.dumps(content))
    began = time.monotonic()
    assert main(["compare", str(tmp_path), "--output", str(tmp_path / "scores.png")]) == 0
    assert time.monotonic() - began < 20


# The demo page.


@pytest.fixture
def two_runs(trained, tmp_path):
    """Two runs, and the content of ``scores.json`` for the checkpoint of the first, which has it."""
    for name in ("good", "damaged"):
        shutil.copytree(trained / "lightning_logs" / "version_0", tmp_path / name)
    checkpoint = tmp_path / "good" / "checkpoints" / "last.ckpt"
    steps = torch.load(checkpoint, weights_only=True)["global_step"]
    content = with_value(CONTENT, "checkpoint", {"path": str(checkpoint), "steps": steps})
    (tmp_path / "good" / "scores.json").write_text(json.dumps(content))
    return tmp_path, content


@pytest.mark.parametrize(
    "damage", [("test_images", ...), ("scores.accuracy.real", ...), ("scores", None), ("cost", [])], ids=damaged_id
)
def test_demo_shows_the_scores_of_other_runs_if_one_file_is_damaged(damage, two_runs):
    folder, content = two_runs
    (folder / "damaged" / "scores.json").write_text(json.dumps(with_value(content, *damage)))
    runs = list(find_runs([str(folder / "good"), str(folder / "damaged")], folder).values())
    for order in (runs, runs[::-1]):
        page = score_tables(order)
        assert "0.500" in page
        assert f"{folder / 'damaged'}/scores.json" in page.replace("&#x27;", "'")
        assert page.count("<table>") == 1


def test_demo_shows_a_score_without_a_value_for_real_images(two_runs):
    folder, content = two_runs
    content = with_value(content, "scores.novelty", {**SCORE, "value": 0.25, "real": None, "real_uncertainty": None})
    (folder / "good" / "scores.json").write_text(json.dumps(content))
    page = score_tables(list(find_runs([str(folder / "good")], folder).values()))
    assert "<th>novelty</th><td>0.250" in page
