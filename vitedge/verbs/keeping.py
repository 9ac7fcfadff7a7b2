# SPDX-License-Identifier: Apache-2.0
"""Keeps bundles of ``compare``: the recommended one, or each in a folder of its own below the output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vitedge.files.bundle import size_of
from vitedge.files.digest import hash_file
from vitedge.files.plain import to_dict
from vitedge.files.replacing import COMPARISON, replacing
from vitedge.verbs.records import Comparison


@dataclass(frozen=True)
class Keeping:
    """Where bundles are kept, and which."""

    folder: Path
    """The bundle that is recommended; or the folder of them all."""
    force: bool = False
    """Replace what is there."""
    everything: bool = False
    """Keep every candidate that is within tolerance, in a folder called as it is, with the result as JSON."""


def keep(result: Comparison, bundles: Mapping[str, Path], keeping: Keeping) -> Comparison:
    """Copies bundles to the output, which appears when it is complete; none where nothing is recommended.

    Args:
        result: of the comparison.
        bundles: name of each candidate that is within tolerance to its bundle.
        keeping: where to, and which.

    Raises:
        OutputRefused: the output cannot be written, or the disk is full.
    """
    if not result.recommended:
        return result
    chosen = bundles if keeping.everything else {result.recommended: bundles[result.recommended]}
    with replacing(keeping.folder, force=keeping.force, needs=sum(map(size_of, chosen.values()))) as partial:
        if keeping.everything:
            kept = {name: str(keeping.folder / bundle.name) for name, bundle in bundles.items()}
            for bundle in bundles.values():
                shutil.copytree(bundle, partial / bundle.name)
        else:
            kept = {result.recommended: str(keeping.folder)}
            shutil.copytree(bundles[result.recommended], partial, dirs_exist_ok=True)
        result = replace(result, kept=kept, size=size_of(partial))
        if keeping.everything:
            _write_result(partial, result)
    return result


def _write_result(folder: Path, result: Comparison) -> None:
    """Writes the result, with the listing of all other files that lets ``--force`` replace them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}
    content = {"files": files, "artifacts": [], "comparison": to_dict(result)}
    (folder / COMPARISON).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
