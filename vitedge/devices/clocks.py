# SPDX-License-Identifier: Apache-2.0
"""Locks the clocks of a device at their largest values, and leaves to the session's guard how they are restored.

The way back is written down before a clock is touched, so that the guard restores it whatever ends the session.
"""

from __future__ import annotations

from collections.abc import Callable

from vitedge.devices.transports.transport import Completed
from vitedge.errors import DeviceFailed

SCRIPT = r"""
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
root='if [ "$(id -u)" = 0 ]; then r=; else r="sudo -n"; fi'
for governor in /sys/devices/system/cpu/cpufreq/policy*/scaling_governor; do
  [ -f "$governor" ] && read -r old <"$governor" && [ "$old" != performance ] || continue
  printf '%s\necho %s | $r tee %s\n' "$root" "$old" "$governor" >>"governors.restore"
  echo performance | as_root tee "$governor" >/dev/null 2>&1 || { echo "refused $governor"; continue; }
  echo "locked governor performance of ${governor%/*}"
done
if command -v jetson_clocks >/dev/null; then
  if as_root jetson_clocks --store "$PWD/clocks.store" >/dev/null 2>&1; then
    printf '%s\n$r jetson_clocks --restore %s\n' "$root" "$PWD/clocks.store" >"clocks.restore"
    if as_root jetson_clocks >/dev/null 2>&1; then echo "locked jetson_clocks"; else echo "refused jetson_clocks"; fi
  else
    echo "refused jetson_clocks --store"
  fi
elif command -v nvidia-smi >/dev/null; then
  largest=$(nvidia-smi --query-gpu=clocks.max.sm --format=csv,noheader,nounits 2>/dev/null | head -n 1)
  printf '%s\n$r nvidia-smi -rgc\n' "$root" >"gpu.restore"
  if [ -n "$largest" ] && as_root nvidia-smi -lgc "$largest" >/dev/null 2>&1; then
    echo "locked GPU at $largest MHz"
  else
    rm -f gpu.restore
    echo "refused nvidia-smi -lgc"
  fi
fi
"""
"""Prints what it locked and what was refused, a line each; it runs in the session's folder."""
_LIMIT_S = 60.0


def lock(shell: Callable[[str, float], Completed], device: str) -> tuple[str, ...]:
    """Locks the clocks of a device; returns what was locked.

    Args:
        shell: runs a script in the session's folder there, within some seconds.
        device: as users write it.

    Raises:
        DeviceFailed: it has no clocks that can be locked, or refuses it.
    """
    lines = [line.strip().partition(" ") for line in shell(SCRIPT, _LIMIT_S).out.splitlines()]
    locked = tuple(rest for word, _, rest in lines if word == "locked")
    refused = [rest for word, _, rest in lines if word == "refused"]
    if refused:
        raise DeviceFailed(
            f"{device} refuses to lock its clocks ({', '.join(refused)}): that takes root, so let sudo run there "
            "without a password, or leave --lock-clocks out."
        )
    if not locked:
        raise DeviceFailed(f"{device} has no clocks that could be locked: leave --lock-clocks out.")
    return locked
