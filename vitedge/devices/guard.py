# SPDX-License-Identifier: Apache-2.0
"""The script that a session runs on a device from its beginning to its end, and that cleans up whatever ends it.

It makes a private folder for the session, and waits until its standard input ends: because the session is closed, the
process here has died, or the connection is gone. It also ends where no line came for three minutes, for a connection
can break without either side being told. Then it ends what the session started, runs the commands that restore the
device's settings, and removes the folder. POSIX sh, and the programs that BusyBox and Android's toybox have too.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from typing import IO

from vitedge.devices.transports.transport import Transport
from vitedge.errors import DeviceFailed
from vitedge.sentences import fate

BEAT_S = 20.0
"""Seconds between the lines that a session writes to the script."""

KILL_TREE = r"""
kill_tree() {
  kill -STOP "$1" 2>/dev/null
  for child in $( (ps -A -o pid= -o ppid= || ps -o pid=,ppid=) 2>/dev/null |
      while read -r pid parent; do [ "$parent" = "$1" ] && echo "$pid"; done); do
    kill_tree "$child"
  done
  kill -KILL "$1" 2>/dev/null
}
"""
"""A function that ends a process and all that it started, the youngest first; each is stopped before that."""

GUARD = (
    KILL_TREE
    + r"""
umask 077
base=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}
mkdir -p "$base" 2>/dev/null && [ -w "$base" ] || base=${TMPDIR:-/tmp}
cache=$base/vitedge
mkdir -p "$cache/files" "$cache/runs" || exit 73
work=$(mktemp -d "$cache/runs/XXXXXX") || exit 73
: >"$work/beat"
clean() {
  trap '' HUP INT TERM PIPE
  for file in "$work"/*.pid; do
    [ -f "$file" ] && kill_tree "$(cat "$file")"
  done
  for file in "$work"/*.restore; do
    [ -f "$file" ] && sh "$file" </dev/null >/dev/null 2>&1
  done
  rm -rf "$work"
}
(
  trap 'kill "$nap" 2>/dev/null; exit' TERM
  while :; do
    sleep 30 & nap=$!
    wait "$nap"
    [ -n "$(find "$work/beat" -mmin -3 2>/dev/null)" ] || { clean; kill -KILL $$; exit; }
  done
) </dev/null >/dev/null 2>&1 &
watch=$!
trap 'clean; kill "$watch"; exit' HUP INT TERM PIPE
printf '%s\n%s\n' "$cache" "$work"
while read -r _; do : >"$work/beat"; done
clean
kill "$watch"
"""
)
"""Prints the folder of the cache and that of the session, a line each."""

TIDY = r"""
cd {files} || exit
total=0
ls -t | while read -r name; do
  size=$(wc -c <"$name") || continue
  total=$((total + size / 1024))
  [ "$total" -gt {limit_kb} ] && rm -f "$name"
done
"""
"""Removes the files of the cache that were used longest ago, beyond its limit."""

_NO_PLACE = 73
"""Exit code of the script where it can make no folder (sysexits.h, EX_CANTCREAT)."""
_GREETING_S = 60.0
_LEAVE_S = 30.0


class Guard:
    """The script on a device, and the pipe that tells it that this process lives.

    Raises:
        DeviceFailed: the device is out of reach, or has no place for a folder.
    """

    def __init__(self, transport: Transport) -> None:
        self._process = transport.started(GUARD)
        watchdog = threading.Timer(_GREETING_S, self._process.kill)
        watchdog.start()
        try:
            self.cache, self.work = (_line(self._process.stdout) for _ in range(2))
        finally:
            watchdog.cancel()
        if not self.work:
            raise self._refused(transport)
        self._over = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def close(self) -> None:
        """Lets the script clean up, and waits for that; where the connection is gone it does so by itself."""
        self._over.set()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_S)
        self._end()

    def _beat(self) -> None:
        stream = self._process.stdin
        with contextlib.suppress(OSError, ValueError):  # closed, or broken: whoever uses the connection says so
            while stream is not None:
                stream.write(b"\n")
                stream.flush()
                if self._over.wait(BEAT_S):
                    return

    def _refused(self, transport: Transport) -> DeviceFailed:
        self._process.kill()
        code = self._process.wait()
        said = (self._process.stderr.read() if self._process.stderr else b"").decode(errors="replace")
        self._end()
        if code == _NO_PLACE:
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            return DeviceFailed(f"{transport.name} has no place for a folder of vitedge: {' '.join(lines[-1:])}.")
        return transport.lost(code, said) or DeviceFailed(
            f"{transport.name} ended the session at once: it {fate(code)}."
        )

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _line(stream: IO[bytes] | None) -> str:
    return stream.readline().decode(errors="replace").strip() if stream is not None else ""
