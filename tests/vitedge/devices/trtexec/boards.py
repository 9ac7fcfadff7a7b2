# SPDX-License-Identifier: Apache-2.0
"""Boards with a stand-in for trtexec of one version each, reached by a transport that runs ``sh`` on this machine."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.export.tensorrt.bad_files import good
from tests.vitedge.devices.trtexec import stand_in
from vitedge.devices.transports.transport import Completed, Transport
from vitedge.devices.trtexec.program import Trtexec, known_by
from vitedge.errors import DeviceFailed
from vitedge.export.tensorrt.request import EngineRequest

ROOT = Path(__file__).parents[4]
VERSIONS = tuple(stand_in.VERSIONS)
WRAPPER = """#!/bin/sh
echo "$*" >> {log}
export STAND_IN_VERSION={version} PYTHONPATH={root}
exec {python} -S -m {module} "$@"
"""
every_version = pytest.mark.parametrize("version", VERSIONS)
posix = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is started by sh")


def program_of(version: str, transport: Transport) -> Trtexec:
    """The trtexec of a version, known from what its stand-in lists, without a run of it."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        stand_in.Program(version, ["--help"]).run()
    return known_by(transport, "trtexec", Completed(0, told.getvalue(), ""))


class Board:
    """A folder of this machine as a device: see `vitedge.devices.transports.transport.Transport`."""

    def __init__(self, folder: Path, version: str = "") -> None:
        self.name = "ssh:board"
        self.folder = folder
        self.sent: list[str] = []
        self.log = folder / "typed"
        self.bin = folder / "bin"
        self.work = str(folder / "work")
        self.bin.mkdir(parents=True)
        if version:
            wrapper = WRAPPER.format(
                log=self.log, version=version, root=ROOT, python=sys.executable, module=stand_in.__name__
            )
            (self.bin / "trtexec").write_text(wrapper, encoding="utf-8")
            (self.bin / "trtexec").chmod(0o755)

    def run(self, script: str, limit_s: float = 60.0, given: bytes = b"") -> Completed:
        environment = {**os.environ, "PATH": f"{self.bin}:/usr/bin:/bin"}
        try:
            done = subprocess.run(
                ["sh", "-c", script], input=given, env=environment, capture_output=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise DeviceFailed(f"{self.name} did not answer within {limit_s:g} s.") from None
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Completed(code, done.stdout.decode(), done.stderr.decode())

    def command(self, script: str) -> list[str]:
        return ["sh", "-c", script]

    def started(self, script: str) -> subprocess.Popen[bytes]:
        raise NotImplementedError("trtexec is waited for")

    def send(self, path: Path, there: str) -> None:
        content, place = path.read_bytes(), Path(there)
        known = place.read_bytes() if place.exists() else b""
        assert content.startswith(known)
        if content != known:
            self.sent.append(path.name)
            place.write_bytes(content)

    def fetch(self, there: str, path: Path) -> None:
        if not Path(there).exists():
            raise DeviceFailed(f"{self.name} has no {there}.")
        shutil.copyfile(there, path)

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        return None

    def close(self) -> None:
        pass

    def typed(self, word: str = "") -> list[str]:
        """The command lines of trtexec so far that have a word."""
        return [line for line in self.log.read_text(encoding="utf-8").splitlines() if word in line]


def request_of(folder: Path, *changes: tuple[str, str], **rest: object) -> EngineRequest:
    """A build of a product of integers and of one in float16, of a fixed batch unless the changes say otherwise."""
    folder.mkdir(exist_ok=True)
    onnx.save(good(*changes), folder / "model.onnx")
    return EngineRequest(folder / "model.onnx", folder / "model.engine", (), **rest)  # type: ignore[arg-type]


def engine_of(version: str, folder: Path, *changes: tuple[str, str], sizes: str = "") -> str:
    """An engine that the stand-in of a version has built in this process, which is quicker than by a board."""
    request = request_of(folder, *changes)
    shapes = [f"--optShapes={sizes}"] if sizes else []
    program = stand_in.Program(
        version, [f"--onnx={request.onnx}", f"--saveEngine={request.out}", *TYPED[version], *shapes]
    )
    program.given["--skipInference"] = ""
    with contextlib.redirect_stdout(io.StringIO()):
        program.work()
    return str(request.out)


TYPED = {version: ["--fp16", "--int8"] if version.startswith("8") else ["--stronglyTyped"] for version in VERSIONS}
DYNAMIC = (("float16[1,16,32] x", "float16[batch,16,32] x"), ("float16[1,16,32] y", "float16[batch,16,32] y"))
SHAPES = {"x": ((1, 16, 32), (4, 16, 32), (8, 16, 32))}
