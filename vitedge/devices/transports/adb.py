# SPDX-License-Identifier: Apache-2.0
"""A way through the system's ``adb``, to an Android device.

adb tells less than it seems to. Where the connection breaks in the middle of a command, its client ends with exit code
0; and a command whose client has gone lives on, for the daemon hangs up on the shell alone. So every script runs under
a shell that hands the hang-up on to all of it, and that writes its exit code last: without that line it was cut off.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from vitedge.devices.transports.transport import Completed, quoted
from vitedge.errors import BadRecipe, ConnectionLost, DeviceFailed, MissingBackend
from vitedge.files.replacing import replacing_file

INSTALL = "sudo apt-get install adb (on macOS: brew install --cask android-platform-tools)"

_GUARD = """exec 3<&0
sh -c {script} <&3 3<&- &
p=$!
trap 'trap "" HUP; kill -HUP -$$ || kill -HUP $p; wait $p' HUP
wait $p
"""
"""Runs a script, and hangs up on all of it when the daemon hangs up, so that a script which has to clean up still can.
The daemon makes each shell a process group. Input goes through a number of its own: sh gives background processes none.
"""

_FINISHED = """c=$?
trap '' HUP
printf '\\n{token} %s\\n' $c >&2
exit $c
"""

_ANSWER_S = 20.0
"""Seconds that adb's own questions may take; the first starts its server."""
_SETTLE_S = 3.0
"""Seconds in which a device may become usable: a server that has just started calls it offline for a moment."""
_SLOWEST = 250_000
"""Bytes a second below which a copy counts as stuck."""

_PASSING = ("offline", "authorizing", "connecting")
_STATES: Mapping[str, str] = {
    "unauthorized": "has not authorized this machine: accept the dialog on its screen, and run the command again",
    "authorizing": "is about to ask whether this machine may use it: accept the dialog, and run the command again",
    "offline": "is offline: plug it in again, or type: adb reconnect offline",
    "no permissions": (
        "may not be used by this user: on Debian and Ubuntu type: sudo apt-get install "
        "android-sdk-platform-tools-common, and plug it in again"
    ),
}
"""Beginning of the state that adb gives a device which cannot be used, to what there is to do."""


