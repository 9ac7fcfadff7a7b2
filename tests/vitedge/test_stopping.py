# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal

import pytest

from vitedge.render.screen import progress
from vitedge.stopping import obeying_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_was_swallowed_ends_the_next_stage(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with obeying_signals():
        progress("first")
        with pytest.raises(SystemExit) as caught:  # as an import may that lets nothing pass
            os.kill(os.getpid(), number)
        assert caught.value.code == 128 + number
        with pytest.raises(SystemExit) as caught:
            progress("second")
        assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before
    progress("another command")
    assert capsys.readouterr().err == "first\nanother command\n"
