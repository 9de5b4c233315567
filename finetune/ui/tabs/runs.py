"""The tab where runs are watched, stopped and resumed; all of it is read from their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from finetune.errors import UserError
from finetune.recipes.place import in_use
from finetune.ui.processes import Started, resume, starting, stop
from finetune.ui.roots import Roots
from finetune.ui.view import fingerprint, run_html
from finetune.watching.seen import RECIPE, look

_EVERY = 2.0  # seconds
_NONE = '<p class="ft-soft">There are no runs yet. Start one in the tab New run.</p>'


class Runs:
    """The tab; makes its components where it is created.

    Args:
        roots: Where runs are.
    """

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        with gr.Row(equal_height=True):
            self.chosen = gr.Dropdown([], value=None, label="Run", scale=4, min_width=240, elem_id="run")
            self.stop = gr.Button(
                "Stop after a checkpoint", scale=1, min_width=120, interactive=False, elem_id="stop"
            )
            self.resume = gr.Button("Resume", scale=1, min_width=120, interactive=False, elem_id="resume")
        self.view = gr.HTML(_NONE, elem_id="view")
        self.seen = gr.State(None)
        self.timer = gr.Timer(_EVERY)
        inputs = [self.chosen, self.seen]
        quiet = {"show_progress": "hidden"}
        self.timer.tick(self.refreshed, inputs, self.outputs, trigger_mode="once", **quiet)
        self.chosen.input(self.refreshed, inputs, self.outputs, **quiet)
        self.stop.click(self._stop, self.chosen, self.outputs, **quiet)
        self.resume.click(self._resume, self.chosen, self.outputs, **quiet)

    @property
    def outputs(self) -> list[Any]:
        """What `refreshed` gives."""
        return [self.chosen, self.view, self.stop, self.resume, self.seen]

    def choices(self) -> list[tuple[str, str]]:
        """Label and path of all runs, the latest first."""
        begun = [(run.record.stat().st_mtime, run.folder) for run in starting(self.roots)]
        begun += [((path / RECIPE).stat().st_mtime, path) for path in self.roots.runs()]
        found = [(path, self.roots.shown(path)) for _, path in sorted(begun, reverse=True)]
        return [(f"{name} – running" if _active(path) else name, name) for path, name in found]

    def refreshed(self, chosen: str | None, seen: Any) -> list[Any]:
        """The tab as the folders are now; what has not changed stays untouched.

        Args:
            chosen: The run that is shown; the latest if there is none.
            seen: What it was like when the page last showed it.
        """
        choices = self.choices()
        chosen = chosen or (choices[0][1] if choices else None)
        if chosen is None:
            return [gr.skip()] * 5
        try:
            folder = self.roots.inside(chosen, "run")
            now = (choices, *fingerprint(folder))
            if seen == now:
                return [gr.skip()] * 5
            listed = gr.skip() if seen and seen[:2] == now[:2] else gr.update(choices=choices, value=chosen)
            return [listed, run_html(folder), *_buttons(folder), now]
        except UserError as error:
            gr.Warning(str(error))
            return [gr.skip()] * 5

    def _stop(self, chosen: str | None) -> list[Any]:
        try:
            if chosen:
                stop(Path(chosen), self.roots)
                gr.Info("The run finishes its step, writes a checkpoint and ends.")
        except UserError as error:
            gr.Warning(str(error))
        return self.refreshed(chosen, None)

    def _resume(self, chosen: str | None) -> list[Any]:
        try:
            if chosen:
                resume(Path(chosen), self.roots)
        except UserError as error:
            gr.Warning(str(error))
        return self.refreshed(chosen, None)


def _active(folder: Path) -> bool:
    return in_use(folder) is not None if folder.is_dir() else Started(folder).process() is not None


def _buttons(folder: Path) -> list[Any]:
    """Whether the run can be stopped, and resumed."""
    active = _active(folder) or Started(folder).process() is not None
    try:
        unfinished = look(folder).state in ("interrupted", "failed")
    except UserError:
        unfinished = False
    return [gr.update(interactive=active), gr.update(interactive=unfinished and not active)]
