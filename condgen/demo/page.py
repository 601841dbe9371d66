"""Defines the layout of the page and connects its inputs to its outputs."""

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from starlette.middleware import Middleware

from condgen.demo.canvas import KEYS, canvas
from condgen.demo.editing import Editor
from condgen.demo.figures import alert
from condgen.demo.middleware import PageRequests
from condgen.demo.requests import (
    MAX_MIXED,
    MAX_RUNS,
    EditRequest,
    EpochsRequest,
    FilmRequest,
    MixRequest,
    MorphRequest,
    NoiseRequest,
    SamplesRequest,
    ScoresRequest,
    explain,
)  # fmt: skip
from condgen.demo.runs import Run
from condgen.demo.views import WEIGHTS, Views
from condgen.errors import UsageError

MAX_SESSIONS = 50  # Gradio keeps about 100 kB of state per session


def application(runs: dict[str, Run], host: str) -> FastAPI:
    """Creates the ASGI application for the given runs, keyed by name, to be served at ``host``."""
    page = build(runs)
    page.state_session_capacity = MAX_SESSIONS
    inputs = {number: len(function.inputs) for number, function in page.fns.items()}
    return gr.mount_gradio_app(
        FastAPI(middleware=[Middleware(PageRequests, host=host, inputs=inputs)], openapi_url=None), page, path="/",
        show_error=False, ssr_mode=False, enable_monitoring=False, footer_links=[], theme=theme(),
        css_paths=[Path(__file__).with_name("page.css")], js=Path(__file__).with_name("page.js").read_text(),
    )  # fmt: skip


def theme() -> gr.themes.Base:
    """Returns Gradio's default theme, but with system fonts and higher contrast for hints."""
    plain = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    hints = ("body_text_color_subdued", "block_info_text_color", "input_placeholder_color")
    return plain.set(**dict.fromkeys(hints, "*neutral_600"), **{f"{hint}_dark": "*neutral_300" for hint in hints})


def update(
    lock: asyncio.Lock,
    events: Sequence[Any],
    request_type: type[BaseModel],
    inputs: dict[str, Any],
    view: Callable[[Any], Any],
    *outputs: Any,
) -> None:
    """Registers an event handler that updates the given outputs.

    If the request turns out to be invalid, the error message is shown in the first HTML output and the remaining ones
    are cleared.

    Args:
        lock: Shared by all handlers so that only one request is processed at a time.
        events: The Gradio events that trigger the update.
        request_type: The pydantic model used to validate the inputs.
        inputs: The input components, keyed by request field.
        view: Computes the new output values from a request.
        *outputs: The components to update.
    """

    pictures = [output for output in outputs if "shown" in output.elem_classes]

    def compute(values: Sequence[Any]) -> Any:
        try:
            return view(request_type(**dict(zip(inputs, values, strict=True))))
        except (UsageError, ValidationError) as error:
            problem = explain(error) if isinstance(error, ValidationError) else str(error)
            texts = iter([alert(problem)])
            found = [next(texts, "") if output in pictures else gr.skip() for output in outputs]
            return found if len(found) > 1 else found[0]

    async def respond(request: gr.Request, *values: Any) -> Any:
        async with lock:  # one request at a time, in order of arrival
            if await request.request.is_disconnected():  # type: ignore[union-attr]
                raise gr.Error("The client disconnected.", print_exception=False)
            return await asyncio.to_thread(compute, values)

    gr.on(
        events, respond, list(inputs.values()), list(outputs), trigger_mode="always_last", show_progress="minimal",
        show_progress_on=pictures, preprocess=False, queue=False, api_name=view.__name__, api_visibility="private",
    )  # fmt: skip


