"""The commands by name, with what each is for in a line; one is imported when it is needed.

So `finetune --help` takes a fraction of the time that all of them take to import.
"""

from __future__ import annotations

from importlib import import_module

import click

from finetune.cli.style import choose_style
from finetune.errors import UserError
from finetune.kinds import SUMMARIES

Entry = tuple[str, str]
"""What a command is for, and where it is: "module:name"."""

GROUPS: dict[str, dict[str, Entry]] = {
    "Train": {
        **{kind: (summary, "train:training_command") for kind, summary in SUMMARIES.items()},
        "run": ("Run a recipe file.", "train:run_command"),
        "sweep": ("Try several values of some settings.", "sweep:sweep_command"),
    },
    "Prepare pictures": {
        "check": ("Find what is wrong with a folder of pictures.", "check:check_command"),
        "caption": ("Write captions for pictures that have none.", "caption:caption_command"),
        "cache": ("Look after a cache of latents and text embeddings.", "cache:cache_command"),
    },
    "Look at runs": {
        "ui": ("Open a local page to train, watch and sample in a browser.", "ui:ui_command"),
        "runs": ("List runs: state, steps, loss, size.", "runs:runs_command"),
        "report": ("Write a run, or several compared, as one page.", "report:report_command"),
        "clean": ("Remove checkpoints that are no longer needed.", "clean:clean_command"),
    },
    "Use what was trained": {
        "sample": ("Generate pictures from prompts.", "sample:sample_command"),
        "eval": ("Measure what was learned, and what was forgotten.", "evaluation:eval_command"),
        "export": ("Write what was trained in another form.", "export:export_command"),
    },
    "Look at and change LoRA files": {
        "inspect": ("Say what is in a file.", "inspect:inspect_command"),
        "resize": ("Make a LoRA file smaller.", "resize:resize_command"),
        "merge": ("Make one LoRA of several, or merge them into a model.", "merge:merge_command"),
        "extract": ("Take a LoRA out of a trained model.", "extract:extract_command"),
        "diff": ("Compare two LoRAs or two models.", "diff:diff_command"),
    },
}
_ENTRIES = {name: entry for commands in GROUPS.values() for name, entry in commands.items()}


class Commands(click.Group):
    """A group that suggests the nearest subcommand for a mistyped one, and whose own flags hold for all."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the flags before the command."""
        choose_style(args)  # before anything can be wrong with them
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of help."""
        return list(_ENTRIES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A command, imported now; None if there is none of this name."""
        if name in _ENTRIES and name not in self.commands:
            summary, place = _ENTRIES[name]
            module, _, attribute = place.partition(":")
            found = getattr(import_module(f"finetune.cli.{module}"), attribute)
            self.add_command(found(name, summary) if name in SUMMARIES else found)
        return self.commands.get(name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that arguments begin with.

        Raises:
            UserError: There is none of this name.
        """
        name, names = args[0], self.list_commands(ctx)
        if name not in names and not name.startswith("-"):
            from finetune.recipes.faults import nearest

            near = nearest(name, names)
            raise UserError(
                f"There is no command {name!r}.",
                where=f"finetune {name}",
                fix=f"Did you mean finetune {near}?" if near else f"Use one of {', '.join(names)}.",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands, group by group."""
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, (summary, _) in commands.items()])
