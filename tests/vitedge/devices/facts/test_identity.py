# SPDX-License-Identifier: Apache-2.0
"""Tests of identity and of the tables in `boards`."""

from __future__ import annotations

import json

import pytest

from tests.vitedge.devices.facts.boards import NAMES, garbled, texts
from vitedge.devices import facts
from vitedge.devices.facts import boards, reading

SYSCTL = reading.line(next(words for words in reading.IDENTITY.commands if words[0] == "sysctl"))
GPU, CAPABILITY = reading.line(reading.GPU), reading.line(reading.CAPABILITY)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("jetson-nano", {"soc": "tegra210", "sm": "SM53", "l4t": "32.7.1", "jetpack": "4.6.1", "isa": [], "cores": 4}),
        ("jetson-xavier-nx", {"soc": "tegra194", "sm": "SM72", "l4t": "35.4.1", "jetpack": "5.1.2", "isa": ["fp16"]}),
        ("jetson-orin-nano", {"sm": "SM87", "l4t": "36.4.3", "jetpack": "6.2", "tensorrt": "10.3.0"}),
        ("jetson-orin-nano", {"processor": "Cortex-A78AE", "memory_mb": 7990, "cuda": "12.6.11"}),
        ("jetson-orin-nano", {"trtexec": "/usr/src/tensorrt/bin/trtexec"}),
        ("jetson-thor", {"soc": "tegra264", "sm": "SM110", "l4t": "38.2.0", "jetpack": "7.0"}),
        ("raspberry-pi-4", {"model": "Raspberry Pi 4 Model B Rev 1.5", "processor": "Cortex-A72", "isa": []}),
        ("raspberry-pi-5", {"soc": "bcm2712", "processor": "Cortex-A76", "isa": ["dotprod", "fp16"]}),
        ("android-phone", {"model": "samsung SM-S921B", "os": "Android 14 (API 34)", "soc": "s5e9945"}),
    ],
)  # fmt: skip
def test_boards_are_known_by_what_they_print(name: str, told: dict[str, object]) -> None:
    found = facts.identity(texts(name))
    assert {key: found[key] for key in told} == told
    assert found["architecture"] == "aarch64"


def test_serial_numbers_are_not_kept() -> None:
    assert "Serial" in texts("raspberry-pi-4")["/proc/cpuinfo"]
    assert "12345678" not in json.dumps(facts.identity(texts("raspberry-pi-4")))


def test_a_mac() -> None:
    """The lines are made up after sysctl's manual."""
    told = {
        SYSCTL: (
            "hw.model: Mac14,2\nhw.memsize: 17179869184\nhw.physicalcpu: 8\nhw.logicalcpu: 8\n"
            "hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 1\nhw.optional.arm.FEAT_SME: 0\n"
            "machdep.cpu.brand_string: Apple M2"
        ),
        "sw_vers": "ProductName:\t\tmacOS\nProductVersion:\t\t14.4\nBuildVersion:\t\t23E214",
        "uname -sr": "Darwin 23.4.0",
        "uname -m": "arm64",
    }
    assert facts.identity(told) == {
        "model": "Mac14,2", "processor": "Apple M2", "architecture": "arm64", "cores": 8, "processors": 8,
        "memory_mb": 17179, "isa": ["dotprod", "i8mm"], "os": "macOS 14.4", "kernel": "23.4.0",
    }  # fmt: skip


def test_a_machine_with_gpus() -> None:
    """The lines are made up after nvidia-smi's manual."""
    told = {GPU: "NVIDIA H200, 570.86.15, 143771\nNVIDIA H200, 570.86.15, 143771", CAPABILITY: "9.0\n9.0"}
    found = facts.identity(told)
    assert found["gpu"] == "NVIDIA H200"
    assert (found["gpus"], found["sm"], found["driver"]) == (2, "SM90", "570.86.15")
    assert found["gpu_memory_mb"] == 150754


def test_a_driver_that_fails_tells_nothing() -> None:
    told = {GPU: "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", CAPABILITY: "x"}
    assert facts.identity(told) == {}


def test_extensions_are_those_that_all_processors_have() -> None:
    told = {"/proc/cpuinfo": "processor\t: 0\nFeatures\t: asimddp i8mm\n\nprocessor\t: 1\nFeatures\t: asimddp"}
    assert facts.identity(told)["isa"] == ["dotprod"]


def test_extensions_of_the_processor_beneath_an_emulated_one_are_not_its_own() -> None:
    told = {"/proc/cpuinfo": "processor\t: 0\nflags\t: avx2", "uname -m": "aarch64"}
    assert "isa" not in facts.identity(told)
    assert facts.identity({**told, "uname -m": "x86_64"})["isa"] == ["avx2"]


def test_hyperthreads_are_not_cores() -> None:
    told = {f"/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": f"{i % 2},{i % 2 + 2}" for i in range(4)}
    told["/proc/cpuinfo"] = "\n\n".join(f"processor\t: {i}\nflags\t: avx2 amx_int8" for i in range(4))
    found = facts.identity(told)
    assert (found["cores"], found["processors"], found["isa"]) == (2, 4, ["avx2", "amx_int8"])


@pytest.mark.parametrize(
    ("l4t", "jetpack"), [("36.4.0", "6.1"), ("36.4.7", "6.2.1"), ("35.1.0", "5.0.2"), ("38.4.0", "7.1"), ("99.1", "")]
)
def test_jetpack_of_l4t(l4t: str, jetpack: str) -> None:
    assert boards.jetpack(l4t) == jetpack


@pytest.mark.parametrize("name", NAMES)
def test_garbled_texts_never_fail(name: str) -> None:
    for seed in range(40):
        told = {key: garbled(text, seed) for key, text in texts(name).items()}
        short = {key: text[: seed * 7] for key, text in told.items()}
        for found in (facts.identity(told), facts.identity(short)):
            assert json.loads(json.dumps(found, allow_nan=False)) == found
