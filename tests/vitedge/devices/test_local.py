# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import platform
from pathlib import Path

import pytest

from vitedge.devices import machine, processors
from vitedge.devices.local import Session
from vitedge.devices.session import connect
from vitedge.errors import BadRecipe


def test_the_facts_are_those_of_this_machine() -> None:
    with connect("local") as session:
        assert session.identity() == machine.identity()
        assert session.cores() == processors.cores()
        assert session.condition().keys() == machine.condition().keys()


def test_what_runs_here_follows_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert Session().refusal("onnxruntime") == ""
    assert Session().refusal("coreml").startswith("Core ML does not run on Linux: ")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert Session().refusal("coreml") == ""


def test_a_file_stays_where_it_is_and_comes_back_from_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    session = Session()
    assert session.push(path) == str(path)
    session.pull(str(path), tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == b"weights"
    session.pull(str(path), path)
    assert path.read_bytes() == b"weights"


def test_closing_ends_every_worker() -> None:
    session = Session()
    workers = [session.start(label, 60.0) for label in "ab"]
    assert all(worker._process.poll() is None for worker in workers)
    session.close()
    assert all(worker._process.poll() is not None for worker in workers)


def test_this_machine_has_no_address() -> None:
    with (
        pytest.raises(BadRecipe, match="There is no device 'local:orin'; choose from local, ssh:HOST"),
        connect("local:orin"),
    ):
        pass
