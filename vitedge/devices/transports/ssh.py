# SPDX-License-Identifier: Apache-2.0
"""A way through the system's ``ssh``: with the user's configuration, keys and jump hosts, and never a password.

All commands share one connection where the system has that (ssh_config(5), ``ControlMaster``): the first one that runs
carries the others.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from vitedge.devices.transports.transport import Completed, quoted
from vitedge.errors import BadRecipe, ConnectionLost, DeviceFailed, MissingBackend

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
            raise MissingBackend(f"{self.name} needs the program ssh, which is not here: install OpenSSH's client.")
        self._program = program
        # A path of its own and short: a socket's may have some hundred bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="vitedge-"))

    def run(self, script: str, limit_s: float = 60.0, given: bytes = b"") -> Completed:
        """Runs a script there and waits for its end."""
        done = self._ended(self.command(script), limit_s, input=given)
        failed = self.lost(done.code, done.err)
        if failed is not None:
            raise failed
        return done

    def command(self, script: str) -> list[str]:
        """Returns the ssh command of a script; the user's shell there may be any."""
        options = dict(_OPTIONS)
        if _POSIX:
            options.update(ControlMaster="auto", ControlPersist="no", ControlPath=str(self._socket))
        port = ["-p", self._port] if self._port else []
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return [self._program, "-T", *settings, *port, "--", self._host, quoted(["sh", "-c", script])]

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
        with path.open("wb") as file:
            done = self._ended(self.command(f"cat {quoted([there])}"), _LIMIT_S, stdin=subprocess.DEVNULL, stdout=file)
        self._check(done, f"{there} could not be fetched from {self.name}")

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
            self._ended([self._program, "-S", str(self._socket), "-O", "exit", "--", self._host], 10.0)
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
