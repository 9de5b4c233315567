"""The line that a terminal shows of a run: bar, loss and its course, rate, time left, memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

from finetune.training.watcher import Now

_BLOCKS = "▁▂▃▄▅▆▇█"
_POINTS = 256
_BAR = (6, 10, 40)  # columns: the shortest, the shortest beside a curve, the longest
_CURVE = (6, 16)  # columns: the shortest, the longest


class Spark:
    """A curve of a few characters: values from the first to the last, the lowest at the bottom.

    However many values there are, at most `_POINTS` means of equally many are kept.
    """

    def __init__(self) -> None:
        self._means: list[float] = []
        self._each, self._sum, self._count = 1, 0.0, 0

    def add(self, value: float) -> None:
        """Adds the next value."""
        self._sum, self._count = self._sum + value, self._count + 1
        if self._count < self._each:
            return
        self._means.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self._means) == _POINTS:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means, self._each = [(a + b) / 2 for a, b in pairs], 2 * self._each

    def text(self, width: int) -> str:
        """The curve in at most `width` characters, fewer while there are fewer values."""
        columns = list(_columns(self._means, min(width, len(self._means))))
        low, high = min(columns, default=0.0), max(columns, default=0.0)
        scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
        return "".join(_BLOCKS[round((value - low) * scale)] for value in columns)


def _columns(values: Sequence[float], width: int) -> Iterator[float]:
    """The means of `width` successive parts of the values."""
    for column in range(width):
        part = values[column * len(values) // width : (column + 1) * len(values) // width]
        yield sum(part) / len(part)


class Line:
    """What is known of a run, on one line of whatever width the terminal has when it is drawn.

    What has no room is left out, the least important first: the curve, the memory, the rate, the loss. The
    bar gets what remains.

    Args:
        now: How far the run is.
        spark: The course of its smoothed loss.
        at: When `now` was, by `time.monotonic`; the time left is counted down from then.
    """

    def __init__(self, now: Now, spark: Spark, at: float) -> None:
        self.now, self.spark, self.at = now, spark, at

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws it."""
        blocks = not options.ascii_only and not options.legacy_windows
        texts, room = self._fitting(options.max_width, blocks)
        if room >= _BAR[0]:
            bar = ProgressBar(self.now.steps, self.now.step, width=min(room, _BAR[2]))
            yield from (part for part in console.render(bar, options) if part.text != "\n")
            yield Segment(" ")
        yield Text("  ", no_wrap=True, overflow="crop").join(Text(text, style) for text, style in texts)

    def _fitting(self, width: int, blocks: bool) -> tuple[list[tuple[str, str]], int]:
        """The parts that fit beside the shortest bar, in order, each with its style, and room for the bar."""
        now = self.now
        left = max(0.0, now.seconds_left - (time.monotonic() - self.at))
        # The most important first; the number is their place.
        parts = [(0, f"{now.step}/{now.steps}", "green"), (4, f"{clock(left)} left", "cyan")]
        if now.loss is not None:
            parts.append((1, f"loss {now.loss:.4f}", "default"))
        parts += [(3, rate(now.images_per_second), "default"), (5, memory(now), "bright_black")]
        chosen, room = [parts[0]], width - len(parts[0][1]) - 2
        for part in parts[1:]:
            if room - len(part[1]) - 2 >= _BAR[0]:
                chosen.append(part)
                room -= len(part[1]) + 2
        wide = min(_CURVE[1], room - 2 - _BAR[1])
        if blocks and now.loss is not None and wide >= _CURVE[0]:
            chosen.append((2, self.spark.text(wide).ljust(wide), "magenta"))
            room -= wide + 2
        # Of the two columns that are left one stands behind the bar; some terminals wrap a line that is full.
        return [(text, style) for _, text, style in sorted(chosen)], room


def rate(images_per_second: float) -> str:
    """E.g. "3.2 images/s", "0.031 images/s"."""
    shown = f"{images_per_second:.1f}" if images_per_second >= 1 else f"{images_per_second:.2g}"
    return f"{shown} images/s"


def memory(now: Now) -> str:
    """E.g. "7.9/24 GB", or "1.2 GB" without a GPU."""
    used = f"{now.memory / 1e9:.1f}"
    return f"{used}/{now.memory_of / 1e9:.0f} GB" if now.memory_of else f"{used} GB"


def clock(seconds: float) -> str:
    """E.g. "2:05", "1:00:05"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
