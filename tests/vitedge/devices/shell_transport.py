# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a device: its scripts run on this machine by a shell of it, with a home and a PATH of their own."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vitedge.devices.transports.transport import Completed, quoted
from vitedge.errors import DeviceFailed

PROGRAMS = [
    "sh", "cat", "cp", "chmod", "cut", "df", "env", "find", "grep", "id", "kill", "ln", "ls", "mkdir", "mktemp", "mv",
    "nproc", "ps", "readlink", "rm", "sed", "sha256sum", "sleep", "tail", "tee", "touch", "tr", "uname", "wc",
]  # fmt: skip
"""What a plain board has."""


class Transport:
    """See `vitedge.devices.transports.transport.Transport`.

    Args:
        folder: holds the home, the programs and the temporary files of the device.
        shell: the command that runs scripts.
        programs: names of this machine's programs that it has; none are all.
        noise: a script that runs first, as a start-up file of the shell there would.
    """

    name = "stand-in"

    def __init__(
        self, folder: Path, shell: Sequence[str] = ("sh",), programs: Sequence[str] = (), noise: str = ":"
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.sent: list[tuple[str, int]] = []
        self.out_of_reach = False
        self._shell = tuple(shell)
        self._noise = noise
        self._programs = folder / "bin"
        for place in (self.home, self._programs, folder / "tmp"):
            place.mkdir(parents=True, exist_ok=True)
        self.give(programs)
        self._all = not programs

    def give(self, programs: Sequence[str]) -> None:
        """Puts programs of this machine, or of BusyBox where it is the shell, into the device's PATH."""
        for name in programs:
            if self._shell[0] == "busybox":
                (self._programs / name).symlink_to(str(shutil.which("busybox")))
            else:
                (self._programs / name).symlink_to(str(shutil.which(name)))

    def python(self, place: str, packages: Mapping[str, str] | Sequence[str] = (), version: str = "") -> Path:
        """Installs a Python there; returns its path.

        Args:
            place: its path, relative to the home.
            packages: those of this machine that it has, or names and the code of others.
            version: what it says of itself; empty is the truth.
        """
        path = self.home / place
        library = path.with_name(f"{path.name}.packages")
        library.mkdir(parents=True)
        for name in packages:
            if isinstance(packages, Mapping):
                (library / f"{name}.py").write_text(packages[name])
            else:
                found = Path(str(importlib.import_module(name).__file__)).parent
                for folder in (found, found.with_name(f"{name}.libs")):
                    (library / folder.name).symlink_to(folder)
        words = [sys.executable, "-B", "-S"]
        if version:
            start = "runpy.run_path(sys.argv[1], run_name='__main__')"
            words += ["-c", f"import sys, runpy; sys.version_info = ({version}); {start}"]
        path.write_text(f'#!/bin/sh\nPYTHONPATH={quoted([str(library)])} exec {quoted(words)} "$@"\n')
        path.chmod(0o755)
        return path

    @property
    def cache(self) -> Path:
        """The cache of vitedge there."""
        return self.home / ".cache" / "vitedge"

    def runs(self) -> list[Path]:
        """The folders of sessions there."""
        return sorted((self.cache / "runs").glob("*"))

    def running(self) -> list[str]:
        """The commands of the processes there."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"HOME={self.home}\0".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found

    def command(self, script: str) -> list[str]:
        path = os.environ["PATH"] if self._all else ""
        settings = [f"HOME={self.home}", f"TMPDIR={self.folder}/tmp", f"PATH={self._programs}:{path}".rstrip(":")]
        shell = [str(shutil.which(self._shell[0])), *self._shell[1:]]
        return ["env", "-u", "XDG_CACHE_HOME", *settings, *shell, "-c", f"{self._noise}\n{script}"]

    def run(self, script: str, limit_s: float = 60.0, given: bytes = b"") -> Completed:
        client = ["sh", "-c", 'exec 3<&0; "$@" <&3 & wait $!', "client"]  # which alone ends when its time is over
        try:
            done = subprocess.run(
                [*client, *self.command(script)], input=given, capture_output=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise DeviceFailed(f"{self.name} did not answer within {limit_s:g} s.") from None
        return Completed(done.returncode, done.stdout.decode(), done.stderr.decode())

    def started(self, script: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        command = ["sh", "-c", "exit 255"] if self.out_of_reach else self.command(script)
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)

    def send(self, path: Path, there: str) -> None:
        target = Path(there)
        held = target.stat().st_size if target.exists() else 0
        with path.open("rb") as file, target.open("ab") as copy:
            file.seek(held)
            self.sent.append((path.name, copy.write(file.read())))

    def fetch(self, there: str, path: Path) -> None:
        shutil.copyfile(there, path)

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        return DeviceFailed(f"{self.name} hung up.") if code == 255 else None

    def close(self) -> None:
        return


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Waits for a condition; returns whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not asked for its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def killed(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and all of its group, and closes its streams."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
