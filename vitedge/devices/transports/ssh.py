# SPDX-License-Identifier: Apache-2.0
"""A way through the system's ``ssh``: with the user's configuration, keys and jump hosts, and never a password.

All commands share one connection where the system has that (ssh_config(5), ``ControlMaster``): the first one that runs
carries the others.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from vitedge.devices.transports.transport import MARK, Completed, after_mark, announced, quoted
from vitedge.errors import BadRecipe, ConnectionLost, DeviceFailed, MissingBackend
from vitedge.files.replacing import replacing_file

INSTALL = "sudo apt-get install openssh-client (on Fedora: sudo dnf install openssh-clients)"
CONNECTION_FAILED = 255
"""Exit code of ssh where it failed itself (ssh(1), "EXIT STATUS")."""
_HOST = re.compile(r"[A-Za-z0-9_.\-@%\[\]:]+")
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ForwardX11": "no",
    "LogLevel": "ERROR",
}
_POSIX = os.name == "posix"
_PREFIX = "vitedge-ssh-"
_LONGEST = 80
"""Bytes of a socket's path for which there is room on every system, with the ending that ssh gives it at first."""
_STALE_S = 600.0
"""Age of an empty folder from which it is one that a killed process left."""
_LIMIT_S = 3600.0
"""Seconds that one file may take; a connection that is dead is found by ssh itself, in half a minute."""
_REMEDIES = {
    "Host key verification failed": "its key is not known here, type ssh {host} once and accept it",
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "its key is another than it was, see ssh-keygen -R {host}",
    "Permission denied": "no key of yours is accepted there, type ssh-copy-id {host}",
    "Could not resolve hostname": "check the name, or give it a Host entry in ~/.ssh/config",
    "Connection refused": "no ssh server listens at that port, check that the device is on and sshd runs there",
    "Connection timed out": "check that the device is on and in the same network",
    "No route to host": "check that the device is on and in the same network",
}
"""A part of what ssh says, to what can be done about it."""


