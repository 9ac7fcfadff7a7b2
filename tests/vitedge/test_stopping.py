# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal

import pytest

from vitedge.progress import reporting, say
from vitedge.stopping import keep, kept, obeying_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_was_swallowed_ends_the_next_stage(
    number: signal.Signals,
) -> None:
    told: list[str] = []
    before = signal.getsignal(number)
    with obeying_signals(), reporting(told.append):
        say("first")
        with pytest.raises(SystemExit) as caught:  # as an import may that lets nothing pass
            os.kill(os.getpid(), number)
        assert caught.value.code == 128 + number
        with pytest.raises(SystemExit) as caught:
            say("second")
        assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before
    with reporting(told.append):
        say("another command")
    assert told == ["first", "another command"]


def test_what_a_stopped_command_leaves_is_told_by_its_last_sentence() -> None:
    with obeying_signals():
        keep("calibration", "8 of 24 images.")
        keep("recovery", "")
        keep("calibration", "16 of 24 images.")
        assert kept() == ("16 of 24 images.",)
    with obeying_signals():
        assert kept() == ()
