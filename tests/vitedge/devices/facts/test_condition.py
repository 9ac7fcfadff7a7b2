# SPDX-License-Identifier: Apache-2.0
"""Tests of condition and `throttling`."""

from __future__ import annotations

import json

import pytest

from tests.vitedge.devices.facts.boards import NAMES, garbled, texts
from vitedge.devices import facts
from vitedge.devices.facts import reading, throttling


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("jetson-nano", {"power_mode": "MAXN", "clocks_mhz": [1036, 921, 1132, 1428], "gpu_clock_max_mhz": 922}),
        ("jetson-xavier-nx", {"power_mode": "MODE_15W_6CORE"}),
        ("jetson-orin-nano", {"power_mode": "25W", "governor": "schedutil", "clocks_max_mhz": [1344] * 6}),
        ("jetson-orin-nano", {"gpu_clock_mhz": 306, "gpu_clock_max_mhz": 918, "clocks_locked": False}),
        ("jetson-agx-orin", {"power_mode": "MAXN", "memory_clock_max_mhz": 3199}),
        ("jetson-thor", {"power_mode": "MAXN", "clocks_locked": True, "gpu_clock_mhz": 1575}),
        ("raspberry-pi-4", {"throttled": ["the soft temperature limit is reached"]}),
        ("raspberry-pi-4", {"temperatures": {"vcgencmd": 82.0}}),
        ("raspberry-pi-5", {"throttled": ["under-voltage of the supply", "the firmware throttles the clock"]}),
        ("android-phone", {"temperatures": {"TYPE_CPU": 24.0, "TYPE_BATTERY": 24.4}}),
    ],
)  # fmt: skip
def test_boards_say_how_they_are(name: str, told: dict[str, object]) -> None:
    found = facts.condition(texts(name))
    assert {key: found[key] for key in told} == told
    assert ("throttled" in found) == (name.startswith("raspberry"))


def test_processors_are_in_the_order_of_their_numbers() -> None:
    # jetson_clocks prints cpu10 before cpu2.
    assert facts.condition(texts("jetson-agx-orin"))["clocks_mhz"][10:] == [1113, 1113]


def test_sensors_that_are_off_are_left_out_and_events_are_named() -> None:
    found = facts.condition(texts("jetson-orin-nano"))
    assert list(found["temperatures"])[:3] == [
        "thermal_zone0 cpu-thermal",
        "thermal_zone1 gpu-thermal",
        "thermal_zone5 soc0-thermal",
    ]
    assert found["events"] == {"oc1_event_cnt": 0, "oc2_event_cnt": 15, "oc3_event_cnt": 37}
    assert found["throttled_before"] == ["average over-current (OC2), 15 x", "instantaneous over-current (OC3), 37 x"]


def test_a_pi_tells_what_was_from_what_is() -> None:
    assert throttling.of_pi("throttled=0x0") == ([], [])
    assert throttling.of_pi("throttled=0x50000") == (
        [],
        ["under-voltage of the supply", "the firmware throttles the clock"],
    )
    assert throttling.of_pi("50004")[0] == ["the firmware throttles the clock"]  # as sysfs has it
    assert throttling.of_pi("VCHI initialization failed") == ([], [])


def test_a_gpu_names_its_reasons_and_idle_is_none() -> None:
    assert throttling.of_gpu("0x0000000000000001") == []
    assert throttling.of_gpu("0x0000000000000024") == [throttling.GPU[4], throttling.GPU[32]]
    assert throttling.of_gpu("[N/A]") == []
    told = {
        reading.line(reading.GPU_NOW): "1980, 1980, 2619, 35, 119.78, 700.00",
        "nvidia-smi --query-gpu=clocks_event_reasons.active --format=csv,noheader": "0x0000000000000004",
    }
    assert facts.condition(told) == {
        "gpu_clock_mhz": 1980, "gpu_clock_max_mhz": 1980, "temperatures": {"gpu": 35.0}, "gpu_power_w": 119.78,
        "gpu_power_limit_w": 700.0, "throttled": ["the GPU is at its power limit"],
    }  # fmt: skip


def test_levels_of_android_and_macos() -> None:
    assert throttling.of_android("Thermal Status: 3\nCached") == ["Android's thermal status is severe"]
    assert throttling.of_macos("com.apple.system.thermalpressurelevel 0", "") == []
    assert throttling.of_macos("com.apple.system.thermalpressurelevel 2", "CPU_Speed_Limit \t= 80") == [
        "macOS' thermal pressure is heavy",
        "macOS limits the processor to 80 % of its speed",
    ]


def test_fans_do_not_throttle_and_alerts_do() -> None:
    folder = "/sys/class/thermal/cooling_device"
    told = {
        f"{folder}0/type": "pwm-fan", f"{folder}0/cur_state": "3",
        f"{folder}1/type": "gpu-throttle-alert", f"{folder}1/cur_state": "1",
        f"{folder}2/type": "Processor", f"{folder}2/cur_state": "0",
        f"{folder}3/type": "intel_powerclamp", f"{folder}3/cur_state": "-1",
    }  # fmt: skip
    assert facts.condition(told) == {"throttled": ["the kernel cools with gpu-throttle-alert at step 1"]}


@pytest.mark.parametrize("name", NAMES)
def test_garbled_texts_never_fail(name: str) -> None:
    for seed in range(40):
        told = {key: garbled(text, seed) for key, text in texts(name).items()}
        short = {key: text[: seed * 7] for key, text in told.items()}
        for found in (facts.condition(told), facts.condition(short)):
            assert json.loads(json.dumps(found, allow_nan=False)) == found