class Transport:
    """A way to one host. See `vitedge.devices.transports.transport.Transport`."""

    def __init__(self, address: str) -> None:
        """Takes ``HOST`` or ``USER@HOST``, either with ``:PORT``; connects to nothing yet.

        Raises:
            BadRecipe: that is no host.
            MissingBackend: this machine has no ssh.
        """
        self._host, self._port = _parse(address)
        self.name = f"ssh:{address}"
        program = shutil.which("ssh")
        if program is None:
            raise MissingBackend(f"{self.name} needs the program ssh, which is not here; type: {INSTALL}")
        self._program = program
        self._folder = _folder_of_socket()

    def run(self, script: str, limit_s: float = 60.0, given: bytes = b"") -> Completed:
        """Runs a script there and waits for its end."""
        done = self._ended(self.command(announced(script)), limit_s, input=given)
        failed = self.lost(done.code, done.err)
        if failed is not None:
            raise failed
        return Completed(done.code, after_mark(done.out), done.err)

    def command(self, script: str) -> list[str]:
        """Returns the ssh command of a script; the user's shell there may be any."""
        options = dict(_OPTIONS)
        if _POSIX:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path = str(self._socket).replace("%", "%%")
            options.update(ControlMaster="auto", ControlPersist="no", ControlPath=f'"{path}"')
        port = ["-p", self._port] if self._port else []
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return [self._program, "-T", *settings, *port, "--", self._host, _for_any_shell(script)]

    def started(self, script: str) -> subprocess.Popen[bytes]:
        """Starts a script there with pipes for its streams."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(script), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=_POSIX)

    def send(self, path: Path, there: str) -> None:
        """Appends what the file there lacks; after a lost connection the next call goes on where that one ended."""
        held = self.run(f"wc -c <{quoted([there])} 2>/dev/null || echo 0").out.strip()
        begin = int(held) if held.isdigit() and int(held) <= path.stat().st_size else 0
        command = self.command(f"cat {'>>' if begin else '>'} {quoted([there])}")
        with path.open("rb") as file:
            file.seek(begin)
            done = self._ended(command, _LIMIT_S, stdin=file)
        self._check(done, f"{path.name} could not be sent to {self.name}")

    def fetch(self, there: str, path: Path) -> None:
        """Writes the file here with the content of the one there."""
        with replacing_file(path) as beside, beside.open("wb") as file, tempfile.TemporaryFile() as log:
            command = self.command(announced(f"exec cat {quoted([there])}"))
            code = _copied(command, file, log)
            log.seek(0)
            self._check(Completed(code, "", _text(log.read())), f"{there} could not be fetched from {self.name}")

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        """Returns the error for a connection that failed, with what ssh said and what can be done about it."""
        if code != CONNECTION_FAILED:
            return None
        lines = [line.strip().rstrip(".") for line in said.splitlines() if line.strip()]
        words = lines[-1] if lines else "ssh said nothing"
        remedy = next((text for part, text in _REMEDIES.items() if part in said), "")
        if remedy:
            return DeviceFailed(f"{self.name} is out of reach ({words}): {remedy.format(host=self._host)}.")
        return ConnectionLost(f"The connection to {self.name} was lost: {words}.")

    def close(self) -> None:
        """Ends the connection."""
        if self._socket.exists():
            path = str(self._socket).replace("%", "%%")
            with contextlib.suppress(DeviceFailed):  # a connection that hangs ends with the process that holds it
                self._ended([self._program, "-S", path, "-O", "exit", "--", self._host], 10.0)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _socket(self) -> Path:
        return self._folder / "c"

    def _check(self, done: Completed, what: str) -> None:
        failed = self.lost(done.code, done.err)
        if failed is not None:
            raise failed
        if done.code:
            raise DeviceFailed(f"{what}: {done.last_words}.")

    def _ended(self, command: list[str], limit_s: float, **streams: Any) -> Completed:
        """Runs a command of this machine to its end; its output is kept where it goes nowhere else.

        It is in a session of its own: Ctrl-C reaches vitedge alone, which then cleans up through the connection.

        Raises:
            DeviceFailed: it took too long.
        """
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        try:
            done = subprocess.run(command, check=False, timeout=limit_s, start_new_session=_POSIX, **pipes)
        except subprocess.TimeoutExpired:
            raise DeviceFailed(f"{self.name} did not answer within {limit_s:g} s.") from None
        return Completed(done.returncode, _text(done.stdout), _text(done.stderr))


def _copied(command: list[str], file: IO[bytes], log: IO[bytes]) -> int:
    """Runs a command to its end, and writes what its script prints; returns its exit code."""
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nothing, stdout=pipe, stderr=log, start_new_session=_POSIX) as process:
        watchdog = threading.Timer(_LIMIT_S, process.kill)
        watchdog.start()
        try:
            for line in process.stdout or ():
                if line.rstrip().endswith(MARK.encode()):
                    break
            shutil.copyfileobj(process.stdout or io.BytesIO(), file)
        except BaseException:
            process.kill()
            raise
        finally:
            watchdog.cancel()
    return process.returncode


def _folder_of_socket() -> Path:
    """Makes a folder of our own for the connection's socket, whose path has to be short and plain."""
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > _LONGEST - len(_PREFIX) - 12 or '"' in place:
        place = "/tmp"  # noqa: S108 - the folder in it is made by mkdtemp
    for left in Path(place).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                left.rmdir()
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))


def _for_any_shell(script: str) -> str:
    """Returns a command line that runs a script by sh, whatever shell the user has there.

    Between single quotes csh ends at a newline and expands an exclamation mark, fish takes a backslash for an escape,
    and every shell ends at a quote: printf puts these four in again.
    """
    text = re.sub(r"[\\\n'!]", lambda found: f"\\0{ord(found[0]):03o}", script)
    return f"sh -c 'eval \"$(printf %b \"$1\")\"' sh '{text}'"


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")


def _parse(address: str) -> tuple[str, str]:
    """Returns host and port, which is empty where none is given.

    Raises:
        BadRecipe: that is no host, or one that ssh could take for an option.
    """
    host, port = address, ""
    if re.search(r"[^:]:\d+$", address) and address.count(":") == 1:
        host, _, port = address.rpartition(":")
    if not host:
        raise BadRecipe("ssh needs a host: --device ssh:HOST, as ssh itself takes it.")
    if host.startswith("-") or "@-" in host or not _HOST.fullmatch(host):
        raise BadRecipe(f"{address!r} is no host that ssh takes: --device ssh:HOST, ssh:USER@HOST or ssh:HOST:PORT.")
    return host, port