def build(runs: dict[str, Run]) -> gr.Blocks:
    """Builds the Gradio page. ``runs`` is keyed by run name, with the newest run first."""
    views, editor, lock, newest = Views(runs), Editor(runs), asyncio.Lock(), next(iter(runs.values()))
    same_data = [name for name, run in runs.items() if run.data.full_name == newest.data.full_name][:MAX_RUNS]
    choices = [(f"{run.family} · {name}", name) for name, run in runs.items()]
    classes = list(newest.data.classes)
    label = classes[min(2, len(classes) - 1)]
    # the fewer noise dimensions there are, the more a single one changes the image
    fewest = min(runs.values(), key=lambda run: run.hyperparameters.get("latent_dim", math.inf))

    def number(value: int, title: str) -> gr.Number:
        return gr.Number(value, label=title, precision=0, min_width=110)

    def several_runs() -> dict[str, Any]:
        shown = same_data[::-1]
        return {"runs": gr.Dropdown(choices, value=shown, multiselect=True, max_choices=MAX_RUNS, label="Runs")}

    def one_run(run: Run = newest) -> dict[str, Any]:
        return {"run": gr.Dropdown(choices, value=run.name, label="Run", scale=2, min_width=220)}

    def one_label() -> dict[str, Any]:
        return {"label": gr.Dropdown(classes, value=label, label="Label", min_width=110), "seed": number(0, "Seed")}

    def settings() -> dict[str, Any]:
        def setting(name: str, title: str) -> gr.Textbox:
            exists = any(name in run.hyperparameters for run in runs.values())
            return gr.Textbox(label=title, placeholder="as trained", max_length=20, min_width=110, visible=exists)

        return {n: setting(n, n.replace("_", " ").capitalize()) for n in ("guidance", "sampling_steps")}

    def picture(name: str) -> gr.HTML:
        return gr.HTML(elem_id=name, elem_classes="shown", min_width=320)

    def changes(inputs: dict[str, Any]) -> list[Any]:
        return [component.change for component in inputs.values()]

    with gr.Blocks(title="condgen", analytics_enabled=False) as page:
        gr.HTML("<h1>condgen</h1> One label, many samples: which family varies them?", elem_id="head")

        with gr.Tab("Samples"):
            with gr.Group():
                inputs = several_runs()
                with gr.Row():
                    inputs["labels"] = gr.Textbox(label, label="Labels", min_width=110)
                    inputs |= {"samples_per_label": number(10, "Samples per label"), "seed": number(0, "Seed")}
                    inputs |= settings()
                    inputs["nearest"] = gr.Checkbox(
                        label="Nearest training images", info="in amber, below", scale=2, min_width=230
                    )
            update(lock, [page.load, *changes(inputs)], SamplesRequest, inputs, views.samples, picture("samples"))

        with gr.Tab("Morph") as tab:
            with gr.Group(), gr.Row():
                inputs = one_run() | one_label()
                inputs |= {"from_sample": number(0, "From sample"), "to_sample": number(1, "To sample")}
                inputs |= settings()
            events = [tab.select, *changes(inputs)]
            inputs["part"] = gr.Slider(0, 1, 0, step=0.01, label="Part of the way", elem_id="part")
            with gr.Row():
                image, animation = picture("interpolated"), picture("animation")
            strip = picture("strip")
            update(lock, events, MorphRequest, inputs, views.morph, inputs["label"], image, strip, animation)
            update(lock, [inputs["part"].change], MorphRequest, inputs, views.interpolated, image)

        with gr.Tab("Noise") as tab:
            with gr.Group(), gr.Row():
                inputs = one_run(fewest) | one_label()
                inputs |= {"sample": number(0, "Sample"), "coordinate": number(0, "Coordinate")} | settings()
            value = gr.Slider(-3, 3, 0, step=0.01, label="Value of the coordinate", elem_id="value")
            image, strip = picture("moved"), picture("range")
            # changing the label, guidance or number of steps keeps the slider where it is, any other change resets it
            kept = {name: inputs[name] for name in ("label", "guidance", "sampling_steps")}
            events = [tab.select, *changes({name: inputs[name] for name in inputs.keys() - kept.keys()})]
            inputs["value"] = value
            update(lock, events, NoiseRequest, inputs, views.noise, inputs["label"], value, image, strip)
            update(lock, changes(kept), NoiseRequest, inputs, views.moved_and_range, image, strip)
            update(lock, [value.change], NoiseRequest, inputs, views.moved, image)

        with gr.Tab("Mix") as tab:
            with gr.Group(), gr.Row():
                inputs = one_run()
                mix = list(dict.fromkeys((classes[0], classes[-1])))
                labels = inputs["labels"] = gr.Dropdown(
                    classes, value=mix, multiselect=True, max_choices=MAX_MIXED, label="Labels", min_width=220
                )
                kept = {"samples": number(5, "Samples"), "seed": number(0, "Seed")} | settings()
            titles = [f"Part of {name}" for name in mix] + [""] * (MAX_MIXED - len(mix))
            sliders = {
                name: gr.Slider(0, 1, 1, step=0.01, label=title, visible=bool(title), elem_id=name)
                for name, title in zip(WEIGHTS, titles, strict=True)
            }
            image, alone = picture("mixed"), picture("alone")
            # input instead of change: the event must not be triggered again when the dropdown itself is updated
            events = [inputs["run"].change, labels.input]
            inputs |= kept | sliders
            update(lock, events, MixRequest, inputs, views.mix, labels, *sliders.values(), image, alone)
            update(lock, [tab.select, *changes(kept)], MixRequest, inputs, views.mixed_and_alone, image, alone)
            update(lock, changes(sliders), MixRequest, inputs, views.mixed, image)

        with gr.Tab("Edit") as tab:
            with gr.Row():
                with gr.Column(min_width=320):
                    drawing = canvas()
                    with gr.Group():
                        gr.Radio(
                            ["Draw", "Erase", "Inpaint"],
                            value="Draw",
                            label="Brush",
                            info=KEYS,
                            interactive=True,
                            elem_id="brush",
                        )
                        gr.Slider(1, 9, 3, step=1, label="Thickness", interactive=True, elem_id="thickness")
                    again = gr.Button("Start over", size="sm")
                with gr.Column(scale=2, min_width=320):
                    with gr.Row():
                        inputs = one_run(next((run for run in runs.values() if run.family == "Diffusion"), newest))
                        inputs |= one_label()
                        inputs["start"] = gr.Dropdown(
                            ["Sample", "Test image", "Nothing"], value="Sample", label="Start with", min_width=160
                        )
                        inputs["number"] = number(0, "Number")
                    inversion, inpainting = picture("inversion"), picture("inpainting")
            inputs["drawing"] = drawing
            outputs = inputs["label"], drawing, inversion, inpainting
            starts = [again.click, inputs["start"].change]
            others = [inputs["run"].change, inputs["seed"].change]
            update(lock, [tab.select], EditRequest, inputs, editor.open, *outputs)
            update(lock, starts, EditRequest, inputs, editor.edit, *outputs)
            update(lock, others, EditRequest, inputs, editor.keep_or_edit, *outputs)
            update(lock, [inputs["label"].input], EditRequest, inputs, editor.relabel, *outputs)
            update(lock, [inputs["number"].change], EditRequest, inputs, editor.renumber, *outputs)
            update(lock, [drawing.input], EditRequest, inputs, editor.edited, inversion, inpainting)

        with gr.Tab("Film") as tab:
            with gr.Group(), gr.Row():
                inputs = one_run() | one_label() | {"samples": number(5, "Samples")} | settings()
            events = [tab.select, *changes(inputs)]
            inputs["frame"] = gr.Slider(1, 7, 7, step=1, label="Frame", elem_id="frame")
            image, animation = picture("moment"), picture("emerging")
            update(lock, events, FilmRequest, inputs, views.film, inputs["label"], inputs["frame"], image, animation)
            update(lock, [inputs["frame"].change], FilmRequest, inputs, views.frame, image)

        with gr.Tab("Epochs") as tab:
            with gr.Group():
                inputs = one_run()
            events = [tab.select, *changes(inputs)]
            inputs["grid"] = gr.Slider(1, 2, 1, step=1, label="Grid", elem_id="grid")
            image, film = picture("epoch"), picture("film")
            update(lock, events, EpochsRequest, inputs, views.epochs, inputs["grid"], image, film)
            update(lock, [inputs["grid"].change], EpochsRequest, inputs, views.epoch, image)

        with gr.Tab("Scores") as tab:
            inputs = several_runs()
            update(lock, [tab.select, *changes(inputs)], ScoresRequest, inputs, views.scores, picture("scores"))
    return page
