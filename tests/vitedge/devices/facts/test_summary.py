# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.vitedge.devices.facts.boards import texts
from vitedge.devices import facts
from vitedge.devices.facts.summary import record
from vitedge.devices.facts.watching import Sample, parse
from vitedge.files.plain import from_dict, to_dict
from vitedge.records import DeviceWatch, Spread


def lines(name: str, *order: int) -> tuple[Sample, ...]:
    """Samples of a board's recorded tegrastats lines, one a second."""
    rows = texts(name)["tegrastats"].splitlines()
    return parse("\n".join(f"t {second} {rows[index]}" for second, index in enumerate(order)))


def clocks(*values: float, limit: float = 2000.0) -> list[Sample]:
    return [Sample(float(i), {"cpu0": value, "cpu4": 300.0}, {"cpu0": limit}) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("name", "rails", "watts"),
    [
        ("jetson-nano", ("POM_5V_IN",), 3.41 - 1.75),
        ("jetson-orin-nano", ("VDD_IN",), 16.321 - 5.251),
        ("jetson-thor", ("VIN",), 124.486 - 28.906),
    ],
)
def test_energy_is_mean_power_less_idle_times_time(name: str, rails: tuple[str, ...], watts: float) -> None:
    found = record(lines(name, 1, 1, 1, 1, 1), idle=lines(name, 0, 0), inferences=100)
    assert (found.rails, found.samples, found.seconds) == (rails, 5, 4.0)
    assert found.energy_j == pytest.approx(watts * 4)
    assert found.energy_per_inference_j == pytest.approx(watts * 4 / 100)
    assert found.throttled == ()
    assert from_dict(DeviceWatch, to_dict(found)) == found


def test_a_board_without_a_rail_of_its_input_sums_those_it_has() -> None:
    found = record(lines("jetson-agx-orin", 0, 0))
    assert found.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert found.energy_j is None  # what it takes at idle is not known
    assert "gpu" not in found.clocks_mhz  # it is off


def test_spreads() -> None:
    found = record(lines("jetson-orin-nano", 0, 1, 1))
    assert found.clocks_mhz["gpu"] == Spread(305, 612, 612)
    assert found.temperatures["tj"] == Spread(49.312, 58.312, 58.312)
    assert found.power_w["VDD_IN"] == pytest.approx((5.251 + 2 * 16.321) / 3)


def test_a_clock_that_falls_is_throttled_and_one_that_wavers_is_not() -> None:
    assert record(clocks(*[2000.0] * 10, *[1500.0] * 5)).throttled == ("the cpu clock fell from 2000 to 1500 MHz",)
    assert record(clocks(*[2000.0, 1400.0] * 10)).throttled == ()
    assert record(clocks(2000.0, 1000.0)).throttled == ()  # too few to say
    assert record([]) == DeviceWatch(0, 0.0)


def test_a_limit_that_is_lowered_is_throttled() -> None:
    found = record([*clocks(2000.0), *clocks(2000.0, limit=1600.0)])
    assert found.throttled == ("the largest clock of cpu0 was lowered from 2000 to 1600 MHz",)


def test_events_are_counted_from_the_first_reading() -> None:
    counts = (37, 37, 40, 40, 2)  # the counter begins anew when the system does
    found = record([Sample(float(i), events={"oc3_event_cnt": count}) for i, count in enumerate(counts)])
    assert found.events == {"oc3_event_cnt": 3}
    assert found.throttled == ("instantaneous over-current (OC3), 3 x",)


def test_clocks_that_were_locked_have_to_be_held() -> None:
    before = facts.condition(texts("jetson-thor"))
    assert record(lines("jetson-thor", 1, 1), before=before).throttled == ()
    slow = [Sample(0.0, {"cpu": 1300.0, "gpu": 1574.0})] * 3
    assert record(slow, before=before).throttled == (
        "the cpu clock was 1300 MHz, below the 2601 MHz that it was locked at",
    )
    assert record(slow, before={**before, "clocks_locked": False}).throttled == ()
