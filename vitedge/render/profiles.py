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
        lines(f"{name}: {profile.title}{built}", *(f"  {source}" for source in _sources(profile, known)))
    return None


def _sources(profile: Profile, known: Mapping[str, Profile]) -> list[str]:
    """Returns the source of each entry, or of those that a profile does not share with the one that it is like."""
    shared = known[profile.like].sources if profile.like in known else {}
    own = [f"{entry}: {source}" for entry, source in profile.sources.items() if shared.get(entry) != source]
    return [*own, f"the others: as {profile.like}"] if shared else own
