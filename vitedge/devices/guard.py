# SPDX-License-Identifier: Apache-2.0
"""The script that a session runs on a device from its beginning to its end, and that cleans up whatever ends it.

It makes a private folder for the session, and waits until its standard input ends: because the session is closed, the
process here has died, or the connection is gone. It also ends where no line came for three minutes, for a connection
can break without either side being told. Then it ends what the session started, also what lost its parent, runs the
commands that restore the device's settings, and removes the folder; what a session left whose script was killed, the
next one removes. POSIX sh, and the programs that BusyBox and Android's toybox have too.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from typing import IO

from vitedge.devices.transports.transport import MARK, Transport, announced, quoted
from vitedge.errors import DeviceFailed
from vitedge.sentences import fate

BEAT_S = 20.0
"""Seconds between the lines that a session writes to the script."""
SILENCE_S = 180
"""Seconds without a line after which the script takes the session for dead. Counted, for a board's clock may jump."""

PROCESSES = r"""
born() {
  if { read -r line <"/proc/$1/stat"; } 2>/dev/null; then
    set -- ${line##*) }
    echo "${20}"
  else
    echo $(ps -o lstart= -p "$1" 2>/dev/null)
  fi
}
children() {
  if [ -r /proc/self/stat ]; then
    for stat in /proc/[0-9]*/stat; do
      { read -r line <"$stat"; } 2>/dev/null || continue
      parent=${line##*) }
      parent=${parent#* }
      [ "${parent%% *}" = "$1" ] && echo "${line%% *}"
    done
  else
    ps -A -o pid= -o ppid= 2>/dev/null | while read -r one parent; do [ "$parent" = "$1" ] && echo "$one"; done
  fi
}
kill_tree() {
  kill -STOP "$1" 2>/dev/null
  for child in $(children "$1"); do
    kill_tree "$child"
  done
  kill -KILL "$1" 2>/dev/null
}
end_noted() {
  { read -r pid when <"$1"; } 2>/dev/null && [ "$when" = "$(born "$pid")" ] && kill_tree "$pid"
}
"""
"""Functions: when a process began; what it started; ending it and all of that, each stopped before it is looked
through; and ending the process whose number and begin are noted in a file, unless another has that number by now."""

_GUARD = (
    PROCESSES
    + r"""
clean() {
  for file in "$1"/*.pid; do
    [ -f "$file" ] && end_noted "$file"
  done
  for place in /proc/[0-9]*/cwd; do
    [ "$place" -ef "$1" ] && place=${place%/cwd} && kill_tree "${place#/proc/}"
  done 2>/dev/null
  for file in "$1"/*.restore; do
    [ -f "$file" ] && sh "$file" </dev/null >/dev/null 2>&1
  done
  rm -rf "$1"
}
usable() {
  mkdir -p "$1/files" "$1/runs" && [ -w "$1/files" ] && [ -w "$1/runs" ]
}
umask 077
cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/vitedge
if ! usable "$cache" 2>/dev/null; then
  cache=${TMPDIR:-/tmp}/vitedge-$(id -u)
  usable "$cache" || exit 73
  [ -O "$cache" ] && [ ! -L "$cache" ] || { echo "$cache belongs to someone else" >&2; exit 73; }
fi
here=$(uname -n)-$(readlink /proc/self/ns/pid)
if [ -n "$lost" ] && [ -d "$lost" ]; then
  end_noted "$lost/guard"
  clean "$lost"
fi
for old in "$cache"/runs/*; do
  read -r place <"$old/place" && [ "$place" = "$here" ] && read -r pid when <"$old/guard" || continue
  [ -n "$when" ] && [ "$when" != "$(born "$pid")" ] && clean "$old"
done 2>/dev/null
work=$(mktemp -d "$cache/runs/XXXXXX") || exit 73
echo "$here" >"$work/place"
begin=$(born $$)
echo "$$ $begin" >"$work/guard"
(
  trap '' HUP INT PIPE
  trap 'kill -KILL "$!"; exit' TERM
  trap 'beat=yes' CONT
  beat=yes
  while [ -n "$beat" ]; do
    beat=
    sleep "$silence" &
    wait "$!"
    [ -n "$beat" ] && kill -KILL "$!"
  done
  clean "$work"
  [ "$begin" = "$(born $$)" ] && kill -KILL $$
) </dev/null >/dev/null 2>&1 &
watch=$!
finish() {
  trap '' HUP INT TERM PIPE
  clean "$work"
  kill "$watch"
  exit
}
trap finish HUP INT TERM PIPE
printf '%s\n' "$cache" "$work"
while read -r _; do kill -CONT "$watch"; done 2>/dev/null
finish
"""
)
"""Prints the folder of the cache and that of the session, a line each."""

TIDY = r"""
cd {files} || exit
find . -name '*.part' -mtime +2 -exec rm -f {{}} ';'
total=0
ls -t | while read -r name; do
  size=$(wc -c <"$name") || continue
  total=$((total + size / 1024))
  [ "$total" -gt {limit_kb} ] && rm -f "$name"
done
"""
"""Removes what was left of uploads days ago, and the files of the cache used longest ago, beyond its limit."""

_NO_PLACE = 73
"""Exit code of the script where it can make no folder (sysexits.h, EX_CANTCREAT)."""
_GREETING_S = 60.0
_LEAVE_S = 30.0


def script(silence_s: float = SILENCE_S, lost: str = "") -> str:
    """Returns the script.

    Args:
        silence_s: see `SILENCE_S`.
        lost: the folder of a session whose connection was lost; it is ended first.
    """
    return announced(f"silence={silence_s:g} lost={quoted([lost])}\n{_GUARD}")


class Guard:
    """The script on a device, and the pipe that tells it that this process lives.

    Args:
        transport: the way to the device.
        lost: see `script`.

    Raises:
        DeviceFailed: the device is out of reach, or has no place for a folder.
    """

    def __init__(self, transport: Transport, lost: str = "") -> None:
        self._process = transport.started(script(lost=lost))
        watchdog = threading.Timer(_GREETING_S, self._process.kill)
        watchdog.start()
        try:
            self.cache, self.work = _greeting(self._process.stdout)
        except BaseException:
            self._end()
            raise
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


def _greeting(stream: IO[bytes] | None) -> tuple[str, str]:
    """Returns the two lines after the mark; before it is what the start-up files of the user's shell print."""
    lines = (line.decode(errors="replace").rstrip("\r\n") for line in stream or ())
    for line in lines:
        if line.endswith(MARK):
            return next(lines, ""), next(lines, "")
    return "", ""
