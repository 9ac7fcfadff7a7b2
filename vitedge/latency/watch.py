# SPDX-License-Identifier: Apache-2.0
"""The state of a device over a measurement: read before it at rest, while models run, and told apart by model."""

from __future__ import annotations

import time
from collections.abc import Sequence

from vitedge.devices.facts import summary
from vitedge.devices.facts.watching import Sample
from vitedge.devices.session import Session
from vitedge.devices.watcher import Watcher
from vitedge.records import DeviceWatch

_MARGIN_S = 0.3
"""Seconds around a round in which a reading counts for it: readings are some tenths of a second apart."""


class Watch:
    """A device under watch: ``with Watch(session, idle_s) as watch: …``.

    Args:
        session: with the device.
        idle_s: seconds at rest before anything runs, over which its power at idle is read.
    """

    def __init__(self, session: Session, idle_s: float) -> None:
        self._session = session
        self._idle_s = idle_s
        self._watcher: Watcher | None = None
        self._idle: tuple[Sample, ...] = ()
        self._earlier: tuple[Sample, ...] = ()
        self.before = session.condition()
        """The device's condition before anything ran."""

    def __enter__(self) -> Watch:
        self._watcher = self._session.watch()
        time.sleep(self._idle_s)
        self._idle = self._watcher.all()
        return self

    def again(self) -> None:
        """Goes on after the connection was lost; the readings so far are kept."""
        if self._watcher is not None:
            self._earlier += self._watcher.all()
            self._watcher.close()
        self._watcher = self._session.watch()

    def record(self, spans: Sequence[tuple[float, float]], inferences: int) -> DeviceWatch | None:
        """Returns what was read in spans of time; None where nothing was.

        Args:
            spans: begin and end, in seconds since the start of the device's system; negative where it tells none.
            inferences: number of them that ran in the spans.
        """
        readings = self._earlier + (self._watcher.all() if self._watcher is not None else ())
        told = [span for span in spans if span[0] >= 0]
        within = tuple(sample for sample in readings if _is_within(sample.time_s, told))
        seconds = sum(end - begin for begin, end in told)
        if not within:
            return None
        return summary.record(within, self._idle, inferences, seconds, self.before)

    def __exit__(self, *error: object) -> None:
        if self._watcher is not None:
            self._watcher.close()


def _is_within(moment: float, spans: Sequence[tuple[float, float]]) -> bool:
    return any(begin - _MARGIN_S <= moment <= end + _MARGIN_S for begin, end in spans)
