"""How a command learns that it should end."""

from __future__ import annotations

from types import FrameType


class Ending:
    """Whether a signal asked this command to end.

    A library may turn the KeyboardInterrupt into an error of its own, which would look like a fault of
    the model or the file it was reading.
    """

    asked = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Interrupts what is running."""
        self.asked = True
        raise KeyboardInterrupt
