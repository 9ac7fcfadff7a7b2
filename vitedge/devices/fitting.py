# SPDX-License-Identifier: Apache-2.0
"""Which profiles fit a device that was asked, the nearest first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitedge.devices.profiles import Fit, Profile, profiles
from vitedge.errors import BadRecipe

AUTO = "auto"
"""The profile that fits the device, in place of a name."""
WEIGHTS: Mapping[str, int] = {"model": 16, "soc": 16, "gpu": 8, "os": 4, "processor": 2, "architecture": 1}
"""Entry of a profile's `Fit` to what it counts: a profile that says more of the device is nearer to it."""
ARCHITECTURES: Mapping[str, str] = {"amd64": "x86_64", "arm64": "aarch64"}
"""Names of Windows and macOS to those of Linux."""


def fitting(identity: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the profiles that are for a device, the nearest first; none where nothing fits.

    Args:
        identity: what the device told, as of `vitedge.devices.facts.identity.identity`.
    """
    scores = {name: _score(profile, identity) for name, profile in profiles().items()}
    return tuple(sorted((name for name, score in scores.items() if score), key=lambda name: -scores[name]))


def fitting_profile(identity: Mapping[str, Any], device: str) -> str:
    """Returns the name of the profile that is nearest to a device.

    Args:
        identity: what the device told; see `vitedge.devices.facts.identity.identity`.
        device: as users write it.

    Raises:
        BadRecipe: none is for it.
    """
    found = fitting(identity)
    if not found:
        kind = identity.get("architecture") or "unknown"
        raise BadRecipe(
            f"No profile is for {device}, whose architecture is {kind}: name one with --for; see vitedge profiles."
        )
    return found[0]


def _score(profile: Profile, identity: Mapping[str, Any]) -> int:
    """Returns how much a profile says that is so of the device; 0 where something is not so."""
    fits = profile.fits
    if fits is None or not _matches(fits, identity):
        return 0
    if profile.gpus and identity.get("sm") not in profile.gpus:
        return 0
    said = sum(weight for name, weight in WEIGHTS.items() if getattr(fits, name))
    installed = profile.builder and profile.builder in identity.get("versions", {})
    return said + len(fits.isa) + (2 if profile.gpus else 0) + (4 if installed else 0)


def _matches(fits: Fit, identity: Mapping[str, Any]) -> bool:
    machine = str(identity.get("architecture", "")).lower()
    if fits.architecture and ARCHITECTURES.get(machine, machine) != fits.architecture:
        return False
    for name in ("soc", "gpu", "model", "processor", "os"):
        pattern = getattr(fits, name)
        if pattern and not re.search(pattern, str(identity.get(name, ""))):
            return False
    has = set(identity.get("isa", ()))
    if not all(has & set(extension.split("|")) for extension in fits.isa):
        return False
    # Jetson's driver is its release of L4T: a GPU with it is none that a card's profile is for.
    release = str(identity.get("l4t", ""))
    if not fits.l4t:
        return not (fits.gpu and release)
    return _release(fits.l4t[0]) <= _release(release) <= _release(fits.l4t[1])


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part[:9]) for part in re.findall(r"[0-9]+", text))
