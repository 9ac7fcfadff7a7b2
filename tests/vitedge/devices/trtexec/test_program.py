# SPDX-License-Identifier: Apache-2.0
"""`program`: trtexec found, asked for its version and its options, and run to good and bad ends, on a stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vitedge.devices.trtexec import stand_in
from tests.vitedge.devices.trtexec.boards import Board, every_version, posix, program_of
from vitedge.devices.trtexec.program import find_trtexec
from vitedge.errors import CheckFailed, DeviceFailed, MissingBackend

pytestmark = posix
OLD = ("--useCudaGraph", "--useSpinWait", "--noDataTransfers", "--separateProfileRun", "--stronglyTyped")
FIRST = {"8.2": "8.2.1", "8.5": "8.5.2", "8.6": "8.6.1", "10.3": "10.3.0", "10.13": "10.13.0", "11.1": "11.1.0"}


@every_version
def test_a_version_is_found_with_its_options(version: str, tmp_path: Path) -> None:
    program = find_trtexec(Board(tmp_path / "board", version))
    assert program.version == FIRST[version]
    assert program.major == int(version.partition(".")[0])
    known = set(stand_in.Program(version, []).options())
    assert program.options.keys() <= known
    assert known - program.options.keys() <= {"--buildOnly"}  # which 8.6 takes, and does not list
    assert {name for name, deprecated in program.options.items() if deprecated} == (
        set(OLD) if version == "11.1" else set()
    )
    assert program.takes("--onnx=x", "--saveEngine=y")
    assert program.takes("--vc") == (version not in ("8.2", "8.5"))
    gpu = program.gpu()
    assert (gpu.name, gpu.capability) in (("NVIDIA Tegra X1", "SM53"), ("Orin", "SM87"))


@every_version
def test_an_option_of_other_versions_is_refused_by_the_stand_in(version: str, tmp_path: Path) -> None:
    """As each real one does: the stand-in would let nothing wrong pass."""
    everything = {name for one in stand_in.VERSIONS for name in stand_in.Program(one, []).options()}
    board = Board(tmp_path / "board", version)
    program = program_of(version, board)
    unknown = sorted(everything - set(stand_in.Program(version, []).options()))
    assert unknown
    with pytest.raises(
        CheckFailed, match=rf"^trtexec {FIRST[version]} on ssh:board failed while trying: Unknown option"
    ):
        program.run(["--onnx=m", *unknown], str(tmp_path), "trying", error=CheckFailed)


def test_a_device_without_it_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(MissingBackend, match=r"ssh:board has no trtexec, .*: sudo apt-get install libnvinfer-bin$"):
        find_trtexec(Board(tmp_path / "board"))


def test_one_that_does_not_start_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "library")
    with pytest.raises(
        MissingBackend, match=r"trtexec of ssh:board does not start \(trtexec: error while loading shared"
    ):
        find_trtexec(Board(tmp_path / "board", "8.6"))


def test_another_program_of_that_name_is_refused(tmp_path: Path) -> None:
    board = Board(tmp_path / "board")
    (board.bin / "trtexec").write_text("#!/bin/sh\necho hello\n")
    (board.bin / "trtexec").chmod(0o755)
    with pytest.raises(DeviceFailed, match="does not tell its version"):
        find_trtexec(board)


def test_a_board_without_a_gpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = find_trtexec(Board(tmp_path / "board", "10.3"))
    monkeypatch.setenv("STAND_IN_FAULT", "no-gpu")
    with pytest.raises(DeviceFailed, match=r"finds no GPU: Cannot find any available devices \(GPUs\)!\.$"):
        program.gpu()
    with pytest.raises(DeviceFailed, match=r"failed while trying: Cannot find any available devices"):
        program.run(["--loadEngine=e"], str(tmp_path), "trying")


def test_bad_ends_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = find_trtexec(Board(tmp_path / "board", "8.6"))
    with pytest.raises(DeviceFailed, match="failed while trying: Error opening engine file: none"):
        program.run(["--loadEngine=none"], str(tmp_path), "trying")
    with pytest.raises(DeviceFailed, match=r"ended with exit code \d while trying \(.*nowhere"):
        program.run(["--loadEngine=none"], str(tmp_path / "nowhere"), "trying")
    (tmp_path / "m.onnx").write_bytes(b"")
    monkeypatch.setenv("STAND_IN_FAULT", "killed")
    with pytest.raises(DeviceFailed, match="was killed by SIGKILL, perhaps for want of memory, while trying"):
        program.run(["--onnx=m.onnx", "--saveEngine=e"], str(tmp_path), "trying", error=CheckFailed)
