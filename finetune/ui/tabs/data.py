"""The tab where a folder's pictures are looked at and their captions changed."""

from __future__ import annotations

import tempfile
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from finetune.config.base import Fault
from finetune.data.decode import quiet_pillow
from finetune.data.folder import Picture
from finetune.errors import UserError
from finetune.files import whole_file
from finetune.recipes.check import check
from finetune.recipes.load import RECIPES, Setting, build
from finetune.recipes.reporter import SILENT
from finetune.ui.captions import save_caption, written_caption
from finetune.ui.roots import Roots
from finetune.ui.view import check_html, faults_html

_MOST = 300  # pictures that can be chosen
_SIDE = 256  # pixels


class Data:
    """The tab; makes its components where it is created.

    Args:
        roots: What folders must be in.
    """

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        self._aside = tempfile.TemporaryDirectory(prefix="finetune-ui-", ignore_cleanup_errors=True)
        with gr.Row(equal_height=True):
            self.folder = gr.Dropdown(
                [],
                value="",
                label="Folder of pictures",
                allow_custom_value=True,
                scale=4,
                elem_id="data-folder",
            )
            self.look = gr.Button("Look", variant="primary", scale=1, min_width=100, elem_id="look")
        self.message = gr.HTML(elem_id="data-message")
        with gr.Row(equal_height=False, visible=False) as self.parts:
            with gr.Column(scale=3, min_width=320):
                self.gallery = gr.Gallery(
                    label="Choose a picture", columns=4, allow_preview=False, height="auto", elem_id="gallery"
                )
            with gr.Column(scale=2, min_width=300):
                self.caption = gr.Textbox(
                    label="Caption",
                    lines=4,
                    interactive=False,
                    elem_id="caption",
                    info="What is written beside the picture. Without any, the recipe's prompt or the "
                    "folder's name stands for it.",
                )
                self.save = gr.Button("Save caption", interactive=False, elem_id="save")
        self.findings = gr.HTML(elem_id="findings")
        self.pictures, self.number = gr.State([]), gr.State(None)
        shown = [self.message, self.parts, self.gallery, self.findings, self.pictures]
        chosen = [self.number, self.caption, self.save]
        for event in (self.look.click, self.folder.input):
            event(self._looked, self.folder, [*shown, *chosen])
        self.gallery.select(self._chosen, self.pictures, [*chosen, self.message], show_progress="hidden")
        self.save.click(self._saved, [self.folder, self.pictures, self.number, self.caption], shown)

    def folders(self) -> Any:
        """The folders to choose from, now."""
        found = self.roots.picture_folders()
        return gr.update(choices=[(f"{name} ({number} pictures)", name) for name, number in found])

    def _looked(self, folder: str | None) -> list[Any]:
        nothing = [None, gr.update(value="", interactive=False), gr.update(interactive=False)]
        return [*self._shown(folder), *nothing]

    def _shown(self, folder: str | None, message: str = "") -> list[Any]:
        """The message, and a folder's pictures and findings."""
        try:
            if not folder:
                raise UserError("No folder is chosen.", fix="Choose one, or type its path.")
            place = self.roots.inside(folder, "folder")
            given = Setting(f"data.{RECIPES['lora'].folder_field}", str(place), folder)
            report = check(build("lora", [given]), SILENT)
        except UserError as error:
            return [_told(error), gr.update(visible=False), None, "", []]
        pictures = [] if report.data is None else list(report.data.folder.pictures[:_MOST])
        images = [(str(self._small(picture)), picture.caption) for picture in pictures]
        return [message, gr.update(visible=bool(pictures)), images, check_html(report), pictures]

    def _small(self, picture: Picture) -> Path:
        """A small copy of a picture; made once, since one that is being sent must not be written again."""
        path = Path(self._aside.name) / f"{picture.content.replace(' ', '-')}.webp"
        if not path.exists():
            with quiet_pillow(), picture.opened() as image, whole_file(path) as aside:
                image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
                image.save(aside, format="WEBP", quality=90)
        return path

    def _chosen(self, pictures: list[Picture], event: gr.SelectData) -> list[Any]:
        number = int(event.index)
        field: dict[str, Any] = {"label": f"Caption of {pictures[number].name}"}
        try:
            text, message, able = written_caption(pictures[number]), "", True
        except UserError as error:
            text, message, able = pictures[number].caption, _told(error), False
        return [
            number,
            gr.update(value=text, interactive=able, **field),
            gr.update(interactive=able),
            message,
        ]

    def _saved(self, folder: str, pictures: list[Picture], number: int | None, text: str) -> list[Any]:
        if number is None:
            return [gr.skip()] * 5
        try:
            file = save_caption(pictures[number], text, self.roots)
        except UserError as error:
            return [_told(error), *[gr.skip()] * 4]
        return self._shown(folder, f'<p class="ft-soft">Saved {escape(self.roots.shown(file))}.</p>')


def _told(error: UserError) -> str:
    return faults_html([Fault(error.what, error.where or "", error.fix)])
