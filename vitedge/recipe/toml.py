# SPDX-License-Identifier: Apache-2.0
"""Recipes in TOML files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.files.plain import from_dict
from vitedge.recipe.export import ExportRecipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_entries(path: Path) -> dict[str, Any]:
    """Reads the entries of a recipe from a TOML file whose keys are fields of `ExportRecipe`.

    Raises:
        BadRecipe: the file is missing, is not TOML, or has an entry that does not exist.
    """
    try:
        entries: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadRecipe(f"{path} cannot be read as a recipe: {error}.") from error
    quantization = entries.get("quantization")
    if isinstance(quantization, dict) and "precision" in entries:
        quantization.setdefault("scheme", entries["precision"])
    from_dict(ExportRecipe, entries)
    return entries
