# SPDX-License-Identifier: Apache-2.0
"""Refuses exports that cannot succeed on this machine or on a device, before any work is done for them."""

from __future__ import annotations

from vitedge import registry
from vitedge.devices.checking import refusal_there
from vitedge.devices.session import connect
from vitedge.errors import MissingBackend
from vitedge.export.formats import LOWERINGS
from vitedge.progress import stage
from vitedge.recipe import ResolvedRecipe
from vitedge.registry import LOCAL
from vitedge.verbs.targets import targets


def refuse_missing(recipe: ResolvedRecipe) -> None:
    """Refuses a format whose packages are not installed, or whose settings do not exist, before any work is done."""
    for target in targets(recipe):
        registry.load(LOWERINGS, target.format).check_settings(target.recipe)


def refuse_device(recipe: ResolvedRecipe) -> None:
    """Refuses a device that is out of reach, or that runs nothing of what will be written, before any work is done.

    Raises:
        DeviceFailed: it is out of reach.
        MissingBackend: none of the formats runs there.
    """
    registry.check_device(recipe.device)
    if recipe.device == LOCAL:
        return
    with stage(f"asking {recipe.device} what it runs"), connect(recipe.device) as session:
        refusals = [refusal_there(session, target.format) for target in targets(recipe)]
    if all(refusals) and not any(target.engine for target in targets(recipe)):
        raise MissingBackend(" ".join(dict.fromkeys(refusals)))
