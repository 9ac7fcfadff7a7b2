# SPDX-License-Identifier: Apache-2.0
"""What trtexec prints, in lines written by hand after its sources."""

from __future__ import annotations

import pytest

from vitedge.devices.trtexec.log import read_log

OUT = """&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # trtexec --onnx=FAILED.onnx
[01/02/2026-03:04:05] [I] === Device Information ===
[01/02/2026-03:04:05] [I] Selected Device: Orin
[01/02/2026-03:04:05] [I] Compute Capability: 8.7
[01/02/2026-03:04:05] [I] Engine loaded in 0.25 sec.
[01/02/2026-03:04:05] [I] Engine deserialized in 1.5e-01 sec.
[01/02/2026-03:04:05] [I] {told}
[01/02/2026-03:04:05] [I] Warmup completed 42 queries over 200 ms
&&&& PASSED TensorRT.trtexec [TensorRT v{number}] # trtexec --onnx=FAILED.onnx
"""
ERR = """[01/02/2026-03:04:05] [W] * GPU compute time is unstable, with coefficient of variance = 3.1%.
[01/02/2026-03:04:05] [W]   If not already in use, locking GPU clock frequency may improve the stability.
[01/02/2026-03:04:05] [W] [TRT] The same from the library.
[01/02/2026-03:04:05] [W] [TRT] The same from the library.
"""


@pytest.mark.parametrize(
    ("number", "version"),
    [
        (8201, "8.2.1"),
        (8502, "8.5.2"),
        (8601, "8.6.1"),
        (9300, "9.3.0"),
        (100300, "10.3.0"),
        (101303, "10.13.3"),
        (110100, "11.1.0"),
    ],
)
def test_versions_are_told_apart(number: int, version: str) -> None:
    assert read_log(OUT.format(number=number, told=""), "").version == version


@pytest.mark.parametrize(
    "told",
    [
        "Created input binding for a b:0 with dimensions 1x3x224",
        "Input binding for a b:0 with dimensions 1x3x224 is created.",
    ],
)
def test_shapes_times_and_the_gpu_are_read(told: str) -> None:
    log = read_log(OUT.format(number=8601, told=told), "")
    assert log.inputs == {"a b:0": (1, 3, 224)}
    assert log.load_ms == pytest.approx(400)
    assert (log.gpu, log.capability, log.warmup, log.end) == ("Orin", "SM87", 42, "PASSED")


def test_outputs_are_no_inputs() -> None:
    log = read_log(OUT.format(number=8601, told="Output binding for y with dimensions 1x3 is created."), "")
    assert (log.inputs, log.outputs) == ({}, {"y": (1, 3)})


def test_warnings_are_told_in_their_words_each_once() -> None:
    log = read_log(OUT.format(number=8601, told=""), ERR)
    assert log.warnings == (
        "GPU compute time is unstable, with coefficient of variance = 3.1%. If not already in use, locking GPU clock "
        "frequency may improve the stability.",
        "[TRT] The same from the library.",
    )
    assert not log.errors
    assert not log.is_uncaptured
    assert not log.is_dynamic


def test_errors_come_without_their_dates() -> None:
    date = "[01/02/2026-03:04:05] [E] "
    text = f"{date}[TRT] Error Code 10: no implementation\nof a\n{date}Engine set up failed\n"
    assert read_log("", text).errors == ("Error Code 10: no implementation", "Engine set up failed")


def test_the_output_of_another_program_tells_nothing() -> None:
    log = read_log("trtexec: not found\n", "")
    assert (log.version, log.end, log.errors) == ("", "", ())
