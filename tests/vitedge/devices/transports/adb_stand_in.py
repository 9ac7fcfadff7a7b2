# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the server of adb and the phones behind it: it speaks what the real client asks of both.

The server's own requests, the shell service of version 2, and file synchronization, as `SERVICES.TXT` and `SYNC.TXT` of
adb's documentation describe them. A command runs in this machine's ``sh``, in a folder that poses as the phone, as a
session of its own; the shell alone gets a hang-up when its connection ends, as the daemon on a phone does it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VERSION = 41
"""Of the protocol between client and server; a client ends a server of another version and starts its own."""
FEATURES = b"shell_v2,cmd,stat_v2,apex,abb"
UNAUTHORIZED = (
    "device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n"
    "Try 'adb kill-server' if that seems wrong.\nOtherwise check for a confirmation dialog on your device."
)
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)


def android_programs(folder: Path) -> str:
    """Returns a search path with Android's own shell and tools, and nothing else; skips where they are missing."""
    shell, toybox = shutil.which("mksh"), shutil.which("toybox")
    if not shell or not toybox:
        pytest.skip("sudo apt-get install mksh toybox")
    (folder / "sh").symlink_to(shell)
    for name in subprocess.run([toybox], capture_output=True, text=True, check=True).stdout.split():
        if name != "sh":
            (folder / name).symlink_to(toybox)
    return str(folder)


class AdbStandIn:
    """A server on a loopback port.

    Args:
        folder: is the phones' current folder.
        devices: serial number to state, such as ``device``, ``offline`` or ``unauthorized``.
        programs: the phones' search path; its ``sh`` runs their commands.
    """

    def __init__(self, folder: Path, devices: dict[str, str], programs: str = os.environ["PATH"]) -> None:
        self.folder = folder
        self.programs = programs
        self.devices = devices
        self.services: list[str] = []
        """Every request to the server or to a phone, in order."""
        self.packets: list[int] = []
        """Bytes of each packet of input that a shell got."""
        self.shells: list[subprocess.Popen[bytes]] = []
        self.cut_after: int | None = None
        """Bytes of input after which the server dies."""
        self._connections: list[socket.socket] = []
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.stand_in = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """The variable that sends the real client here. For an address in numbers it starts no server of its own."""
        return {"ADB_SERVER_SOCKET": f"tcp:127.0.0.1:{self._server.server_address[1]}"}

    def hold(self, connection: socket.socket) -> None:
        """Remembers a connection that ends when the server dies."""
        self._connections.append(connection)

    def die(self) -> None:
        """Ends every connection at once, as a server that is killed or a cable that is pulled."""
        threading.Thread(target=self._server.shutdown, daemon=True).start()
        self._server.socket.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def running(self) -> list[int]:
        """Returns the processes of all sessions that shells were started in, those of shells that ended among them."""
        sessions = {shell.pid for shell in self.shells}
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) in sessions and state != "Z":
                    found.append(int(entry.name))
        return found

    def is_idle(self, within_s: float = 3.0) -> bool:
        """Returns whether nothing that was started on the phone is running any more, after a while at most."""
        end = time.monotonic() + within_s
        while self.running():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """Ends the server and what it left running."""
        self.die()
        for pid in self.running():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    stand_in: AdbStandIn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a connection that breaks is what the tests are about."""


class _RefusedError(Exception):
    """The server's answer is FAIL with this text."""


