# SPDX-License-Identifier: Apache-2.0
"""The protocol of every runtime, with one verb: run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict, Protocol

import numpy as np

from vitedge.errors import BadRecipe
from vitedge.records import TensorSpec

Arrays = Dict[str, "np.ndarray[Any, Any]"]


class Runtime(Protocol):
    """Runs one artifact: ``with Runtime(path) as runtime: outputs = runtime.run({"image": images})``.

    The constructor opens nothing; `__enter__` loads and `__exit__` frees, so that load time and memory can be told
    apart from runs.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """Inputs and outputs that the artifact declares, known once it is loaded; for a module both stay empty."""

    def __init__(self, source: Any, threads: int | None = None, intermediates: tuple[str, ...] = ()) -> None:
        """Takes a path (the torch runtime: a module), the number of threads, and values to return beside the outputs.

        ``threads`` None is the library's own choice. ``intermediates`` are values of `Artifact.blocks` (the torch
        runtime: names of submodules).
        """

    def __enter__(self) -> Runtime: ...

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Runs one inference: inputs by name in, outputs and intermediates by name out."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what really runs: the library and its version, the provider, the threads."""
        ...

    def __exit__(self, *error: object) -> None: ...


def check_names(path: Path, inputs: tuple[TensorSpec, ...], feeds: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Checks that an artifact is fed all of its inputs and nothing else.

    Raises:
        BadRecipe: the feeds do not have the names of the inputs.
    """
    wanted = {spec.name for spec in inputs}
    if set(feeds) != wanted:
        raise BadRecipe(f"{path} takes {', '.join(sorted(wanted))}, not {', '.join(sorted(feeds)) or 'nothing'}.")
