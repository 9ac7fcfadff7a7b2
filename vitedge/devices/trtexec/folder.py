# SPDX-License-Identifier: Apache-2.0
"""Files of a run: sent to a folder of the device under names that tell their content, and read from there."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitedge.devices.transports.transport import Transport, quoted
from vitedge.devices.trtexec.options import check_name
from vitedge.errors import DeviceFailed


def make_folder(transport: Transport, folder: str) -> None:
    """Makes a folder on the device, unless it is there.

    Raises:
        DeviceFailed: it cannot be made.
    """
    done = transport.run(f"mkdir -p {quoted([folder])}")
    if done.code != 0:
        raise DeviceFailed(f"{transport.name} cannot make the folder {folder}: {done.last_words.rstrip('.')}.")


def send_inputs(transport: Transport, folder: str, feeds: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Sends arrays as raw bytes, little-endian; returns the option of trtexec that names them.

    Args:
        transport: to the device.
        folder: there.
        feeds: name of an input to its array, of the type that the engine declares.
    """
    pairs = []
    with tempfile.TemporaryDirectory(prefix="vitedge-") as here:
        for name, array in feeds.items():
            check_name(name)
            content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            place = f"input-{hashlib.sha256(content).hexdigest()[:16]}.bin"
            (Path(here) / place).write_bytes(content)
            transport.send(Path(here) / place, f"{folder}/{place}")
            pairs.append(f"{name}:{place}")
    return f"--loadInputs={','.join(pairs)}"


def read_bytes(transport: Transport, there: str) -> bytes:
    """Returns the content of a file of the device."""
    with tempfile.TemporaryDirectory(prefix="vitedge-") as here:
        path = Path(here) / "fetched"
        transport.fetch(there, path)
        return path.read_bytes()


def read_text(transport: Transport, there: str) -> str:
    """Returns the text of a file of the device; bytes that are no UTF-8 are replaced."""
    return read_bytes(transport, there).decode(errors="replace")