class _Connection(socketserver.BaseRequestHandler):
    request: socket.socket

    def handle(self) -> None:
        self._stand_in: AdbStandIn = self.server.stand_in  # type: ignore[attr-defined]
        self._stand_in.hold(self.request)
        with contextlib.suppress(ConnectionError, OSError):
            while True:
                service = self._read(int(self._read(4), 16)).decode()
                self._stand_in.services.append(service)
                try:
                    if self._answer(service):
                        return
                except _RefusedError as refused:
                    text = str(refused).encode()
                    self.request.sendall(b"FAIL" + b"%04x" % len(text) + text)
                    return

    def _answer(self, service: str) -> bool:
        """Answers one request; returns whether the connection is at its end."""
        for prefix, then in self._services().items():
            if service.startswith(prefix):
                return then(service.removeprefix(prefix))
        raise _RefusedError(f"unknown service {service}")

    def _services(self) -> dict[str, Callable[[str], bool]]:
        return {
            "host:version": lambda _: self._say(b"%04x" % VERSION),
            "host:devices": self._devices,
            "host:features": lambda _: self._say(FEATURES) if self._chosen("") else True,
            "host:host-features": lambda _: self._say(FEATURES),
            "host:transport-any": self._transport,
            "host:transport:": self._transport,
            "host:tport:any": self._tport,
            "host:tport:serial:": self._tport,
            "host-serial:": self._of_serial,
            "shell,v2": self._shell,
            "sync:": self._sync,
        }

    def _say(self, text: bytes) -> bool:
        self.request.sendall(b"OKAY%04x" % len(text) + text)
        return True

    def _devices(self, _: str) -> bool:
        lines = (f"{serial}\t{state}\n" for serial, state in self._stand_in.devices.items())
        return self._say("".join(lines).encode())

    def _of_serial(self, rest: str) -> bool:
        serial, _, question = rest.rpartition(":")
        self._chosen(serial)
        return self._say(FEATURES if question == "features" else b"device")

    def _transport(self, serial: str) -> bool:
        self._chosen(serial)
        self.request.sendall(b"OKAY")
        return False

    def _tport(self, serial: str) -> bool:
        self._chosen(serial)
        self.request.sendall(b"OKAY" + struct.pack("<Q", 1))
        return False

    def _chosen(self, serial: str) -> str:
        devices = self._stand_in.devices
        if serial and serial not in devices:
            raise _RefusedError(f"device '{serial}' not found")
        if not serial and len(devices) != 1:
            raise _RefusedError("more than one device/emulator" if devices else "no devices/emulators found")
        chosen = serial or next(iter(devices))
        if devices[chosen] != "device":
            raise _RefusedError(UNAUTHORIZED if devices[chosen] == "unauthorized" else f"device {devices[chosen]}")
        return chosen

    def _shell(self, rest: str) -> bool:
        command = rest.partition(":")[2]
        self.request.sendall(b"OKAY")
        shell = subprocess.Popen(
            [shutil.which("sh", path=self._stand_in.programs) or "sh", "-c", command],
            cwd=self._stand_in.folder,
            env={"PATH": self._stand_in.programs, "HOME": str(self._stand_in.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._stand_in.shells.append(shell)
        listener = threading.Thread(target=self._feed, args=(shell,), daemon=True)
        listener.start()
        with shell, contextlib.suppress(ConnectionError, OSError):
            self._forward(shell)
            code = shell.wait()
            self._packet(_EXIT, bytes([code if code >= 0 else 128 - code]))
        return True

    def _feed(self, shell: subprocess.Popen[bytes]) -> None:
        """Hands packets of input to the shell; hangs up on it when the connection ends."""
        stdin: Any = shell.stdin
        taken = 0
        try:
            while True:
                kind, length = struct.unpack("<BI", self._read(5))
                content = self._read(length)
                if kind == _STDIN:
                    self._stand_in.packets.append(length)
                    taken += length
                    with contextlib.suppress(BrokenPipeError):
                        stdin.write(content)
                        stdin.flush()
                if kind == _CLOSE_STDIN:
                    stdin.close()
                if self._stand_in.cut_after is not None and taken > self._stand_in.cut_after:
                    self._stand_in.die()
        except (ConnectionError, OSError, ValueError):
            with contextlib.suppress(OSError):
                os.kill(shell.pid, signal.SIGHUP)  # the shell alone, not its children

    def _forward(self, shell: subprocess.Popen[bytes]) -> None:
        with selectors.DefaultSelector() as selector:
            for stream, kind in ((shell.stdout, _STDOUT), (shell.stderr, _STDERR)):
                selector.register(stream, selectors.EVENT_READ, kind)  # type: ignore[arg-type]
            while selector.get_map():
                for key, _ in selector.select():
                    content = os.read(key.fd, 65536)
                    if content:
                        self._packet(key.data, content)
                    else:
                        selector.unregister(key.fileobj)

    def _packet(self, kind: int, content: bytes) -> None:
        self.request.sendall(struct.pack("<BI", kind, len(content)) + content)

    def _sync(self, _: str) -> bool:
        self.request.sendall(b"OKAY")
        while True:
            request, length = struct.unpack("<4sI", self._read(8))
            if request == b"QUIT":
                return True
            path = self._read(length).decode()
            {b"STAT": self._stat, b"STA2": self._stat2, b"LST2": self._stat2, b"RECV": self._recv, b"SEND": self._send}[
                request
            ](request, path)

    def _place(self, path: str) -> Path:
        return self._stand_in.folder / path

    def _stat(self, request: bytes, path: str) -> None:
        place = self._place(path)
        facts = place.stat() if place.exists() else None
        found = (facts.st_mode, facts.st_size, int(facts.st_mtime)) if facts else (0, 0, 0)
        self.request.sendall(struct.pack("<4sIII", request, *found))

    def _stat2(self, request: bytes, path: str) -> None:
        place = self._place(path)
        if not place.exists():
            self.request.sendall(struct.pack("<4sI", request, 2) + bytes(64))
            return
        facts = place.stat()
        numbers = (0, facts.st_dev, facts.st_ino, facts.st_mode, facts.st_nlink, facts.st_uid, facts.st_gid)
        times = (int(facts.st_atime), int(facts.st_mtime), int(facts.st_ctime))
        self.request.sendall(struct.pack("<4sIQQIIIIQqqq", request, *numbers, facts.st_size, *times))

    def _recv(self, _: bytes, path: str) -> None:
        try:
            with self._place(path).open("rb") as stream:
                while content := stream.read(65536):
                    self.request.sendall(struct.pack("<4sI", b"DATA", len(content)) + content)
            self.request.sendall(struct.pack("<4sI", b"DONE", 0))
        except OSError as error:
            self._fail(error)

    def _send(self, _: bytes, target: str) -> None:
        path, _, mode = target.rpartition(",")
        with self._place(path).open("wb") as stream:
            while True:
                kind, length = struct.unpack("<4sI", self._read(8))
                if kind == b"DONE":
                    break
                stream.write(self._read(length))
        self._place(path).chmod(int(mode) & 0o777)
        self.request.sendall(struct.pack("<4sI", b"OKAY", 0))

    def _fail(self, error: OSError) -> None:
        text = f"open failed: {error.strerror}".encode()
        self.request.sendall(struct.pack("<4sI", b"FAIL", len(text)) + text)

    def _read(self, count: int) -> bytes:
        content = bytearray()
        while len(content) < count:
            piece = self.request.recv(count - len(content))
            if not piece:
                raise ConnectionError
            content += piece
        return bytes(content)
