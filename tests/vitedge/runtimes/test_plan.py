# SPDX-License-Identifier: Apache-2.0
"""Tests of `plan` and `tensorrt_log`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tensorrt_stand_in import ENGINE, Situation, stand_in
from vitedge.errors import UnreadableArtifact
from vitedge.runtimes.plan import Plan, parse_head, read_plan
from vitedge.runtimes.tensorrt_log import logger, reason


def test_the_head_names_the_library_and_the_version(tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(ENGINE)
    assert read_plan(tmp_path / "m.engine") == Plan("tensorrt", "10.3.0.26")
    assert parse_head(b"ftrt" + (239).to_bytes(4, "little") + bytes(20)) == Plan("tensorrt", "")  # another layout
    assert parse_head(b"vtrt" + ENGINE[4:]) == Plan("tensorrt-rtx", "")


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "it is empty"), (b"ftrt", "begins with b'ftrt'"), (b"GGUF" * 9, "begins with b'GGUF'")]
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "m.engine"
    path.write_bytes(content)
    with pytest.raises(UnreadableArtifact, match=rf"m\.engine is not an engine of TensorRT \(.*{why}"):
        read_plan(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match="cannot be read"):
        read_plan(tmp_path / "m.engine")


def test_the_logger_hands_on_severity_and_text() -> None:
    trt, kept = stand_in("10.3.0", Situation()), list[tuple[str, str]]()
    logger(trt, lambda *message: kept.append(message)).log(trt.Severity.WARNING, "slow")
    assert kept == [("WARNING", "slow")]


@pytest.mark.parametrize(
    ("messages", "phrase"),
    [
        ([], "it gives no reason"),
        ([("WARNING", "slow")], "it gives no reason"),
        ([("ERROR", "IRuntime::f: Error Code 1: Serialization (a != b. In g at /_src/c.cpp:48)")],
         "Serialization (a != b.)"),
        ([("ERROR", "x (cudaError 35: too old)"), ("INFO", "so"), ("INTERNAL_ERROR", "the\n reason.")], "the reason"),
        ([("ERROR", "Error Code 1: Cuda Runtime (cudaError 35: too old)")], "Cuda Runtime (cudaError 35: too old)"),
    ],
)  # fmt: skip
def test_the_reason_is_the_first_error_that_is_no_shadow(messages: list[tuple[str, str]], phrase: str) -> None:
    assert reason(messages) == phrase
