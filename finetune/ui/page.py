"""The page: its tabs, and what goes from one to another."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr

from finetune.ui.roots import Roots
from finetune.ui.tabs.data import Data
from finetune.ui.tabs.new_run import NewRun
from finetune.ui.tabs.play import Play
from finetune.ui.tabs.runs import Runs

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
"""The system's own, so that nothing is loaded from elsewhere."""


def make_page(roots: Roots) -> gr.Blocks:
    """Makes the page.

    Args:
        roots: What it may look into.
    """
    with gr.Blocks(title="finetune", analytics_enabled=False) as page:
        # Only this page reads it: what it holds is no secret, and a fixed word lets it outlive the server.
        draft = gr.BrowserState("", storage_key="finetune-recipe", secret="finetune")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("New run", id="new"):
                new = NewRun(roots, draft)
            with gr.Tab("Runs", id="runs") as runs_tab:
                runs = Runs(roots)
            with gr.Tab("Play", id="play") as play_tab:
                play = Play(roots)
            with gr.Tab("Data", id="data") as data_tab:
                data = Data(roots)

        def begun(*shown: Any) -> list[Any]:
            folder, updates = new.begun(*shown)
            if folder is None:
                return [*updates, gr.skip(), *[gr.skip()] * 5]
            return [*updates, gr.update(selected="runs"), *_with(runs.refreshed(folder, None), folder)]

        quiet = {"show_progress": "hidden"}
        new.start.click(
            begun,
            new.inputs,
            [*new.outputs, tabs, *runs.outputs],
            trigger_mode="once",
            show_progress="minimal",
        )
        page.load(new.when_loaded, draft, new.outputs, **quiet).then(new.look, new.text, new.sheet, **quiet)
        page.load(runs.refreshed, [runs.chosen, runs.seen], runs.outputs, **quiet)
        runs_tab.select(runs.refreshed, [runs.chosen, runs.seen], runs.outputs, **quiet)
        play_tab.select(play.sources, None, [play.source, play.beside], **quiet)
        data_tab.select(data.folders, None, data.folder, **quiet)
    return page


def look() -> gr.themes.Base:
    """Fonts and colors; explanations are darker than Gradio has them, to be read easily."""
    theme = gr.themes.Default(primary_hue="blue", font=_FONT)
    return theme.set(body_text_color_subdued="*neutral_600", block_info_text_color="*neutral_600")


def style() -> str:
    """The page's own style."""
    return (files("finetune.ui") / "templates" / "ui.css").read_text(encoding="utf-8")


def _with(updates: list[Any], chosen: str) -> list[Any]:
    """The updates of the runs, this one chosen."""
    if "value" not in updates[0]:
        updates[0] = gr.update(value=chosen)
    return updates
