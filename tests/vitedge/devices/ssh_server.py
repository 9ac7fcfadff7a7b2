# SPDX-License-Identifier: Apache-2.0
"""A real ssh server on a loopback port, with its own keys, configuration and host key, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INSTALL = "apt-get install openssh-server openssh-client"


def is_missing() -> bool:
    """Whether this machine lacks a server or a client."""
    return server_program() is None or shutil.which("ssh") is None


def server_program() -> str | None:
    """The path of sshd, which is not in the PATH of ordinary users; None where there is none."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


@dataclass
class Server:
    """A running server; `bin` has an ``ssh`` that knows the host ``board``, and goes in front of PATH."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def bin(self) -> Path:
        """The folder of the client."""
        return self.folder / "bin"

    @property
    def cache(self) -> Path:
        """The cache of vitedge on the far end."""
        return self.folder / "far" / "vitedge"

    def add_host(self, name: str, **environment: str) -> None:
        """Gives the server another name, which sends variables that its settings have to accept (``AcceptEnv``)."""
        told = " ".join(f'{key}="{value}"' for key, value in environment.items())
        with (self.folder / "ssh_config").open("a") as file:
            file.write(
                f"Host {name}\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
                f"  IdentityFile {self.folder}/user\n  SetEnv {told}\n"
            )

    def running(self) -> list[str]:
        """The commands of the processes on the far end, and of ssh on this one."""
        found = []
        marks = (f"XDG_CACHE_HOME={self.folder}/far\0".encode(), f"-F\0{self.folder}/ssh_config\0".encode())
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes()
                if marks[0] in (folder / "environ").read_bytes() or marks[1] in command:
                    found.append(f"{folder.name} {command.replace(bytes(1), b' ').decode(errors='replace')[:200]}")
        return [*found, *(f"{pid} sshd" for pid in _below(self.process.pid))]

    def runs(self) -> list[Path]:
        """The folders of sessions there."""
        return list((self.cache / "runs").glob("*"))

    def signal(self, number: int) -> None:
        """Sends a signal to the server's processes for connections, not to what they started."""
        for pid in _below(self.process.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    os.kill(pid, number)

    def drop(self) -> None:
        """Breaks every connection, as a cable that is pulled does; the server goes on."""
        self.signal(signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """The processes that one started, and theirs."""
    said = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    children = [int(word) for word in said.split()]
    return [found for child in children for found in (child, *_below(child))]


@contextlib.contextmanager
def serving(folder: Path, path: str = "", settings: str = "", first: str = ":") -> Iterator[Server]:
    """Starts a server in an empty folder.

    Args:
        folder: of everything that it has.
        path: goes in front of the far end's PATH.
        settings: lines of sshd_config(5).
        first: a command that the far end's shell runs first, as a start-up file may.
    """
    for place in ("bin", "far"):
        (folder / place).mkdir(parents=True)
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copyfile(folder / "user.pub", folder / "authorized")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    search = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/sshd.pid\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"PermitRootLogin yes\nLogLevel ERROR\nSubsystem sftp internal-sftp\n"
        # The user's shell may put a PATH of its own in front, so this is set behind it.
        f"ForceCommand {first}; exec env PATH={search} HOME={folder}/far XDG_CACHE_HOME={folder}/far "
        f'sh -c "$SSH_ORIGINAL_COMMAND"\n{settings}'
    )
    key = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
    (folder / "ssh_config").write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentityFile {folder}/user\n"
        f"Host stranger\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/stranger\n"
        f"Host unknown\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentityFile {folder}/user\n"
        f"  UserKnownHostsFile {folder}/none\n"
        f"Host *\n  UserKnownHostsFile {folder}/known\n  GlobalKnownHostsFile /dev/null\n  IdentitiesOnly yes\n"
    )
    client = folder / "bin" / "ssh"
    client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    client.chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)
    program = server_program()
    assert program is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        _wait(port, process)
        yield Server(folder, port, process)
    finally:
        process.terminate()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, "sshd ended"
        time.sleep(0.05)
    raise AssertionError("sshd does not listen")
