# SPDX-License-Identifier: Apache-2.0
"""Manifests of earlier formats, brought into the form of the current one before they become records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROGRAM = "program"
"""Key of the record of a quantized program whose form is not told: it was the source of an export."""


def from_first_format(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a manifest of format 1 in the form of format 2.

    Format 1 called a tolerance ``bar``, and said ``on``, ``search`` or ``off`` of what is true or false now. It kept
    among the settings of quantization whether an export times its file, and the measured times among the results of
    quantization, both as ``verdict``. Neither is part of quantization: timing is asked for by itself, and its result
    is ``speed``. A recipe had one profile at most, and all artifacts of an export came from one quantized program.

    Args:
        content: the plain values of ``manifest.json``, without the seal.
    """
    current = {**_with_tolerances(content), "format_version": 2}
    recipe, record = current.get("recipe"), current.get("quantization")
    if isinstance(recipe, dict) and "profile" in recipe:
        profile = recipe.pop("profile")
        recipe["profiles"] = [] if profile is None else [profile]
    if isinstance(recipe, dict) and isinstance(recipe.get("quantization"), dict):
        settings = {name: _switched(value) for name, value in _without_verdict(recipe["quantization"]).items()}
        current["recipe"] = {**recipe, "quantization": settings}
    if isinstance(record, dict):
        current["quantization"], current["speed"] = {PROGRAM: _without_verdict(record)}, record.get("verdict")
    else:
        current["quantization"] = {}
    return current


def _with_tolerances(value: Any) -> Any:
    """Returns plain values with the key ``bar`` renamed to ``tolerance``, at every depth."""
    if isinstance(value, Mapping):
        return {"tolerance" if key == "bar" else key: _with_tolerances(entry) for key, entry in value.items()}
    return [_with_tolerances(entry) for entry in value] if isinstance(value, list) else value


def _switched(value: Any) -> Any:
    """Returns a setting as a bool where it was a word for one."""
    return {"on": True, "search": True, "off": False}.get(value, value) if isinstance(value, str) else value


def _without_verdict(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if name != "verdict"}
