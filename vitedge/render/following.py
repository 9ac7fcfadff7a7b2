# SPDX-License-Identifier: Apache-2.0
"""Commands that several results suggest to type next; each works on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from vitedge import registry
from vitedge.export.formats import DEFAULT, LOWERINGS
from vitedge.quantization.file.header import SUFFIX


def export_command(source: str, options: Sequence[str] = ()) -> str:
    """Returns the command that exports a checkpoint to every format whose packages are installed here.

    Args:
        source: a checkpoint, or a quantized file, which goes to one format: it was made for one target.
        options: options about the checkpoint that were typed, such as ``--set heads=3``: they are part of the model.
    """
    if source.endswith(SUFFIX):
        return shlex.join(["vitedge", "export", source, "-o", free("BUNDLE"), "--format", DEFAULT])
    here = [word for name in LOWERINGS if not registry.missing(LOWERINGS, name) for word in ("--format", name)]
    return shlex.join(["vitedge", "export", source, *options, "-o", free("BUNDLE"), *here])


def kit_command(bundle: Path) -> str:
    """Returns the command that writes a verify kit beside a bundle, for a Mac to run packages that do not run here."""
    return shlex.join(["vitedge", "kit", "write", str(bundle), free(f"{bundle}-kit")])


def free(name: str) -> str:
    """Returns a name that nothing has yet: the name itself, or one with a number behind it."""
    numbered = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next((one for one in numbered if not Path(one).exists()), name)
