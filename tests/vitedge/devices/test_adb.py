# SPDX-License-Identifier: Apache-2.0
"""A session through Debian's adb client and a stand-in for its server, with Android's shell and tools and no Python."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vitedge.devices import perf_test_stand_in
from tests.vitedge.devices.transports.adb_stand_in import AdbStandIn, android_programs
from tests.vitedge.onnx_models import write_model
from vitedge.devices import perf_test
from vitedge.devices.session import connect
from vitedge.errors import MissingBackend
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("adb"), reason="sudo apt-get install adb"),
]

RULE = Rule(warmup_s=0.0, warmup_limit_s=0.0, samples=20, seconds=1.0, rounds=2, patience_s=60.0)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbStandIn]:
    for name in ("bin", "phone"):
        (tmp_path / name).mkdir()
    stand_in = AdbStandIn(tmp_path / "phone", {"R58M123ABC": "device"}, android_programs(tmp_path / "bin"))
    for name, value in stand_in.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("ANDROID_SERIAL", perf_test.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    yield stand_in
    stand_in.close()


def test_a_phone_says_what_it_is_and_what_it_lacks(phone: AdbStandIn) -> None:
    with connect("adb:R58M123ABC") as session:
        facts = session.identity()
        assert facts["device"] == "adb:R58M123ABC"
        assert facts["memory_mb"] > 100
        assert facts["processors"] == session.processors() >= 1
        assert "has no onnxruntime_perf_test in /data/local/tmp" in session.refusal("onnxruntime")
        assert "which has no Python: only ONNX Runtime does" in session.refusal("openvino")
        with pytest.raises(MissingBackend, match=r"build it for the device with ./build\.sh"):
            session.start("tiny", 60.0)
    assert not list((phone.folder / ".cache" / "vitedge" / "runs").iterdir())


def test_models_are_measured_in_turn_by_the_tool(
    phone: AdbStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = perf_test_stand_in.write(tmp_path / "build" / perf_test.PROGRAM)
    (tool.parent / "libonnxruntime.so").write_bytes(b"VERS_1.22.1")
    monkeypatch.setenv(perf_test.VARIABLE, str(tool))
    models = [
        MeasuredModel(name, "onnxruntime", str(write_model(tmp_path / f"it's {name}.onnx", depth=depth)), threads=1)
        for name, depth in (("short", 1), ("long", 9))
    ]
    with connect("adb") as session:
        assert session.refusal("onnxruntime") == ""
        report = measure_in_turn(models, session, RULE)
    assert [one.subject for one in report.reports] == ["short", "long"]
    for one in report.reports:
        assert one.samples == 20
        assert one.device["version"] == "1.22.1"
        assert one.device["provider"] == "CPUExecutionProvider"
        assert one.device["parity"] == "not checked on the device: onnxruntime_perf_test shows no outputs"
        assert one.peak_memory_mb > 10
    assert phone.is_idle()
    assert not list((phone.folder / ".cache" / "vitedge" / "runs").iterdir())
    phone.packets.clear()
    with connect("adb") as session:
        session.push(Path(models[0].source))
        assert session.refusal("onnxruntime") == ""
    assert sum(phone.packets) < 100  # the lines that say that this side lives; no file is sent again
