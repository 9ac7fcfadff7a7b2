# SPDX-License-Identifier: Apache-2.0
"""Facts about this machine and its state.

Every reading is best effort. Facts that a system does not offer are left out of the record; nothing here fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitedge.devices import facts
from vitedge.devices.facts import reading
from vitedge.devices.processors import ROOT, cores, processors


def identity(root: Path = ROOT, python: str = "") -> dict[str, Any]:
    """Returns the facts that do not change during a measurement; see `vitedge.devices.facts.identity.identity`.

    ``cores`` and ``processors`` are those that this process may use.

    Args:
        root: folder in which ``proc``, ``sys``, ``etc`` and ``usr`` are looked for.
        python: interpreter whose packages are imported and asked; empty asks this process' for their versions alone.
    """
    told = facts.identity(reading.local(reading.IDENTITY, root, python))
    return {**told, "cores": cores(root), "processors": processors(root)}


def condition(root: Path = ROOT) -> dict[str, Any]:
    """Returns the facts that do change; see `vitedge.devices.facts.condition.condition`.

    Args:
        root: folder in which ``proc`` and ``sys`` are looked for.
    """
    return facts.condition(reading.local(reading.CONDITION, root))
