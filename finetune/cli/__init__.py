"""The command line. Nothing here imports torch before a command needs it."""

from __future__ import annotations

from finetune.cli.main import main

__all__ = ["main"]
