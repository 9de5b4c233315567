"""The command `finetune`: its subcommands, and how errors reach the user.

Exit codes: 0 done; 2 the user's input was wrong and nothing was changed; 130 interrupted; 1 anything
else. A traceback is shown only with FINETUNE_DEBUG=1.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from types import FrameType

import click

from finetune.cli.cache import cache_command
from finetune.cli.caption import caption_command
from finetune.cli.check import check_command
from finetune.cli.clean import clean_command
from finetune.cli.diff import diff_command
from finetune.cli.export import export_command
from finetune.cli.extract import extract_command
from finetune.cli.flags import SettingsCommand
from finetune.cli.inspect import inspect_command
from finetune.cli.merge import merge_command
from finetune.cli.report import report_command
from finetune.cli.resize import resize_command
from finetune.cli.runs import runs_command
from finetune.cli.sample import sample_command
from finetune.cli.streams import in_utf8, steady_streams
from finetune.cli.terminal import quiet_libraries, tell_error
from finetune.cli.train import run_command, training_command
from finetune.cli.ui import ui_command
from finetune.errors import FinetuneError, Interrupted, UserError, of_the_system
from finetune.recipes.daily import SUMMARIES
from finetune.recipes.faults import nearest
from finetune.signals import heard_by
from finetune.version import __version__


class _Commands(click.Group):
    """A group that suggests the nearest subcommand for a mistyped one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = nearest(name, self.commands)
            raise UserError(
                f"There is no command {name!r}.",
                where=f"finetune {name}",
                fix=f"Did you mean finetune {near}?" if near else f"Use one of {', '.join(self.commands)}.",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        room = formatter.width - max(map(len, self.commands)) - 6
        for title, names in _GROUPS.items():
            rows = [(name, self.commands[name].get_short_help_str(room)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
    epilog="Every command has its own --help.",
)
@click.version_option(__version__, prog_name="finetune", message="%(prog)s %(version)s")
def cli() -> None:
    """Teach Stable Diffusion something new from a handful of pictures.

    \b
      finetune lora --instance-dir ./mycat
      finetune sample "mycat wearing a red hat" --lora runs/mycat-lora
    """  # noqa: D301 - \b is click's mark for lines to be kept


_GROUPS = {
    "Train": (*SUMMARIES, "run"),
    "Prepare pictures": ("check", "caption", "cache"),
    "Look at runs": ("ui", "runs", "report", "clean"),
    "Use what was trained": ("sample", "export"),
    "Look at and change LoRA files": ("inspect", "resize", "merge", "extract", "diff"),
}
for kind, summary in SUMMARIES.items():
    cli.add_command(training_command(kind, summary))
cli.add_command(run_command)
cli.add_command(caption_command)
cli.add_command(check_command)
cli.add_command(ui_command)
cli.add_command(runs_command)
cli.add_command(report_command)
cli.add_command(clean_command)
cli.add_command(sample_command)
cli.add_command(export_command)
cli.add_command(cache_command)
cli.add_command(inspect_command)
cli.add_command(resize_command)
cli.add_command(merge_command)
cli.add_command(extract_command)
cli.add_command(diff_command)


class _Ending:
    """Whether a signal asked this command to end.

    A library may turn the KeyboardInterrupt into an error of its own, which would look like a fault of
    the model or the file it was reading.
    """

    asked = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Interrupts what is running."""
        self.asked = True
        raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: What follows `finetune`; the process's own arguments if None.

    Returns:
        The exit code.
    """
    in_utf8(arguments)
    steady_streams()
    quiet_libraries()
    ending = _Ending()
    # During training the run handles the signals itself and writes a checkpoint first.
    with heard_by(ending.interrupt):
        return _run(arguments, ending)


def _run(arguments: Sequence[str] | None, ending: _Ending) -> int:
    try:
        # Without standalone mode click returns the code of --help and --version.
        code = cli.main(None if arguments is None else list(arguments), "finetune", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        return _fail(_as_user_error(error))
    except (KeyboardInterrupt, click.Abort):
        return _interrupted()
    except Exception as error:
        if ending.asked and not isinstance(error, Interrupted):
            return _interrupted()
        return _fail(error)


def _interrupted() -> int:
    tell_error("Interrupted. --resume continues a run from its last checkpoint, if it has one.")
    return Interrupted.exit_code


def _fail(error: Exception) -> int:
    if os.environ.get("FINETUNE_DEBUG", "0") not in {"", "0"}:
        traceback.print_exception(error)
    known = error if isinstance(error, FinetuneError) else of_the_system(error)
    if known is not None:
        tell_error(str(known))
        return known.exit_code
    tell_error(
        f"finetune failed unexpectedly: {type(error).__name__}: {error}\n"
        "  fix:   Run again with FINETUNE_DEBUG=1 and report what it prints."
    )
    return 1


def _as_user_error(error: click.UsageError) -> UserError:
    """Click's error in the form of all others: what, where, fix."""
    path = error.ctx.command_path if error.ctx else "finetune"
    fix = f"See {path} --help."
    what = error.format_message()
    if isinstance(error, click.NoSuchOption):
        what = f"There is no flag {error.option_name}."
        command = error.ctx.command if error.ctx else None
        hint = command.hint(error.option_name) if isinstance(command, SettingsCommand) else None
        near = nearest(error.option_name, error.possibilities or ())
        if hint or near:
            fix = hint or f"Did you mean {near}?"
    return UserError(what, where=path, fix=fix)
