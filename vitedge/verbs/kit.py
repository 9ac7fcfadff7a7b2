# SPDX-License-Identifier: Apache-2.0
"""The verb ``kit``: write what a Mac needs to run a bundle's package, and import what it computed there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitedge.devices.mac_kit import kit
from vitedge.files.bundle import size_of
from vitedge.records import Validation
from vitedge.verbs.records import WrittenKit


def write(bundle: str | Path, folder: str | Path, *, force: bool = False) -> WrittenKit:
    """Writes a verify kit: a folder that needs nothing of vitedge on a Mac.

    Args:
        bundle: one with a Core ML package; every file of it is checked first.
        folder: to be written in one step.
        force: replace the kit that is there.

    Raises:
        VitedgeError: as `vitedge.devices.mac_kit.kit.write_kit`.
    """
    written = kit.write_kit(Path(bundle), Path(folder), force=force)
    return WrittenKit(str(bundle), str(written), size_of(written))


def import_result(bundle: str | Path, result: str | Path) -> Validation:
    """Compares what a kit brought back with the bundle's reference outputs, and seals the reports into its manifest.

    Args:
        bundle: the one that the kit was made of.
        result: the ``result.npz`` that the kit's script wrote.

    Returns:
        One parity report for every package and choice of compute units, passed or not, and the bundle's size.

    Raises:
        VitedgeError: as `vitedge.devices.mac_kit.kit.import_result`.
    """
    checked = kit.import_result(Path(bundle), Path(result))
    return replace(checked, size=size_of(Path(bundle)))
