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

from finetune.cli.commands import Commands
from finetune.cli.streams import in_utf8, steady_streams
from finetune.cli.style import STYLES, choose_style
from finetune.cli.terminal import exit_code, quiet_libraries, tell_failure
from finetune.errors import FinetuneError, Interrupted, UserError, of_the_system
from finetune.signals import heard_by
from finetune.version import __version__


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
    epilog="Every command has its own --help.",
)
@click.version_option(__version__, prog_name="finetune", message="%(prog)s %(version)s")
@click.option("--quiet", is_flag=True, expose_value=False, help="Show only errors and where the results are.")
@click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    help="Write everything as JSON, for programs: an event on each line, an error on stderr.",
)
def cli() -> None:
    """Teach Stable Diffusion something new from a handful of pictures.

    \b
      finetune lora --instance-dir ./mycat
      finetune sample "mycat wearing a red hat" --lora runs/mycat-lora
    """  # noqa: D301 - \b is click's mark for lines to be kept


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
    try:
        with heard_by(ending.interrupt):
            return _run(arguments, ending)
    finally:
        choose_style([])  # that of one command is not that of the next


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
    tell_failure(
        Interrupted("Interrupted. --resume continues a run from its last checkpoint, if it has one.")
    )
    return Interrupted.exit_code


def _fail(error: Exception) -> int:
    if os.environ.get("FINETUNE_DEBUG", "0") not in {"", "0"}:
        traceback.print_exception(error)
    known = error if isinstance(error, FinetuneError) else of_the_system(error) or error
    tell_failure(known)
    return exit_code(known)


def _as_user_error(error: click.UsageError) -> UserError:
    """Click's error in the form of all others: what, where, fix."""
    from finetune.cli.flags import SettingsCommand
    from finetune.recipes.faults import nearest

    path = error.ctx.command_path if error.ctx else "finetune"
    fix = f"See {path} --help."
    what = error.format_message()
    if isinstance(error, click.NoSuchOption):
        what = f"There is no flag {error.option_name}."
        command = error.ctx.command if error.ctx else None
        hint = command.hint(error.option_name) if isinstance(command, SettingsCommand) else None
        if error.option_name in STYLES and error.ctx and error.ctx.parent:
            hint = f"Give it before the command: finetune {error.option_name} {error.ctx.command.name} …"
        near = nearest(error.option_name, error.possibilities or ())
        if hint or near:
            fix = hint or f"Did you mean {near}?"
    return UserError(what, where=path, fix=fix)
