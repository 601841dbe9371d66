"""What the page shows, as HTML: pictures within it and to save from it, so that no file is written anywhere."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from condgen.checkpoints.find import run_of
from condgen.data.loader import Images
from condgen.demo.shown import Run
from condgen.errors import UsageError
from condgen.evaluation.report import basis
from condgen.evaluation.scores import cell
from condgen.files.images import png
from condgen.files.reading import read_limited
from condgen.generators import ConditionalGenerator

CAPTION_SCORES = ("accuracy", "coverage")
FRAMES_PER_SECOND, ENLARGED = 12, 10
PNG_BYTES, PNG_PIXELS = 10_000_000, 25_000_000  # of a file that a training left, at most


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def picture(content: bytes, alt: str, times: int = 3) -> str:
    """A PNG or WebP file, shown as many whole times its size as fit, at most ``times`` (``page.css``)."""
    with Image.open(io.BytesIO(content), formats=("PNG", "WEBP")) as image:
        source = _data_uri(content, f"image/{(image.format or '').lower()}")
        return f'<img src="{source}" alt="{escape(alt)}" style="--w:{image.width}px;--times:{times}">'


def read_png(path: Path) -> bytes:
    """The content of a PNG file.

    Raises:
        UsageError: it cannot be read, is damaged, or is too large.
    """
    try:
        content = read_limited(path, PNG_BYTES)
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.width * image.height > PNG_PIXELS:
                raise OSError(f"larger than {PNG_PIXELS:,} pixels")
            image.load()
    except Exception as error:  # Pillow raises errors of many classes for damaged data
        raise UsageError(f"{path} cannot be shown ({error}): remove it, or restore it from a backup.") from error
    return content


def saving(name: str, content: bytes) -> str:
    """A link that saves a file under its name."""
    uri = _data_uri(content, "application/octet-stream")
    return f'<a download="{escape(name.replace("/", "-"))}" href="{uri}">{name.rpartition(".")[2].upper()}</a>'


def figure(image: str, title: str, lines: Sequence[str] = (), links: Sequence[str] = (), wide: bool = False) -> str:
    """A picture with a caption beside it, or below where it is ``wide``.

    Args:
        image: HTML.
        title: any text, as are ``lines``.
        lines: below the title.
        links: HTML; behind the last line.
        wide: whether the picture has all of the width.
    """
    said = [escape(line) for line in lines if line]
    if links:
        said.append(f"save {' '.join(links)}")
    texts = "".join(f"<span>{line}</span>" for line in said)
    return f"<figure{' class=wide' * wide}>{image}<figcaption><b>{escape(title)}</b>{texts}</figcaption></figure>"


def caption(run: Run, generator: ConditionalGenerator) -> list[str]:
    """The run, its settings where they can be chosen, and its scores where it has some with these settings."""
    settings = {name: getattr(generator, name) for name in ("guidance", "sampling_steps") if name in run.settings}
    said = [f"{run.name} · {run.data.full_name}"]
    if settings:
        said.append(" · ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items()))
    try:
        found = run.scores
    except UsageError:
        return said
    if any((found.get("settings") or {}).get(name) != value for name, value in settings.items()):
        return said
    values = {name: found["scores"].get(name, {}).get("value") for name in CAPTION_SCORES}
    return [*said, " · ".join(f"{name} {value:.3f}" for name, value in values.items() if value is not None)]


def npz(samples: Images) -> bytes:
    """The arrays of ``condgen predict --predictions.format npz``: images, labels, indices."""
    content = io.BytesIO()
    np.savez_compressed(
        content, images=samples.images.numpy(), labels=samples.labels.numpy(), indices=np.arange(len(samples))
    )
    return content.getvalue()


def animation(images: Tensor) -> bytes:
    """Images (N, C, H, W) uint8, there and back without end: an enlarged, lossless WebP file."""
    large = images.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
    frames = [Image.open(io.BytesIO(png(image))).convert("RGB") for image in [*large, *large[1:-1].flip(0)]]
    content, pace = io.BytesIO(), 1000 // FRAMES_PER_SECOND
    frames[0].save(content, "WEBP", save_all=True, append_images=frames[1:], duration=pace, loop=0, lossless=True)
    return content.getvalue()


def film(pictures: Sequence[bytes]) -> bytes:
    """PNG files of one size, one after the other without end: a lossless WebP file. The last stays for longer."""
    frames = [Image.open(io.BytesIO(content)).convert("RGB") for content in pictures]
    content, paces = io.BytesIO(), [500] * (len(frames) - 1) + [2000]
    frames[0].save(content, "WEBP", save_all=True, append_images=frames[1:], duration=paces, loop=0, lossless=True)
    return content.getvalue()


def score_tables(runs: Sequence[Run]) -> str:
    """The scores of runs: a table for all that are scored against the same images, and which runs have none."""
    tables: dict[tuple[str, ...], list[tuple[Run, dict[str, Any]]]] = {}
    missing, wrong = list[Run](), list[str]()
    for run in runs:
        try:
            scores = run.scores
        except UsageError as error:
            if run_of(run.checkpoint) and not (run.folder / "scores.json").exists():
                missing.append(run)
            else:
                wrong.append(f"<p>{escape(str(error))}</p>")
        else:
            tables.setdefault(basis(scores), []).append((run, scores))
    if missing:
        names = escape(", ".join(run.name for run in missing))
        one = escape(str(missing[0].folder)) if len(missing) == 1 else "RUN"
        wrong.append(f"<p>Not scored yet: {names}. `condgen test --ckpt_path {one}` scores a run.</p>")
    return "".join([*map(_table, tables.values()), *wrong])


def _table(scored: Sequence[tuple[Run, dict[str, Any]]]) -> str:
    _, first = scored[0]
    heads = "".join(f"<th>{escape(run.family)}<br><small>{escape(run.name)}</small></th>" for run, _ in scored)
    rows = [f"<tr><th></th>{heads}<th>real images</th></tr>"]
    for name, real in first["scores"].items():
        found = [scores["scores"].get(name, {}) for _, scores in scored]
        far = [
            math.inf if None in (of.get("value"), real["floor"]) else abs(of["value"] - real["floor"]) for of in found
        ]
        best = [distance == min(far) < math.inf for distance in far]
        cells = [_cell(of.get("value"), of.get("uncertainty"), b) for of, b in zip(found, best, strict=True)]
        cells.append(_cell(real["floor"], real["floor_uncertainty"]))
        rows.append(f"<tr><th>{escape(name.replace('_', ' '))}</th>{''.join(cells)}</tr>")
    for name in first["cost"]:
        cells = [_cell(scores["cost"].get(name)) for _, scores in scored]
        rows.append(f"<tr><th>{escape(name.replace('_', ' '))}</th>{''.join(cells)}<td></td></tr>")
    title = f"{first['test_images']:,} test images of {first['data']}; the nearest to real images is bold"
    return f"<p>{escape(title)}</p><div class=table><table>{''.join(rows)}</table></div>"


def _cell(value: float | None, uncertainty: float | None = None, best: bool = False) -> str:
    number = f"{value:,.3f}" if isinstance(value, float) else cell(value)
    error = f" <small>± {uncertainty:.3f}</small>" if uncertainty is not None else ""
    return f"<td>{'<b>' * best}{escape(number)}{'</b>' * best}{error}</td>"
