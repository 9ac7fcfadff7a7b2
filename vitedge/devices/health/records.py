# SPDX-License-Identifier: Apache-2.0
"""The records of a check-up. Frozen dataclasses without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitedge.records.showing import Shown


@dataclass(frozen=True)
class Ability:
    """One thing that could be done, and whether it can."""

    name: str
    """Such as ``export coreml`` or ``run onnxruntime``."""
    state: str
    """``works``; ``broken``: it is installed and fails; ``missing``: it was asked for and is not installed;
    ``not here``: it is not installed, or this is no machine for it."""
    detail: str = ""
    """The version of what works, or why it does not."""
    remedy: str = ""
    """What to type; empty where nothing is to be done."""
    asked: bool = False
    """Whether the check-up fails where it does not work."""
    error: str = ""
    """What the library itself said."""


@dataclass(frozen=True)
class Remark:
    """One thing about the state of a device that makes it slower, or its measurements worth less."""

    text: str
    remedy: str = ""


@dataclass(frozen=True, repr=False)
class Checkup(Shown):
    """A check-up of a device: what ``vitedge doctor`` shows."""

    device: str
    """As users write it."""
    identity: Mapping[str, Any]
    """What the device is; see `vitedge.devices.facts.identity.identity`."""
    condition: Mapping[str, Any]
    """How it is; see `vitedge.devices.facts.condition.condition`."""
    abilities: tuple[Ability, ...]
    remarks: tuple[Remark, ...]
    fitting: tuple[str, ...]
    """Names of the profiles that are for the device, the nearest first."""
    profile: str = ""
    """The profile that was asked for; empty where none was."""
    broken: tuple[str, ...] = ()
    """Abilities that are asked for and broken."""
    missing: tuple[str, ...] = ()
    """Abilities that are asked for and missing."""
    notes: tuple[str, ...] = ()
    """Sentences about what was not checked."""