class Transport:
    """An Android device. See `vitedge.devices.transports.transport.Transport`.

    Args:
        address: the serial number; empty is that of ANDROID_SERIAL, or of the only device.

    Raises:
        MissingBackend: there is no adb.
        BadRecipe: there are several devices, and the address does not say which.
        DeviceFailed: there is none, or it cannot be used.
    """

    def __init__(self, address: str = "") -> None:
        self._adb = _program()
        self._serial = self._chosen(address or os.environ.get("ANDROID_SERIAL", ""))
        self.name = f"adb:{self._serial}"

    def run(self, script: str, limit_s: float = 60.0, given: bytes = b"") -> Completed:
        """Runs a script there and waits for its end, whatever its exit code."""
        return self._run(script, limit_s, given)

    def command(self, script: str) -> list[str]:
        """Returns the client's command for a script there."""
        return self._shell(_GUARD.format(script=quoted([script])) + "exit $?")

    def started(self, script: str) -> subprocess.Popen[bytes]:
        """Starts a script there, which gets a hang-up when the client is killed."""
        return subprocess.Popen(
            self.command(script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the command alone, which then ends what it started
        )

    def send(self, path: Path, there: str) -> None:
        """Appends to a file there what it lacks of the file ``path``; ``adb push`` could only begin anew."""
        size = path.stat().st_size
        held = self._held(there)
        if held > size:
            raise DeviceFailed(
                f"{there} on {self.name} has {held} bytes and {path} has {size}, so it is another file: "
                f"type: adb -s {self._serial} shell rm {quoted([there])}"
            )
        with path.open("rb", buffering=0) as stream:
            stream.seek(held)
            done = self._run(f"cat >> {quoted([there])}", _copy_limit(size - held), stream)
        if done.code:
            raise DeviceFailed(f"{path} could not be copied to {there} on {self.name}: {done.last_words}")
        held = self._held(there)
        if held != size:
            raise ConnectionLost(f"{self.name} got {held} of the {size} bytes of {path}; the same command continues.")

    def fetch(self, there: str, path: Path) -> None:
        """Writes the file ``path`` with the content of ``there``, in one step."""
        size = self._held(there, must_exist=True)
        with replacing_file(path) as beside:
            done = self._ask(["-s", self._serial, "pull", "--", there, str(beside)], _copy_limit(size))
            if done.code or not beside.is_file() or beside.stat().st_size != size:
                raise self._failure(f"{there} could not be copied from {self.name}", done.err + done.out)

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        """Returns the error for a connection that failed: 0 is also what the client ends with where it broke."""
        if code == 0:
            return self._failure(f"The connection to {self.name} was lost", said)
        try:
            _check_state(self._serial, self._devices().get(self._serial, "gone"))
        except DeviceFailed:
            return self._failure(f"The connection to {self.name} was lost", said)
        return None

    def close(self) -> None:
        """Does nothing: every command is a connection of its own, and adb's server stays for others."""

    def _shell(self, script: str) -> list[str]:
        return [self._adb, "-s", self._serial, "shell", "-T", "--", script]

    def _run(self, script: str, limit_s: float, given: bytes | IO[bytes]) -> Completed:
        token = secrets.token_hex(8)
        command = self._shell(_GUARD.format(script=quoted([script])) + _FINISHED.format(token=token))
        feed: dict[str, bytes | IO[bytes]] = {"input": given} if isinstance(given, bytes) else {"stdin": given}
        try:
            done = subprocess.run(command, capture_output=True, timeout=limit_s, check=False, **feed)  # type: ignore[call-overload]
        except subprocess.TimeoutExpired:
            raise DeviceFailed(f"{self.name} did not answer within {limit_s:g} s; what ran there was ended.") from None
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        before, separator, after = err.rpartition(f"\n{token} ")
        code = after.split("\n", 1)[0]
        if not separator or not code.isdigit():
            raise self._failure(f"The connection to {self.name} was lost", err)
        return Completed(int(code), out, before + after.partition("\n")[2])

    def _held(self, there: str, *, must_exist: bool = False) -> int:
        """Returns the bytes of a file there; 0 where there is none, unless it must be there."""
        place = quoted([there])
        test = f"test -f {place} && wc -c < {place}" + ("" if must_exist else f" || test ! -e {place}")
        done = self.run(test)
        if done.code:
            raise DeviceFailed(f"{there} on {self.name} is no file that can be read: {done.last_words}")
        return int(done.out.strip() or 0)

    def _ask(self, arguments: list[str], limit_s: float = _ANSWER_S) -> Completed:
        """Returns what adb's client says to arguments of its own."""
        try:
            done = subprocess.run(
                [self._adb, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceFailed(
                f"adb gave no answer within {limit_s:g} s to: adb {quoted(arguments)}; type: adb kill-server, "
                "and run the command again"
            ) from None
        return Completed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def _devices(self) -> dict[str, str]:
        """Returns the serial number of every device, and the state that adb gives it."""
        done = self._ask(["devices"])
        if done.code:
            raise DeviceFailed(f"adb's server cannot be reached ({_words(done.err)}); type: adb start-server")
        lines = (line.partition("\t") for line in done.out.splitlines() if "\t" in line)
        return {serial: state for serial, _, state in lines}

    def _chosen(self, serial: str) -> str:
        devices = self._devices()
        end = time.monotonic() + _SETTLE_S
        while devices.get(serial or next(iter(devices), "")) in _PASSING and time.monotonic() < end:
            time.sleep(0.1)
            devices = self._devices()
        if not devices:
            raise DeviceFailed(
                "No Android device is connected: plug one in, switch on USB debugging in its developer options, "
                "and see that this lists it: adb devices"
            )
        if not serial and len(devices) > 1:
            raise BadRecipe(
                f"{len(devices)} Android devices are connected ({', '.join(devices)}), so say which one: "
                f"--device adb:{next(iter(devices))}"
            )
        serial = serial or next(iter(devices))
        if serial not in devices:
            raise DeviceFailed(
                f"No Android device {serial} is connected, but {', '.join(devices)}: --device adb:{next(iter(devices))}"
            )
        _check_state(serial, devices[serial])
        return serial

    def _failure(self, what: str, said: str) -> DeviceFailed:
        """Returns the error for a command that did not come to its end, by adb's own words and the device's state."""
        if "support PTY args" in said or "support shell protocol" in said:
            return DeviceFailed(
                f"{self.name} runs an Android before 7, whose shell tells no exit codes: use a newer one"
            )
        try:
            state = self._devices().get(self._serial, "")
        except DeviceFailed as error:
            return ConnectionLost(f"{what} ({error})")
        if not state:
            return ConnectionLost(f"{what}; it is not connected any more: connect it, and run the same command again")
        try:
            _check_state(self._serial, state)
        except DeviceFailed as error:
            return error
        return ConnectionLost(f"{what} ({_words(said)}); run the same command again")


def _program() -> str:
    """Returns the path of adb: on the search path, or where Android's SDK puts it."""
    folders = [Path(os.environ[name]) for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT") if os.environ.get(name)]
    search = os.pathsep.join(str(folder / "platform-tools") for folder in folders)
    found = shutil.which("adb") or (shutil.which("adb", path=search) if search else None)
    if not found:
        raise MissingBackend(f"adb is not installed, and --device adb needs it; type: {INSTALL}")
    return found


def _check_state(serial: str, state: str) -> None:
    """Refuses a device that adb sees and that cannot be used."""
    if state != "device":
        known = (remedy for beginning, remedy in _STATES.items() if state.startswith(beginning))
        remedy = next(known, f"cannot be used ({state}); see: adb devices")
        raise DeviceFailed(f"The Android device {serial} {remedy}")


def _copy_limit(size: int) -> float:
    return 60.0 + size / _SLOWEST


def _words(said: str) -> str:
    """Returns the last thing that adb said, without its own name before it."""
    lines = [re.sub(r"^(adb|error): ", "", line.strip()) for line in said.splitlines()]
    return next((line.rstrip(".") for line in reversed(lines) if line and not line.startswith("*")), "adb said nothing")
