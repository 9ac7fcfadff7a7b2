# SPDX-License-Identifier: Apache-2.0
"""What an unfinished pruning has computed, on disk: a killed command goes on where it was when it is typed again.

If nothing can be kept there, or another run of the same command has deleted it, results are computed anew.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vitedge.errors import OutputRefused
from vitedge.files.cache import find_root
from vitedge.files.replacing import clear_debris, write_file
from vitedge.stopping import keep

KEPT_DAYS = 14
"""Days after which what a command has left is deleted: nobody will type it again."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class Journal:
    """Results by name; each is a file in a folder of its own.

    Args:
        key: digest of everything that decides the results.
        folder: of all journals; None is ``pruning`` beside the user's cache of calibrations.
    """

    def __init__(self, key: str, folder: Path | None = None) -> None:
        self._root = find_root() / "pruning" if folder is None else folder
        self._folder = self._root / key
        self._before = {path.name for path in self._folder.glob("*.safetensors")}
        self.resumed = 0
        """Number of an earlier run's results that were taken."""
        self.refused = ""
        """Why nothing can be kept, or empty."""
        self._delete_old()

    def read(self, name: str) -> dict[str, Tensor] | None:
        """Returns the tensors of an earlier run, or None where there are none that can be read."""
        with contextlib.suppress(OSError, SafetensorError, ValueError):
            path = self._path(name)
            found = load(path.read_bytes())
            self.resumed += path.name in self._before
            return found
        return None

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keeps tensors under a name, or says in `refused` why it cannot; then nothing more is kept."""
        if self.refused:
            return
        path = self._path(name)
        content = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_debris(path)
            write_file(path, content)
            keep("pruning", "what was ranked and refitted; the same command goes on from there.")
        except (OSError, OutputRefused) as error:
            self.refused = str(error)

    def clear(self) -> None:
        """Deletes everything: the pruned model was written, or cannot be made."""
        shutil.rmtree(self._folder, ignore_errors=True)
        keep("pruning", "")

    def _delete_old(self) -> None:
        """Deletes what commands have left that were killed long ago."""
        with contextlib.suppress(OSError):
            for folder in self._root.iterdir():
                if folder != self._folder and folder.stat().st_mtime < time.time() - KEPT_DAYS * 86400:
                    shutil.rmtree(folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{_UNSAFE.sub('_', name)}.safetensors"
