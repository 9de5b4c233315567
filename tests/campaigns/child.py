"""Runs `finetune` in a forked child: the libraries are imported once, and each child can be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; minus the signal's number if it was killed.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
        seconds: How long it ran.
        memory: The most bytes that it held at once, what it had from this process included.
    """

    code: int
    out: str
    err: str
    seconds: float
    memory: int

    def unexpected(self, *allowed: int) -> str | None:
        """Reports an exit code that is not one of `allowed`, or a traceback; else None."""
        if self.code not in allowed:
            return f"exit code {self.code}, not {' or '.join(map(str, allowed))}: {self.err[-2000:]}"
        return f"a traceback: {self.err[-2000:]}" if "Traceback (most recent" in self.err else None


class Child:
    """`finetune ARGUMENTS` in its own process, forked from this one.

    Args:
        arguments: What follows `finetune`.
        folder: Working directory; output goes to `.out` and `.err` files next to it.
        environment: Changes to the environment.
        before: Called first in the child, for example to limit its resources.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._started = time.monotonic()
        stem = folder.with_name(f"{folder.name}-{time.monotonic_ns()}")
        self._out, self._err = stem.with_suffix(".out"), stem.with_suffix(".err")
        for path in (self._out, self._err):
            path.touch()  # a kill may come before the child opens them
        self._code: int | None = None
        self._memory = 0
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(arguments, folder, environment or {}, before)

    def _run(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        before: Callable[[], None] | None,
    ) -> NoReturn:
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            for path, stream in ((self._out, sys.stdout), (self._err, sys.stderr)):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
                os.dup2(descriptor, stream.fileno())
            os.environ.update(environment)
            if before:
                before()
            from finetune.cli import main

            code = main(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)  # the child must not run the parent's cleanup

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal, unless the child has already ended."""
        if self._code is None:
            os.kill(self.pid, number)

    def wait(self, limit: float = 300.0) -> Ended:
        """Waits for the end; kills a child that takes longer than `limit` seconds."""
        while self._code is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._code, self._memory = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
            elif time.monotonic() - self._started > limit:
                os.kill(self.pid, signal.SIGKILL)
            else:
                time.sleep(0.002)
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in (self._out, self._err)]
        for path in (self._out, self._err):
            path.unlink()
        return Ended(self._code, *texts, time.monotonic() - self._started, self._memory)


def finetune(
    *arguments: str | Path,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    limit: float = 300.0,
) -> Ended:
    """Runs `finetune` to its end; see `Child`."""
    return Child([str(a) for a in arguments], folder, environment, before).wait(limit)
