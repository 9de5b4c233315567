"""The tab where pictures are made with what was trained, two results side by side if wanted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import gradio as gr

from finetune.config.base import Fault
from finetune.errors import UserError
from finetune.sampling.settings import SamplingSection
from finetune.ui.form import describe
from finetune.ui.roots import Roots
from finetune.ui.sampling import Wanted, done, export_command, new_folder, sample_command, sources, usual
from finetune.ui.view import faults_html

_ALONE = ("The model alone", "")
_NOBODY = ("Nothing", "-")
_FLAGS = ("negative", "steps", "guidance", "scheduler", "seed", "num", "size")
_SLIDERS = {"steps": (1, 100, 1), "guidance": (0, 20, 0.5)}  # what is usual; the flags take more
_VARIED = ["", "lora.weight", *(f"sampling.{name}" for name in ("guidance", "steps", "seed", "scheduler")),
           "prompt"]  # fmt: skip


class Play:
    """The tab; makes its components where it is created.

    Args:
        roots: Where results are.
    """

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                self.prompt = gr.Textbox(label="Prompt", lines=2, elem_id="prompt")
                self.source = gr.Dropdown(
                    [_ALONE], value="", label="Made with", allow_custom_value=True, elem_id="source",
                    info="A run, one of its checkpoints, or the path of a file.",
                )  # fmt: skip
                self.beside = gr.Dropdown(
                    [_NOBODY], value="-", label="Beside it", allow_custom_value=True, elem_id="beside",
                    info="The same prompt, seed and settings with something else.",
                )  # fmt: skip
                self.weight = gr.Slider(-1, 2, 1, step=0.05, label="Weight of the LoRA", elem_id="weight")
                self.settings = {name: _component(name) for name in ("steps", "guidance", "seed", "num")}
                with gr.Accordion("More", open=False):
                    self.model = gr.Textbox(
                        label="Model", placeholder="the one that it was made for", info=describe("model.name")
                    )
                    self.settings |= {name: _component(name) for name in ("negative", "scheduler", "size")}
                    self.grids = [_grid("Vary across"), _grid("Vary downwards")]
                    self.control = gr.Image(label="Control picture, for a ControlNet", type="filepath")
                self.go = gr.Button("Make pictures", variant="primary", elem_id="go")
                self.faults = gr.HTML(elem_id="play-faults")
            with gr.Column(scale=2, min_width=320):
                self.status = gr.Textbox(label="What is run", lines=2, interactive=False, elem_id="status")
                self.first = gr.Gallery(
                    label="Pictures",
                    columns=2,
                    format="png",
                    elem_id="pictures",
                    height=420,
                    object_fit="contain",
                )
                self.second = gr.Gallery(
                    label="Beside",
                    columns=2,
                    format="png",
                    elem_id="pictures-beside",
                    visible=False,
                    height=420,
                    object_fit="contain",
                )
        grids = [part for grid in self.grids for part in grid]
        inputs = [self.prompt, self.source, self.beside, self.weight, self.model, self.control, *grids,
                  *self.settings.values()]  # fmt: skip
        outputs = [self.status, self.faults, self.first, self.second]
        self.go.click(self.made, inputs, outputs, concurrency_limit=1, trigger_mode="once")
        self.source.input(
            self._usual,
            self.source,
            [self.settings["steps"], self.settings["guidance"]],
            show_progress="hidden",
        )

    def sources(self) -> list[Any]:
        """What there is to sample with, now: for `source` and `beside`."""
        found = sources(self.roots)
        return [gr.update(choices=[_ALONE, *found]), gr.update(choices=[_NOBODY, _ALONE, *found])]

    def _usual(self, source: str) -> list[Any]:
        steps, guidance = usual(source, self.roots) or (None, None)
        return [gr.skip() if steps is None else steps, gr.skip() if guidance is None else guidance]

    def made(self, prompt: str, source: str, beside: str, weight: float, *rest: Any) -> Iterator[list[Any]]:
        """Runs `finetune sample`, for both sources one after the other.

        Yields:
            Status, faults, the pictures, and those beside them.
        """
        model, control, *more = rest
        grids, values = more[:4], more[4:]
        given = dict(zip(self.settings, values, strict=True))
        flags = tuple((f"--{name}", _text(given[name])) for name in _FLAGS if _text(given[name]))
        varied = tuple(f"{key}={text}" for key, text in (grids[:2], grids[2:]) if key and text)
        both = [source, beside] if beside not in ("-", None) else [source]
        shown: list[Any] = [gr.skip(), gr.update(visible=len(both) > 1, value=None)]
        yield ["", "", None, shown[1]]
        try:
            if not (prompt or "").strip():
                raise UserError("There is no prompt.", fix="Write what the picture is to show.")
            for number, one in enumerate(both):
                wanted = Wanted(
                    prompt.strip(), one or "", weight, (model or "").strip(), flags, varied, control
                )
                for line in self._run(wanted):
                    if isinstance(line, str):
                        yield [line, "", *shown]
                    else:
                        shown[number] = gr.update(value=line, label=one or _ALONE[0], visible=True)
                        yield [gr.skip(), "", *shown]
        except UserError as error:
            yield ["", faults_html([Fault(error.what, error.where or "", error.fix)]), *shown]

    def _run(self, wanted: Wanted) -> Iterator[str | list[str]]:
        made = None
        if export := export_command(wanted, self.roots):
            arguments, made = export
            if not made.exists():
                for line in done(arguments, self.roots):
                    yield f"$ finetune {shlex.join(arguments)}\n{line}"
        arguments = sample_command(wanted, self.roots, made)
        folder = new_folder(self.roots)
        arguments[1:1] = ["--output-dir", self.roots.shown(folder)]
        for line in done(arguments, self.roots):
            yield f"$ finetune {shlex.join(arguments)}\n{line}"
        pictures = sorted(folder.glob("*.png"))
        sheets = [path for path in pictures if path.name.startswith("grid")]
        yield f"$ finetune {shlex.join(arguments)}\nThe pictures are in {self.roots.shown(folder)}."
        shown = sheets if wanted.grids and sheets else [path for path in pictures if path not in sheets]
        yield [str(path) for path in shown]


def _component(name: str) -> Any:
    field = SamplingSection.model_fields[name]
    text, label, place = describe(f"sampling.{name}"), name.capitalize(), f"play-{name}"
    if name in _SLIDERS:
        low, high, step = _SLIDERS[name]
        return gr.Slider(low, high, field.default, step=step, label=label, info=text, elem_id=place)
    if name in ("seed", "num"):
        return gr.Number(field.default, precision=0, label=label, info=text, elem_id=place)
    if name == "scheduler":
        from finetune.config.samplers import SAMPLERS

        return gr.Dropdown(list(SAMPLERS), value=field.default, label=label, info=text, elem_id=place)
    return gr.Textbox(label=label, info=text, elem_id=place)


def _grid(label: str) -> list[Any]:
    with gr.Row():
        key = gr.Dropdown(_VARIED, value="", label=label, min_width=130)
        return [key, gr.Textbox(label="Values", placeholder="0.5,0.8,1", min_width=130)]


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value).strip()
