"""The page: where everything is on it, and which input asks for what."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.events import Dependency
from starlette.middleware import Middleware

from condgen.demo.answers import RUNS, Answers, check_types, grids
from condgen.demo.middleware import PageRequests
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


WAITING = 20  # requests; gradio tells the client of another one that the page is busy
SESSIONS = 50  # whose state gradio keeps, 100 kB each


def application(runs: dict[str, Run], host: str) -> FastAPI:
    """The page of these runs as an ASGI application."""
    page = build(runs)
    page.queue(max_size=WAITING, api_open=False)
    page.state_session_capacity = SESSIONS
    functions = {number: function for number, function in page.fns.items() if function.fn}
    middleware = [Middleware(PageRequests, host=host, functions=functions)]
    return gr.mount_gradio_app(
        FastAPI(middleware=middleware, openapi_url=None), page, path="/", show_error=False, ssr_mode=False,
        enable_monitoring=False, footer_links=[], css_paths=[Path(__file__).with_name("page.css")],
        js=Path(__file__).with_name("page.js").read_text(), theme=theme(),
    )  # fmt: skip


def theme() -> gr.themes.Base:
    """Gradio's theme with fonts of the machine, and with hints that are dark enough to read."""
    plain = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    hints = ("body_text_color_subdued", "block_info_text_color", "input_placeholder_color")
    return plain.set(**dict.fromkeys(hints, "*neutral_600"), **{f"{hint}_dark": "*neutral_300" for hint in hints})


def plainly(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Answers a request whose client waits for the answer, and shows on the page what is wrong with it."""

    def answered(request: gr.Request, *values: Any) -> Any:
        if not request.state.is_read(request.session_hash):
            raise gr.Error("Nobody waits for the answer.", print_exception=False)
        try:
            check_types(answer, values)
            return answer(*values)
        except UsageError as error:
            said = html.escape(str(error)[:600], quote=False)  # gradio shows it as HTML
            raise gr.Error(said, title="Not drawn", duration=8, print_exception=False) from error

    return answered


def quietly(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Leaves the inputs as they are if something is wrong with a request: the answer that follows says what."""

    def prepared(*values: Any) -> Any:
        try:
            check_types(prepare, values)
            return prepare(*values)
        except UsageError:
            return gr.skip()

    prepared.__name__ = prepare.__name__  # gradio's name of it
    return prepared


def show(
    answer: Callable[..., Any], inputs: list[Any], *pictures: gr.HTML, at: Sequence[Any] = (), after: Sequence[Any] = ()
) -> None:
    """Updates pictures at events and ``after`` other answers; removes them if there is an error."""
    ask: dict[str, Any] = {"fn": plainly(answer), "inputs": inputs, "outputs": [*pictures], **ANSWER}
    api: dict[str, Any] = {"api_name": answer.__name__}
    for on in [functools.partial(gr.on, at)] * bool(at) + [event.then for event in after]:
        drawn = on(**ask, **api)
        drawn.failure(lambda: "" if len(pictures) == 1 else ("",) * len(pictures), None, [*pictures], **PREPARE)
        api = {"api_visibility": "private"}  # the same answer


def first_of_several(*triggers: Any) -> Dependency:
    """Does nothing at events, so that several answers can follow.

    Gradio repeats the event of an answer that had to wait, with all answers to this event. Two of them would repeat
    each other forever.
    """
    return gr.on(triggers, None, js="() => []", trigger_mode="multiple", show_progress="hidden", queue=False)


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

    def one(run: Run = newest) -> gr.Dropdown:
        return gr.Dropdown(labelled, value=run.name, label="Run", scale=2, min_width=220)

    def one_label() -> gr.Dropdown:
        return gr.Dropdown(classes, value=what, label="Label", min_width=110)

    def picture(name: str) -> gr.HTML:
        return gr.HTML(elem_id=name, elem_classes="shown", min_width=320)

    def labels(name: str, label: str | None) -> Any:
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
            prepared = run.change(quietly(labels), [run, label], label, **PREPARE)
            whole_way = picture("whole_way")
            new_ends = [prepared, first_of_several(tab.select, *changes(*ends[1:]))]
            with gr.Row():
                show(answers.morph, [part, *ends], picture("morph"), at=[part.change], after=new_ends)
                show(answers.way, ends, whole_way, picture("moving"), after=new_ends)

        with gr.Tab("Noise") as tab:
            # the run with the fewest numbers of noise: there, a single one matters most
            fewest = min(runs.values(), key=lambda run: run.settings.get("latent_dim", math.inf))
            with gr.Group():
                with gr.Row():
                    run, label, seed = one(fewest), one_label(), number(0, "Seed")
                    sample, coordinate, of_family = number(0, "Sample"), number(0, "Coordinate"), settings()
                value = gr.Slider(-3, 3, 0, step=0.01, label="Value of the coordinate", elem_id="value")

            def its_value(name: str, label: str | None, seed: float, sample: float, coordinate: float) -> Any:
                low, high, own = answers.own_value(name, seed, sample, coordinate)
                return labels(name, label), gr.Slider(low, high, own)

            at = [run, label, seed, sample, coordinate]
            prepared = gr.on(
                [tab.select, *changes(run, seed, sample, coordinate)], quietly(its_value), at, [label, value], **PREPARE
            )
            noise = [*at, *of_family]
            new_noise = [prepared, first_of_several(*changes(label, *of_family))]
            show(answers.span, noise, picture("span"), after=new_noise)
            show(answers.move, [value, *noise], picture("move"), at=[value.change], after=new_noise)

        with gr.Tab("Epochs") as tab:
            with gr.Row():
                run = one()
                epoch = gr.Slider(1, 2, 1, step=1, label="Grid", scale=5, min_width=300, elem_id="grid")

            def last_grid(name: str) -> Any:
                number = len(grids(chosen(runs, name)))
                return gr.Slider(1, max(2, number), number)

            prepared = gr.on([tab.select, run.change], quietly(last_grid), run, epoch, **PREPARE)
            show(answers.epoch, [run, epoch], picture("epoch"), at=[epoch.change], after=[prepared])
            show(answers.training, [run], picture("training"), after=[prepared])

        with gr.Tab("Scores") as tab:
            which = several()
            show(answers.scores, [which], picture("scores"), at=[tab.select, which.change])
    return page
