# SPDX-License-Identifier: Apache-2.0
"""What an unfinished pruning has computed, on disk: a killed command goes on where it was when it is typed again."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitedge.calibration.cache import find_folder
from vitedge.files.replacing import clear_debris, replacing_file

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class Journal:
    """Results by name; each is a file in a folder of its own.

    Args:
        key: digest of everything that decides the results.
        folder: of all journals; None is ``pruning`` beside the user's cache of calibrations.
    """

    def __init__(self, key: str, folder: Path | None = None) -> None:
        self._folder = (find_folder().parent / "pruning" if folder is None else folder) / key
        self._before = {path.name for path in self._folder.glob("*.safetensors")}
        self.resumed = 0
        """Number of an earlier run's results that were taken."""

    def read(self, name: str) -> dict[str, Tensor] | None:
        """Returns the tensors of an earlier run, or None where there are none that can be read."""
        path = self._path(name)
        with contextlib.suppress(OSError, SafetensorError, ValueError):
            found = load_file(path)
            self.resumed += path.name in self._before
            return found
        return None

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keeps tensors under a name.

        Raises:
            OutputRefused: the folder cannot be written, or the disk is full.
        """
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_debris(path)
        with replacing_file(path) as partial:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial)

    def clear(self) -> None:
        """Deletes everything: the pruned model was written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{_UNSAFE.sub('_', name)}.safetensors"
