"""The tab where a run is made: pictures, settings and the recipe's YAML, each a view of the same recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from finetune.backbones.resolve import ALIASES
from finetune.config.base import Fault
from finetune.errors import ConfigError, UserError
from finetune.kinds import SUMMARIES
from finetune.recipes.check import check
from finetune.recipes.load import RECIPES, Setting, build
from finetune.recipes.reporter import SILENT
from finetune.ui import form
from finetune.ui.defaults import preset_for
from finetune.ui.processes import start
from finetune.ui.roots import Roots
from finetune.ui.view import check_html, faults_html

KEYS = list(dict.fromkeys(key for kind in RECIPES for key in form.front(kind)))
"""The settings that have a field of their own, of all kinds of recipe."""

_MODELS = list(ALIASES)


class NewRun:
    """The tab; makes its components where it is created.

    Args:
        roots: What pictures must be in.
        draft: The recipe of the page, kept in the browser.
    """

    def __init__(self, roots: Roots, draft: Any) -> None:
        self.roots, self.draft = roots, draft
        kinds = [(f"{kind}: {summary}", kind) for kind, summary in SUMMARIES.items()]
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self.folder = gr.Dropdown(
                    self._folders(), value="", label="Folder of pictures", allow_custom_value=True,
                    info="Choose one, or type its path.", elem_id="folder",
                )  # fmt: skip
                self.kind = gr.Dropdown(kinds, value="lora", label="Recipe", elem_id="kind")
                with gr.Row(elem_id="settings"):
                    self.fields = {key: self._component(key) for key in KEYS}
                self._others()
            with gr.Column(scale=2, min_width=320):
                self.text = gr.Code(
                    form.fresh("lora"),
                    language="yaml",
                    label="The recipe as YAML",
                    interactive=True,
                    lines=12,
                    elem_id="yaml",
                )
                self.faults = gr.HTML(elem_id="faults")
                self.start = gr.Button("Start training", variant="primary", elem_id="start")
        self.sheet = gr.HTML(elem_id="sheet")
        self._connect()

    def _folders(self) -> list[tuple[str, str]]:
        return [(f"{name} ({number} pictures)", name) for name, number in self.roots.picture_folders()]

    def _component(self, key: str) -> Any:
        kind = next(kind for kind in RECIPES if key in form.front(kind))
        field = form.fields_of(kind, None)[key]
        place = {"label": field.label, "value": "", "min_width": 200, "elem_id": key.replace(".", "-")}
        if key == "model.name":
            return gr.Dropdown(_MODELS, allow_custom_value=True, **place)
        if field.choices:
            return gr.Dropdown(["", *field.choices], **place)
        return gr.Textbox(lines=1, **place)

    def _others(self) -> None:
        with gr.Accordion("All other settings", open=False, elem_id="others") as self.others:
            self.other = gr.Dropdown(
                _others("lora", None), value=None, label="Setting", info="Type to search.", elem_id="other"
            )
            self.value = gr.Dropdown(
                [], value="", label="Value", allow_custom_value=True, elem_id="value",
                info="What it means is written here once a setting is chosen.",
            )  # fmt: skip
            self.set = gr.Button("Set", elem_id="set")

    @property
    def inputs(self) -> list[Any]:
        """What `merged` takes."""
        return [self.text, self.draft, self.folder, *self.fields.values()]

    @property
    def outputs(self) -> list[Any]:
        """What `synced_with` gives."""
        return [self.text, self.draft, self.folder, *self.fields.values(), self.kind, self.faults, self.other]

    def _connect(self) -> None:
        quiet = {"show_progress": "hidden"}
        # One after the other, in the order in which they were asked for: the last answer knows all before.
        ordered = {**quiet, "concurrency_id": "recipe", "concurrency_limit": 1, "trigger_mode": "always_last"}
        for component in (self.folder, *self.fields.values()):
            # One event each: two at once would not know of each other.
            event = component.input if isinstance(component, gr.Dropdown) else component.blur
            typed = event(self._typed, self.inputs, self.outputs, **ordered)
            if component is self.folder:
                typed.then(self.look, self.text, self.sheet, show_progress="minimal")
        # Not while it is written: Gradio tells of answers that change it, too, as if somebody wrote.
        edited = self.text.blur(self._edited, [self.text, self.draft], self.outputs, **ordered)
        edited.then(self.look, self.text, self.sheet, **quiet)
        chosen = self.kind.input(self._kind, [self.kind, self.text], self.outputs, **ordered)
        chosen.then(self.look, self.text, self.sheet, **quiet)
        # What is not shown yet is not changed by an answer.
        self.others.expand(self._listed, self.text, self.other, **quiet)
        self.other.input(self._about, [self.text, self.other], self.value, **quiet)
        self.set.click(self._set, [self.text, self.other, self.value], self.outputs, **ordered)

    def when_loaded(self, draft: str) -> list[Any]:
        """The tab as a page that was just opened shows it, with what was last written there."""
        try:
            form.read(draft)
        except ConfigError:
            draft = form.fresh("lora")
        updates = self.synced_with(draft)
        updates[2]["choices"] = self._folders()
        return updates

    def synced_with(self, text: str, *more: Fault) -> list[Any]:
        """All components as a recipe's YAML has it.

        Args:
            text: YAML.
            more: Further faults to tell.
        """
        faults = [*more, *form.faults_in(text, self.roots)]
        try:
            kind, _ = form.read(text)
        except ConfigError:  # fields stay as they are until it can be read again
            untouched = [gr.skip()] * (len(self.fields) + 4)
            return [*untouched, faults_html(faults), gr.skip()]
        values = form.texts(text)
        fields = form.fields_of(kind, preset_for(values.get("model.name", "auto")))
        folder_key = f"data.{RECIPES[kind].folder_field}"
        by_key = {fault.where: fault for fault in reversed(faults)}
        front = [_update(key, fields.get(key), values, by_key.get(key), kind) for key in KEYS]
        folder = values.get(folder_key, "")
        wrong = by_key.get(folder_key)
        told = gr.update(
            value=folder,
            info=_wrong(wrong) if wrong and folder else "Choose one, or type its path.",
            elem_classes=["ft-wrong"] if wrong and folder else [],
        )
        listed = gr.update(choices=_others(kind, fields))
        return [text, text, told, *front, kind, faults_html(faults), listed]

    def merged(self, text: str, shown: str, folder: str | None, *values: str | None) -> str:
        """The recipe's YAML with what was typed into the fields since they last showed it.

        All arguments come from the browser at one moment, so that it does not matter which answers are on
        their way there.

        Args:
            text: The YAML.
            shown: The YAML when the fields were last set.
            folder: The field of the folder.
            values: The other fields.

        Raises:
            ConfigError: If the text is not a recipe.
        """
        kind, _ = form.read(text)
        own, before = f"data.{RECIPES[kind].folder_field}", form.texts(shown)
        fields = zip([own, *KEYS], (folder, *values), strict=True)
        typed = {key: (value or "").strip() for key, value in fields if (value or "") != before.get(key, "")}
        return form.changed(text, typed) if typed else text

    def _typed(self, text: str, shown: str, *values: str | None) -> list[Any]:
        try:
            updates = self.synced_with(self.merged(text, shown, *values))
        except ConfigError as error:
            return self.synced_with(text, Fault(error.what, error.where or "", error.fix))
        return _without(updates, values)

    def _edited(self, text: str, shown: str) -> list[Any]:
        if text.strip() == shown.strip():
            return [gr.skip()] * len(self.outputs)
        updates = self.synced_with(text)
        updates[0] = gr.skip()  # the cursor stays where it is
        before, after = form.texts(shown), form.texts(text)
        for key, update in zip(KEYS, updates[3:], strict=False):
            if before.get(key, "") == after.get(key, ""):
                update.pop("value", None)  # as it is, or as somebody is typing it
        return updates

    def _kind(self, kind: str, text: str) -> list[Any]:
        text, dropped = form.other_kind(text, kind)
        what = f"Left out, since {kind} has no such settings: {', '.join(dropped)}."
        return self.synced_with(text, *([Fault(what, "")] if dropped else ()))

    def _listed(self, text: str) -> Any:
        try:
            return gr.update(choices=_others(form.read(text)[0], None))
        except ConfigError:
            return gr.skip()

    def _about(self, text: str, key: str | None) -> Any:
        try:
            kind, _ = form.read(text)
        except ConfigError:
            return gr.skip()
        values = form.texts(text)
        field = form.fields_of(kind, preset_for(values.get("model.name", "auto"))).get(key or "")
        if field is None:
            return gr.skip()
        help_text = f"{field.help} Default: {field.default}." if field.default else field.help
        return gr.update(
            label=field.key, info=help_text, choices=list(field.choices), value=values.get(field.key, "")
        )

    def _set(self, text: str, key: str | None, value: str | None) -> list[Any]:
        if not key:
            return self.synced_with(text)
        try:
            updates = self.synced_with(form.changed(text, {key: (value or "").strip()}))
            updates[-1]["value"] = None  # ready for the next one
            return updates
        except ConfigError as error:
            return self.synced_with(text, Fault(error.what, key, error.fix))

    def look(self, text: str) -> str:
        """The pictures of a recipe as the model will see them, with what was found about them."""
        if form.faults_in(text, self.roots):
            return ""
        kind, given = form.read(text)
        try:
            return check_html(check(build(kind, [Setting(k, v, k) for k, v in given.items()]), SILENT))
        except UserError as error:
            return faults_html([Fault(error.what, error.where or "", error.fix)])

    def begun(self, *shown: Any) -> tuple[str | None, list[Any]]:
        """Starts the run that the tab shows.

        Returns:
            The run's folder as commands name it, None if something is wrong; and what `synced_with` gives.
        """
        text, folder, more = str(shown[0]), None, list[Fault]()
        try:
            text = self.merged(*shown)
            folder = self.roots.shown(start(text, self.roots))
        except UserError as error:
            if not form.faults_in(text, self.roots):
                more = [Fault(error.what, error.where or "", error.fix)]
        return folder, _without(self.synced_with(text, *more), shown[2:])


def _without(updates: list[Any], values: Sequence[str | None]) -> list[Any]:
    """Updates without the values that the fields have already: somebody may be typing there by now."""
    for update, value in zip(updates[2:], values, strict=False):
        if update.get("value") == (value or ""):
            del update["value"]
    return [*updates[:-1], gr.skip()]


def _others(kind: str, fields: dict[str, form.Field] | None) -> list[tuple[str, str]]:
    """The settings without a field of their own, with what they mean, to search in."""
    fields = fields or form.fields_of(kind, None)
    front = {*KEYS, f"data.{RECIPES[kind].folder_field}"}
    return [(f"{key}: {field.help}"[:140], key) for key, field in fields.items() if key not in front]


def _update(
    key: str, field: form.Field | None, values: dict[str, str], fault: Fault | None, kind: str
) -> Any:
    """A field as the kind of recipe has it; hidden if it has none."""
    if field is None or key not in form.front(kind):
        return gr.update(visible=False, value="")
    own: dict[str, Any] = {"visible": True, "value": values.get(key, ""), "label": field.label}
    own["info"] = _wrong(fault) if fault else field.help
    own["elem_classes"] = ["ft-wrong"] if fault else []
    choices = _MODELS if key == "model.name" else field.choices
    if choices:
        own["choices"] = [(f"{field.default} (default)" if field.default else "", ""),
                          *((choice, choice) for choice in choices)]  # fmt: skip
    else:
        own["placeholder"] = field.default
    return gr.update(**own)


def _wrong(fault: Fault) -> str:
    return f"⚠ {fault.what}" + (f" {fault.fix}" if fault.fix else "")
