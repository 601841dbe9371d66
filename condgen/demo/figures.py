"""What the page shows, as HTML: pictures within it and to save from it, so that no file is written anywhere."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from condgen.batches import Images
from condgen.demo.shown import Run
from condgen.errors import UsageError
from condgen.evaluation.scores import cell
from condgen.generators import ConditionalGenerator
from condgen.pictures import png

CAPTION_SCORES = ("accuracy", "coverage")
FRAMES_PER_SECOND, ENLARGED = 12, 10


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def picture(content: bytes, alt: str, times: int = 3) -> str:
    """An image file, shown as many whole times its size as fit, at most ``times`` (``page.css``).

    Raises:
        UsageError: it is no whole image file.
    """
    try:
        image = Image.open(io.BytesIO(content))
    except OSError as error:
        raise UsageError(f"The picture of {alt} is damaged on the disk.") from error
    source = _data_uri(content, f"image/{(image.format or '').lower()}")
    return f'<img src="{source}" alt="{escape(alt)}" style="--w:{image.width}px;--times:{times}">'


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
    frames = [Image.open(io.BytesIO(png(image))).convert("RGB") for image in [*images, *images[1:-1].flip(0)]]
    frames = [
        frame.resize((frame.width * ENLARGED, frame.height * ENLARGED), Image.Resampling.NEAREST) for frame in frames
    ]
    content = io.BytesIO()
    frames[0].save(
        content, "WEBP", save_all=True, append_images=frames[1:], duration=1000 // FRAMES_PER_SECOND, loop=0,
        lossless=True,
    )  # fmt: skip
    return content.getvalue()


def score_tables(runs: Sequence[Run]) -> str:
    """The scores of runs: a table for all that are scored against the same images, and how the others are."""
    tables: dict[tuple[str, ...], list[tuple[Run, dict[str, Any]]]] = {}
    missing = []
    for run in runs:
        try:
            scores = run.scores
        except UsageError as error:
            missing.append(f"<li>{escape(str(error))}</li>")
        else:
            key = tuple(str(scores.get(name)) for name in ("data", "source", "judge"))
            tables.setdefault(key, []).append((run, scores))
    return "".join(map(_table, tables.values())) + (f"<ul>{''.join(missing)}</ul>" if missing else "")


def _table(scored: Sequence[tuple[Run, dict[str, Any]]]) -> str:
    floor = scored[0][1]["scores"]
    rows = []
    for name, of in floor.items():
        found = [scores["scores"].get(name, {}) for _, scores in scored]
        far = [abs(f["value"] - of["floor"]) if None not in (f.get("value"), of.get("floor")) else None for f in found]
        best = min((distance for distance in far if distance is not None), default=None)
        cells = [
            _cell(f.get("value"), f.get("uncertainty"), d is not None and d == best)
            for f, d in zip(found, far, strict=True)
        ]
        rows.append((name, [*cells, _cell(of.get("floor"), of.get("floor_uncertainty"))]))
    for name in dict.fromkeys(name for _, scores in scored for name in scores["cost"]):
        rows.append((name, [*(_cell(scores["cost"].get(name)) for _, scores in scored), "<td></td>"]))
    heads = "".join(f"<th>{escape(run.family)}<br><small>{escape(run.name)}</small></th>" for run, _ in scored)
    body = "".join(f"<tr><th>{escape(name.replace('_', ' '))}</th>{''.join(cells)}</tr>" for name, cells in rows)
    images = f"{scored[0][1]['data']}: {scored[0][1].get('test_images', 0):,} test images"
    return (
        f"<div class=table><table><caption>{escape(images)}; bold is nearest to real images</caption>"
        f"<tr><th></th>{heads}<th>real images</th></tr>{body}</table></div>"
    )


def _cell(value: Any, uncertainty: Any = None, best: bool = False) -> str:
    number = cell(value) if isinstance(value, int | None) else f"{value:,.3f}"
    error = f" <small>± {uncertainty:.3f}</small>" if uncertainty is not None else ""
    return f"<td>{'<b>' * best}{escape(number)}{'</b>' * best}{error}</td>"
