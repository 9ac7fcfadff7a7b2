# SPDX-License-Identifier: Apache-2.0
"""Renders the table of devices that ``--for`` knows."""

from __future__ import annotations

from collections.abc import Mapping

from vitedge.devices.profiles import Profile
from vitedge.render.screen import document, lines, show, table


def render(known: Mapping[str, Profile], *, as_json: bool) -> None:
    """Prints the table of devices, with the source of each entry."""
    if as_json:
        return document(known)
    shown = table("profile", "formats", "opset", "Core ML", "precisions", "int8")
    for name, profile in known.items():
        opset = "-" if profile.opset is None else str(profile.opset)
        lists = (" ".join(profile.formats), opset, profile.coreml_target or "-", " ".join(profile.precisions))
        shown.add_row(name, *lists, profile.scheme)
    show(shown)
    for name, profile in known.items():
        built = f", engines for {' '.join(profile.gpus)}" if profile.gpus else ""
        lines(f"{name}: {profile.title}{built}", *(f"  {entry}: {source}" for entry, source in profile.sources.items()))
    return None
