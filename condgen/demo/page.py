"""The page: where everything is on it, and which input asks for what."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from condgen.demo.answers import RUNS, Answers, grids
from condgen.demo.shown import Run, chosen
from condgen.errors import UsageError

ANSWER: dict[str, Any] = {  # one request at a time, and of those that wait the last; its inputs we check ourselves
    "trigger_mode": "always_last", "show_progress": "hidden", "preprocess": False,
    "concurrency_limit": 1, "concurrency_id": "drawing",
}  # fmt: skip
PREPARE: dict[str, Any] = {  # what inputs can be, at once
    "trigger_mode": "always_last", "show_progress": "hidden", "preprocess": False,
    "api_visibility": "private", "queue": False,
}  # fmt: skip


def launch(runs: dict[str, Run], host: str, port: int) -> gr.Blocks:
    """Serves the page of these runs, and returns at once."""
    page = build(runs)
    page.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False,
        enable_monitoring=False, max_file_size=1, footer_links=[], css_paths=[Path(__file__).with_name("page.css")],
        theme=gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")),
    )  # fmt: skip
    return page


def plainly(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Says on the page what is wrong with a request."""

    @functools.wraps(answer)
    def answered(*request: Any) -> Any:
        try:
            return answer(*request)
        except UsageError as error:
            said = html.escape(str(error)[:600], quote=False)  # gradio shows it as HTML
            raise gr.Error(said, title="Not drawn", duration=8, print_exception=False) from error

    return answered


def show(
    answer: Callable[..., Any], inputs: list[Any], *pictures: gr.HTML, at: list[Any], after: Dependency | None = None
) -> None:
    """Lets pictures be drawn at events, and ``after`` another has been answered; where they cannot be, none stay."""
    ask: dict[str, Any] = {"fn": plainly(answer), "inputs": inputs, "outputs": [*pictures], **ANSWER}
    asked = [gr.on(at, api_name=answer.__name__, **ask)]
    if after is not None:
        asked.append(after.then(api_visibility="private", **ask))
    for drawn in asked:
        drawn.failure(lambda: "" if len(pictures) == 1 else ("",) * len(pictures), None, [*pictures], **PREPARE)


def changes(*inputs: Any) -> list[Any]:
    return [given.change for given in inputs]


def build(runs: dict[str, Run]) -> gr.Blocks:
    """The page of runs by their names, the newest first."""
    answers, newest = Answers(runs), next(iter(runs.values()))
    alike = [run.name for run in runs.values() if run.data.full_name == newest.data.full_name][:RUNS]
    labelled = [(f"{run.family} · {name}", name) for name, run in runs.items()]
    classes = list(newest.data.classes)
    what = classes[min(2, len(classes) - 1)]

    def number(value: int, label: str) -> gr.Number:
        return gr.Number(value, label=label, precision=0, min_width=110)

    def settings() -> list[Any]:
        def setting(name: str, label: str) -> gr.Textbox:
            there = any(name in run.settings for run in runs.values())
            return gr.Textbox(label=label, placeholder="as trained", max_length=20, min_width=110, visible=there)

        return [setting("guidance", "Guidance"), setting("sampling_steps", "Sampling steps")]

    def several() -> gr.Dropdown:
        return gr.Dropdown(labelled, value=alike[::-1], multiselect=True, max_choices=RUNS, label="Runs")

    def one() -> gr.Dropdown:
        return gr.Dropdown(labelled, value=newest.name, label="Run", scale=2, min_width=220)

    def one_label() -> gr.Dropdown:
        return gr.Dropdown(classes, value=what, label="Label", min_width=110)

    def picture(name: str) -> gr.HTML:
        return gr.HTML(elem_id=name, elem_classes="shown", min_width=320)

    def labels(name: str, label: str) -> Any:
        there = list(chosen(runs, name).data.classes)
        return gr.Dropdown(there, value=label if label in there else there[0])

    with gr.Blocks(title="condgen", analytics_enabled=False) as page:
        gr.HTML(
            "<h1>condgen</h1> The same label again and again: which family draws it anew each time?", elem_id="head"
        )

        with gr.Tab("Side by side"):
            with gr.Group():
                which = several()
                with gr.Row():
                    text = gr.Textbox(what, label="Draw", min_width=110)
                    each, seed, of_family = number(10, "Samples of each"), number(0, "Seed"), settings()
                    near = gr.Checkbox(label="Nearest training images", info="in amber, below", scale=2, min_width=230)
            request = [which, text, each, seed, near, *of_family]
            show(answers.side_by_side, request, picture("side_by_side"), at=[page.load, *changes(*request)])

        with gr.Tab("Morph") as tab:
            with gr.Group():
                with gr.Row():
                    run, label, seed = one(), one_label(), number(0, "Seed")
                    first, second, of_family = number(0, "From sample"), number(1, "To sample"), settings()
                part = gr.Slider(0, 1, 0, step=0.01, label="Part of the way", elem_id="part")
            ends = [run, label, seed, first, second, *of_family]
            prepared = run.change(labels, [run, label], label, **PREPARE)
            whole_way = picture("whole_way")
            new_ends = [tab.select, *changes(*ends[1:])]
            with gr.Row():
                show(answers.morph, [part, *ends], picture("morph"), at=[*new_ends, part.change], after=prepared)
                show(answers.way, ends, whole_way, picture("moving"), at=new_ends, after=prepared)

        with gr.Tab("Noise") as tab:
            with gr.Group():
                with gr.Row():
                    run, label, seed = one(), one_label(), number(0, "Seed")
                    sample, coordinate, of_family = number(0, "Sample"), number(0, "Coordinate"), settings()
                value = gr.Slider(-3, 3, 0, step=0.01, label="Value of the coordinate", elem_id="value")

            def its_value(name: str, label: str, *which: Any) -> Any:
                try:
                    low, high, own = answers.own_value(name, *which)
                except UsageError:  # the drawing that follows says so
                    return gr.skip(), gr.skip()
                return labels(name, label), gr.Slider(low, high, own)

            at = [run, label, seed, sample, coordinate]
            prepared = gr.on(
                [tab.select, *changes(run, seed, sample, coordinate)], its_value, at, [label, value], **PREPARE
            )
            noise = [*at, *of_family]
            show(answers.span, noise, picture("span"), at=changes(label, *of_family), after=prepared)
            show(answers.move, [value, *noise], picture("move"), at=changes(value, label, *of_family), after=prepared)

        with gr.Tab("Epochs") as tab:
            with gr.Row():
                run = one()
                epoch = gr.Slider(1, 2, 1, step=1, label="Grid", scale=5, min_width=300, elem_id="grid")

            def last_grid(name: str) -> Any:
                try:
                    return gr.Slider(1, max(2, len(grids(chosen(runs, name)))))
                except UsageError:
                    return gr.skip()

            prepared = gr.on([tab.select, run.change], last_grid, run, epoch, **PREPARE)
            show(answers.epoch, [run, epoch], picture("epoch"), at=[epoch.change], after=prepared)

        with gr.Tab("Scores") as tab:
            which = several()
            show(answers.scores, [which], picture("scores"), at=[tab.select, which.change])
    return page
