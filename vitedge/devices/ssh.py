# SPDX-License-Identifier: Apache-2.0
"""A machine that the system's ``ssh`` reaches, as a device."""

from __future__ import annotations

from vitedge.devices.remote import RemoteSession
from vitedge.devices.transports.ssh import Transport


class Session(RemoteSession):
    """A session with a machine that ssh reaches. See `vitedge.devices.session.Session`."""

    def __init__(self, address: str = "") -> None:
        super().__init__(Transport(address))
