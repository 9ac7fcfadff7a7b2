# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.vitedge.devices.facts.boards import NAMES, garbled, texts
from vitedge.devices.facts.tegrastats import Line, parsed


def line(name: str, index: int = -1) -> Line:
    return parsed(texts(name)["tegrastats"].splitlines()[index])


@pytest.mark.parametrize(
    ("name", "index", "clocks", "loads", "rails"),
    [
        ("jetson-nano", 0, {"cpu": 1224, "gpu": 76, "memory": 1600}, {"cpu": 4.5, "gpu": 0, "memory": 0},
         {"POM_5V_IN": 1.75, "POM_5V_GPU": 0, "POM_5V_CPU": 0.366}),
        ("jetson-nano", 1, {"cpu": 1479}, {"cpu": 41.5, "gpu": 10, "memory": 0},
         {"POM_5V_IN": 3.41, "POM_5V_GPU": 0.493, "POM_5V_CPU": 1.314}),
        ("jetson-xavier-nx", 0, {"cpu": 1397, "gpu": 114, "memory": 204}, {"cpu": 17, "gpu": 0, "memory": 2},
         {"VDD_IN": 2.763, "VDD_CPU_GPU_CV": 0.65, "VDD_SOC": 0.65}),
        ("jetson-orin-nano", 1, {"cpu": 1497, "gpu": 612, "memory": 2133}, {"cpu": 7, "gpu": 99, "memory": 61},
         {"VDD_IN": 16.321, "VDD_CPU_GPU_CV": 7.104, "VDD_SOC": 3.12}),
        ("jetson-agx-orin", 0, {"cpu": 729, "memory": 2133}, {"cpu": 0, "gpu": 0, "memory": 0},
         {"VDD_GPU_SOC": 2.399, "VDD_CPU_CV": 0.4, "VIN_SYS_5V0": 4.032, "VDDQ_VDD2_1V8AO": 0.301}),
        ("jetson-thor", 0, {"cpu": 2601, "gpu": 1574, "memory": 4266}, {"cpu": 2.5}, {"VDD_GPU": 6.33, "VIN": 28.906}),
        ("jetson-thor", 1, {"cpu": 2601, "gpu": 1574, "memory": 4266}, {"cpu": 172 / 3, "gpu": 87, "memory": 34},
         {"VDD_GPU": 37.939, "VDD_CPU_SOC_MSS": 30.059, "VIN_SYS_5V0": 15.486, "VIN": 124.486}),
    ],
)  # fmt: skip
def test_lines_of_every_jetpack(
    name: str, index: int, clocks: dict[str, float], loads: dict[str, float], rails: dict[str, float]
) -> None:
    found = line(name, index)
    assert found.clocks_mhz == clocks
    assert found.loads == pytest.approx(loads)
    assert found.power_w == pytest.approx(rails)
    assert found.memory_used_mb


def test_temperatures_are_the_present_ones_and_sensors_that_are_off_are_left_out() -> None:
    assert line("jetson-thor").temperatures == {
        "cpu": 58.25,
        "tj": 66.625,
        "gpu": 56.937,
        "soc012": 55.375,
        "soc345": 55.812,
    }
    assert "GPU" not in line("jetson-agx-orin").temperatures
    assert line("jetson-agx-orin").temperatures["tj"] == 42.593


def test_an_old_line_and_one_power_alone() -> None:
    found = parsed("RAM 3468/3983MB cpu [17%,13%,29%,5%]@408 EMC 1%@408 APE 25 GR3D 3%@76 VDD_IN 5765mW VDD_GPU -392mW")
    assert found.clocks_mhz == {"cpu": 408, "memory": 408, "gpu": 76}
    assert found.power_w == {"VDD_IN": 5.765, "VDD_GPU": -0.392}


def test_garbled_lines_never_fail() -> None:
    assert not parsed("")
    for name in NAMES:
        for row in texts(name).get("tegrastats", "").splitlines():
            for seed in range(50):
                parsed(garbled(row, seed))
