# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from vitedge.render_screen import progress
from vitedge.stopping import obey_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    obey_signals()  # forgets what was asked
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_was_swallowed_ends_the_next_stage(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    obey_signals()
    progress("first")
    with pytest.raises(SystemExit) as caught:  # as an import may that lets nothing pass
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    with pytest.raises(SystemExit) as caught:
        progress("second")
    assert caught.value.code == 128 + number
    assert capsys.readouterr().err == "first\n"


def test_another_command_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    obey_signals()
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGINT)
    obey_signals()
    progress("first")
    assert capsys.readouterr().err == "first\n"
