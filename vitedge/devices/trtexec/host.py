# SPDX-License-Identifier: Apache-2.0
"""The trtexec of a device, looked for when it is needed, and the workers that it makes."""

from __future__ import annotations

from vitedge.devices.transports.transport import Transport
from vitedge.devices.trtexec.program import Trtexec, find_trtexec
from vitedge.devices.trtexec.worker import TrtexecWorker
from vitedge.errors import MissingBackend


class Host:
    """See the module.

    Args:
        transport: to the device.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._program: Trtexec | None = None
        self._refusal = ""

    def refusal(self) -> str:
        """Returns why no engine runs there by trtexec; empty where one does."""
        if self._program is None and not self._refusal:
            try:
                self._program = find_trtexec(self.transport)
            except MissingBackend as missing:
                self._refusal = str(missing)
        return self._refusal

    @property
    def version(self) -> str:
        """The version of TensorRT; empty where there is no trtexec."""
        return "" if self.refusal() or self._program is None else self._program.version

    def worker(self, folder: str, label: str, patience_s: float) -> TrtexecWorker:
        """Returns a worker for one engine.

        Args:
            folder: of the device, for what trtexec writes; it is made.
            label: the engine's name in sentences.
            patience_s: seconds that a run may take beside its warm-up and samples.

        Raises:
            MissingBackend: there is no trtexec.
        """
        refused = self.refusal()
        if self._program is None:
            raise MissingBackend(refused)
        return TrtexecWorker(self._program, folder, label, patience_s)
