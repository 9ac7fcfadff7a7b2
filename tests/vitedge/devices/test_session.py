# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import inspect
import sys
from typing import Protocol

import pytest

from vitedge.devices import session
from vitedge.devices.process import WorkerProcess
from vitedge.devices.session import REQUESTS, Session, connect
from vitedge.errors import BadRecipe
from vitedge.latency.worker import Worker
from vitedge.registry import DEVICES


def members(kind: type) -> dict[str, inspect.Signature]:
    """Public methods, and the constructor, with what they take."""
    inherited = vars(Protocol)
    found = {
        name: value
        for name, value in inspect.getmembers(kind, inspect.isfunction)
        if (name == "__init__" or name[0] != "_") and name not in inherited
    }
    return {name: inspect.signature(value) for name, value in found.items()}


@pytest.mark.parametrize("name", DEVICES)
def test_sessions_have_the_members_of_the_protocol_and_no_others(name: str) -> None:
    ours, protocol = members(importlib.import_module(DEVICES[name].module).Session), members(Session)
    if sys.version_info < (3, 11):  # where a protocol loses its constructor
        del ours["__init__"], protocol["__init__"]
    assert ours.keys() == protocol.keys()
    for method, signature in protocol.items():
        assert list(ours[method].parameters) == list(signature.parameters)
        assert [p.default for p in ours[method].parameters.values()] == [
            p.default for p in signature.parameters.values()
        ]


def test_the_far_end_answers_what_can_be_asked_and_nothing_else() -> None:
    assert members(Worker).keys() - {"__init__"} == REQUESTS.keys()
    assert "ask" in members(WorkerProcess)


@pytest.mark.parametrize("device", ["", "toaster", "toaster:4"])
def test_a_device_that_is_not_known_is_refused(device: str) -> None:
    with pytest.raises(BadRecipe, match="choose from local"), connect(device):
        pass


def test_a_session_is_closed_whatever_happens_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Far:
        def __init__(self, address: str) -> None:
            self.address = address

        def close(self) -> None:
            closed.append(self.address)

    monkeypatch.setattr("vitedge.devices.ssh.Session", Far)
    with pytest.raises(KeyboardInterrupt), session.connect("ssh:orin:22"):
        raise KeyboardInterrupt
    assert closed == ["orin:22"]
