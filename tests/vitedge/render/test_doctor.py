# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vitedge.devices.health.records import Ability, Checkup, Remark
from vitedge.render.doctor import render

ORIN = Checkup(
    device="ssh:orin",
    identity={
        "model": "NVIDIA Jetson Orin Nano Developer Kit", "soc": "tegra234", "processor": "Cortex-A78AE",
        "architecture": "aarch64", "cores": 6, "isa": ["dotprod", "fp16"], "memory_mb": 7990, "jetpack": "6.1",
        "l4t": "36.4.0", "sm": "SM87", "gpu": "Orin", "cuda": "12.6.68", "tensorrt": "10.3.0", "python": "3.10.12",
    },
    condition={
        "power_mode": "15W", "governor": "schedutil", "clocks_mhz": [729, 1510], "clocks_max_mhz": [1510, 1510],
        "temperatures": {"cpu": 48.2, "gpu": 51.9}, "throttled": ["over-current"],
    },
    abilities=(
        Ability("run onnxruntime", "works", "1.23.0", asked=True),
        Ability("run onnxruntime CUDA", "broken", "has no CUDA", "install another", asked=True),
        Ability("run openvino", "not here", "openvino is not installed", "pip install openvino"),
    ),
    remarks=(Remark("the power mode 15W is not the largest", "sudo nvpmodel -m 0"),),
    fitting=("jetson-orin-nano", "cpu-arm-dotprod", "cpu-arm"),
    broken=("run onnxruntime CUDA",),
)  # fmt: skip


@pytest.mark.parametrize("columns", [80, 120])
def test_facts_abilities_and_remedies(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    render(ORIN, as_json=False)
    shown = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    for row in (
        "processor Cortex-A78AE, aarch64, 6 cores",
        "memory 8.0 GB",
        "JetPack 6.1 (L4T 36.4.0)",
        "GPU Orin SM87",
        "clock 1510 MHz of 1510",
        "temperature 52 degrees (gpu)",
        "run onnxruntime CUDA broken has no CUDA",
        "run onnxruntime CUDA: install another",
        "note: the power mode 15W is not the largest; type: sudo nvpmodel -m 0",
        "profile: jetson-orin-nano (also cpu-arm-dotprod, cpu-arm)",
    ):
        assert row in rows, shown
    assert rows[-1] == "not all works: run onnxruntime CUDA"
    assert "pip install openvino" not in shown  # what nobody asked for is not to be mended
    assert max(len(line) for line in shown.splitlines() if not line.startswith("note")) <= columns


def test_where_all_works_the_next_command_is_for_that_device(capsys: pytest.CaptureFixture[str]) -> None:
    sound = replace(ORIN, abilities=ORIN.abilities[:1], broken=(), remarks=(), notes=("something was not tried",))
    render(sound, as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert "note: something was not tried" in shown
    following = "vitedge export CHECKPOINT -o BUNDLE --for jetson-orin-nano --device ssh:orin"
    assert shown[-1] == f"all that is installed works; what writes a bundle for it: {following}"
    render(replace(sound, device="local", profile="cpu-arm", fitting=()), as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert "this machine" in shown
    assert "profile: none is for it; see vitedge profiles" in shown
    following = "vitedge export CHECKPOINT -o BUNDLE --for cpu-arm"
    assert shown[-1] == f"all that cpu-arm needs works; what writes a bundle for it: {following}"


def test_json_is_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    render(ORIN, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["abilities"][1]["remedy"] == "install another"
    assert told["broken"] == ["run onnxruntime CUDA"]
