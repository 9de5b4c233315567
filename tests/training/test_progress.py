"""What a run shows on the terminal."""

from __future__ import annotations

import pytest

from finetune.training.progress import StopSignal


@pytest.mark.parametrize("shown", [True, False])
def test_a_signal_is_noted_and_a_second_one_stops(shown: bool, capfd: pytest.CaptureFixture[str]) -> None:
    stop = StopSignal(shown=shown)
    assert not stop.asked
    stop.handle(2, None)
    assert stop.asked
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ("\nfinishing this step and writing a checkpoint …\n" if shown else "")
    with pytest.raises(KeyboardInterrupt):
        stop.handle(2, None)
