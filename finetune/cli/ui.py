"""`finetune ui`: a local page for teaching a model and looking at it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from finetune.cli.imports import large_imports
from finetune.cli.terminal import quiet_loading, tell
from finetune.errors import ConfigError


def _ui(roots: tuple[Path, ...], host: str, port: int | None, show: bool) -> None:
    import secrets
    import webbrowser  # here, so that --help is fast

    if find_spec("gradio") is None:
        raise ConfigError(
            "The page needs Gradio, which is not installed.",
            where="finetune ui",
            fix="Install it: pip install 'finetune[ui]'.",
        )
    with large_imports():
        from finetune.ui.roots import Roots
        from finetune.ui.serving import bound, serve

        quiet_loading()
    known, listening = Roots.of(roots), bound(host, port)
    token = secrets.token_urlsafe(16)
    address = f"http://{host}:{listening.getsockname()[1]}/?token={token}"
    tell(f"Open {address}")
    tell("Runs go on when the page is closed, and when this is ended with Ctrl-C.")
    if show:
        webbrowser.open(address)
    try:
        serve(listening, known, token)
    except KeyboardInterrupt:  # as it is meant to end
        tell("The page is gone.")


ui_command = click.Command(
    "ui",
    callback=_ui,
    help="Serve a local page: train on a folder of pictures, watch runs, sample, edit captions. It is for "
    "this machine alone, for whoever has the address that is written here, and shows nothing outside of "
    "the working directory and the roots.",
    params=[
        click.Option(
            ["--root", "roots"],
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="FOLDER",
            help="A further folder that the page may look into; may be repeated.",
        ),
        click.Option(
            ["--host"],
            default="127.0.0.1",
            show_default=True,
            help="Address to serve at; 0.0.0.0 is the network.",
        ),
        click.Option(
            ["--port"],
            type=click.IntRange(0, 65535),
            help="Port to serve at; the first free one from 7860 if unset.",
        ),
        click.Option(["--open", "show"], is_flag=True, help="Open the page in the browser."),
    ],
)
