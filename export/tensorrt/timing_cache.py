# SPDX-License-Identifier: Apache-2.0
"""The timing cache of the classic TensorRT: measured times of kernels, which make the next build quicker.

TensorRT takes a cache for the GPU and the version that made it (NVIDIA's Python API, ``set_timing_cache``), so there is
a file for each pair.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.files.replacing import write_file
from vitedge.runtimes.cuda import Gpu, gpu


def path_of(given: str, device: Gpu, version: str) -> Path:
    """Returns the file for a GPU and a version: ``timing.cache`` is ``timing-SM86-geforce-rtx-3080-10.3.0.cache``."""
    path = Path(given)
    name = re.sub(r"[^a-z0-9]+", "-", device.name.lower().removeprefix("nvidia ")).strip("-")
    return path.with_name(f"{path.stem}-{device.capability}-{name}-{version}{path.suffix}")


def use_timing_cache(config: Any, given: str, version: str) -> None:
    """Gives a build the cache of its GPU and version, or an empty one.

    Args:
        config: TensorRT's ``IBuilderConfig``.
        given: the file that the user named; see `path_of`.
        version: of TensorRT.

    Raises:
        BadRecipe: the file cannot be read, or is not TensorRT's for this GPU.
    """
    path = path_of(given, gpu(), version)
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise BadRecipe(f"The timing cache {path} cannot be read: {error.strerror}.") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise BadRecipe(f"The timing cache {path} is damaged or of another GPU or driver: delete it.")


def keep_timing_cache(config: Any, request: EngineRequest, version: str) -> None:
    """Writes what a build has measured, where a cache was asked for."""
    given = request.options.get("timing_cache")
    if given is not None:
        path = path_of(str(given), gpu(), version)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, bytes(config.get_timing_cache().serialize()))
