# SPDX-License-Identifier: Apache-2.0
"""Commands that several results suggest to type next, each one that works on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from vitedge import registry
from vitedge.export.formats import DEFAULT, LOWERINGS
from vitedge.quantization.file.header import SUFFIX


def export_command(source: str, options: Sequence[str] = ()) -> str:
    """Returns the export of a checkpoint to every format whose packages are installed here.

    Args:
        source: a checkpoint, or a quantized file, which goes to one format: it was made for one target.
        options: words that were typed about a checkpoint, such as ``--set heads=3``: without them it is another model.
    """
    if source.endswith(SUFFIX):
        return f"vitedge export {shlex.quote(source)} -o BUNDLE --format {DEFAULT}"
    formats = [name for name, part in LOWERINGS.items() if part.module]
    here = [word for name in formats if not registry.missing(LOWERINGS, name) for word in ("--format", name)]
    return shlex.join(["vitedge", "export", source, *options, "-o", "BUNDLE", *here])


def kit_command(bundle: Path) -> str:
    """Returns what writes a kit beside a bundle, for a Mac to run and time what does not run here."""
    return shlex.join(["vitedge", "kit", "write", str(bundle), f"{bundle}-kit"])
