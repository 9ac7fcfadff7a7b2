# SPDX-License-Identifier: Apache-2.0
"""The command line in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

from tests.vitedge.cli.command import Command, Outcome
from vitedge.cli.main import main


@pytest.fixture
def vitedge(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs a command; an exception that it does not answer itself fails the test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def command(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["vitedge", *(str(argument) for argument in arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        return Outcome(int(caught.value.code or 0), *capfd.readouterr())

    yield command
    for number, handler in handlers.items():
        signal.signal(number, handler)
