# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from typing import Any

import pytest

from tests.vitedge.devices.facts.boards import NAMES, texts
from vitedge.devices import facts, machine
from vitedge.devices.facts.boards import ISA
from vitedge.devices.fitting import ARCHITECTURES, fitting
from vitedge.devices.profiles import profiles

ADA = {"architecture": "x86_64", "isa": ["avx2", "avx512_vnni"], "gpu": "NVIDIA GeForce RTX 4090", "sm": "SM89"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("jetson-nano", ("jetson-nano", "cpu-arm")),
        ("jetson-xavier-nx", ("jetson-xavier", "cpu-arm")),
        ("jetson-orin-nano", ("jetson-orin", "cpu-arm-dotprod", "cpu-arm")),
        ("jetson-thor", ("jetson-thor", "cpu-arm")),
        ("raspberry-pi-4", ("raspberry-pi-4", "cpu-arm")),
        ("raspberry-pi-5", ("raspberry-pi-5", "cpu-arm-dotprod", "cpu-arm")),
        ("android-phone", ("android-cpu", "cpu-arm")),
    ],
)
def test_recorded_boards_get_their_profiles(name: str, expected: tuple[str, ...]) -> None:
    assert name in NAMES
    assert fitting(facts.identity(texts(name))) == expected


@pytest.mark.parametrize(
    ("l4t", "expected"), [("35.3.1", "jetson-orin-jetpack5"), ("36.3.0", "jetson-orin-nano"), ("39.2.0", "jetson-orin")]
)
def test_an_orin_gets_the_profile_of_its_jetpack(l4t: str, expected: str) -> None:
    told = {**facts.identity(texts("jetson-orin-nano")), "l4t": l4t}
    assert fitting(told)[0] == expected
    assert fitting({**told, "l4t": "99.0"})[0] == "cpu-arm-dotprod"  # nothing is known of it


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"architecture": "x86_64", "isa": []}, ("cpu-x86",)),
        ({"architecture": "AMD64"}, ("cpu-x86",)),  # Windows does not tell the extensions
        ({"architecture": "x86_64", "isa": ["avx2", "avx512f"]}, ("cpu-x86-avx2", "cpu-x86")),
        ({"architecture": "x86_64", "isa": ["avx2", "avx_vnni"]}, ("cpu-x86-vnni", "cpu-x86-avx2", "cpu-x86")),
        ({"architecture": "x86_64", "isa": ["avx2", "avx512_vnni", "amx_int8"]},
         ("cpu-x86-amx", "cpu-x86-vnni", "cpu-x86-avx2", "cpu-x86")),
        ({"architecture": "aarch64", "isa": ["dotprod", "i8mm"]}, ("cpu-arm-i8mm", "cpu-arm-dotprod", "cpu-arm")),
        ({"architecture": "arm64", "os": "macOS 14.4", "processor": "Apple M2"}, ("mac-m1", "mac", "cpu-arm")),
        ({"architecture": "arm64", "os": "macOS 15.1", "processor": "Apple M4 Pro"}, ("mac-m4", "mac", "cpu-arm")),
        ({"architecture": "x86_64", "os": "macOS 13.6", "processor": "Intel(R) Core(TM) i7"}, ("cpu-x86",)),
        ({}, ()),
    ],
)  # fmt: skip
def test_processors(told: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert fitting(told) == expected


def test_cards_get_the_builder_that_is_installed() -> None:
    assert fitting(ADA)[:3] == ("rtx-ada", "gpu-ada", "gpu")
    assert fitting({**ADA, "versions": {"tensorrt": "10.3.0"}})[:2] == ("gpu-ada", "gpu")
    assert fitting({**ADA, "gpu": "NVIDIA L4"})[0] == "gpu-ada"
    assert fitting({**ADA, "gpu": "NVIDIA B300", "sm": "SM103"})[0] == "gpu"
    assert fitting(ADA)[-1] == "cpu-x86"


def test_this_machine_fits_something() -> None:
    assert fitting(machine.identity())


@pytest.mark.parametrize("name", list(profiles()))
def test_entries_are_ones_that_devices_tell(name: str) -> None:
    fits = profiles()[name].fits
    if fits is None:
        return
    assert set("|".join(fits.isa).split("|")) - {""} <= set(ISA)
    assert fits.architecture in ("", *ARCHITECTURES.values())
    assert len(fits.l4t) in (0, 2)
    for pattern in (fits.soc, fits.gpu, fits.model, fits.processor, fits.os):
        re.compile(pattern)
